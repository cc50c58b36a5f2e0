"""A training rank that dies with kill -9 in the middle of a step: KILL_RANK and KILL_STEP say which and when."""

import os
import signal
import sys
from typing import Any

from trainer import loop
from trainer.__main__ import main

take_step = loop._Training._step


def dying_step(self: loop._Training, step: int) -> Any:
    if step == int(os.environ["KILL_STEP"]) and self.launch.rank == int(os.environ["KILL_RANK"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(self, step)


loop._Training._step = dying_step
sys.exit(main())
