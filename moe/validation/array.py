"""Reading arrays of a user's file: what it can end in besides the array."""

import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from tokenize import TokenError

UNREADABLE = (
    *(ValueError, TypeError, OverflowError, KeyError, IndexError, EOFError, MemoryError),
    *(SyntaxError, TokenError),  # of a header, which numpy reads as Python
    *(RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error),  # of an archive
)
"""What numpy and zipfile raise over a file that holds no plain array: damaged, pickled, or larger than any memory."""


@contextmanager
def quietly() -> Iterator[None]:
    """Reads without what numpy warns of where a header looks as if Python 2 had written it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
