"""The trainer's own command line in a process whose device is the pretend one, for :func:`tests.forked.command`."""

import sys

import torch

from tests.pretend.libraries import use
from trainer.__main__ import main
from trainer.distributed.groups import Launch

use()
Launch.device = property(lambda _: torch.device("pretend", 0))  # pyright: ignore[reportAttributeAccessIssue]
sys.exit(main())
