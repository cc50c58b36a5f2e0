"""What ties a rank to the process that launched it."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
STAGE = "FLOWFABRIC_STAGE"
"""Variable that names the stage whose ranks these are: stages of one start share torchrun's store."""


def end_with_launcher() -> None:
    """Makes Linux kill this process as soon as the torchrun agent that started it is gone, whatever became of that.

    A rank whose agent was killed would otherwise go on, keep the run's folder and write to it beside its successor.
    Without torchrun nothing is changed: a run that a person put into the background outlives the shell. Other systems
    have no such bond; there the lock on the run's folder keeps the successor out until the old rank has ended.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or sys.platform != "linux":
        return
    agent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent:  # it was killed before the system was told
        os._exit(1)


def end_launcher() -> None:
    """Ends the torchrun agent that started this process, which would start refused ranks again as if they had failed.

    An agent that gets SIGTERM ends its ranks and tries no restart; torchrun has no exit code by which a rank could ask
    for that. A stage leaves it to the process that started it, which ends with the same exit code.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or STAGE in os.environ:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this rank ends with an exit code of its own
    os.kill(os.getppid(), signal.SIGTERM)
