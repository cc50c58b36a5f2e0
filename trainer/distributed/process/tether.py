"""A command that ends with the process that started it: python -m trainer.distributed.process.tether PID COMMAND..."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from trainer.distributed.process.launcher import PR_SET_PDEATHSIG


def tethered(command: Sequence[str]) -> list[str]:
    """The same command, killed by Linux as soon as the calling process is gone. On other systems it goes on."""
    return [sys.executable, "-m", "trainer.distributed.process.tether", str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """Becomes the command; `arguments` are the number of the process to end with, then the command."""
    parent, command = int(arguments[0]), list(arguments[1:])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # outlives the execve below
        if os.getppid() != parent:  # it was gone before the system was told
            raise SystemExit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
