"""Every reader of a file that a user gives."""

from tests.fuzz import moe_readers, netsim_readers, trainer_readers
from tests.fuzz.reader import Reader

READERS: tuple[Reader, ...] = (*trainer_readers.readers(), *moe_readers.readers(), *netsim_readers.readers())
