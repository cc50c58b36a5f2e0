"""A training rank that things happen to: DISTURB lists them as `step:rank:what`, with semicolons between.

`NaN`: the rank's first loss in that step is not a number. `raise`: the rank fails. `hang`: it does nothing for some
seconds, and is then gone. A signal, `SIGTERM`: it is sent to the rank, and with ` agent` behind it to the process that
launched the rank.
"""

import os
import signal
import sys
import time
from typing import Any

from trainer import loop
from trainer.__main__ import main
from trainer.process import waiting, watchdog

take_step = loop._Training._step
HANGS_S = 15.0
DISTURBANCES = [tuple(one.split(":")) for one in os.environ["DISTURB"].split(";")]


def disturbed_step(self: loop._Training, step: int) -> Any:
    """Takes a step after what happens at its beginning."""
    for _, _, what in (one for one in DISTURBANCES if one[:2] == (str(step), str(self.launch.rank))):
        name, *target = what.split()
        if name == "NaN":
            spoil_a_loss(self.task)
        elif name == "raise":
            raise RuntimeError("lightning struck")
        elif name == "hang":
            stay_away()
        else:
            os.kill(os.getppid() if target else os.getpid(), signal.Signals[name])
    return take_step(self, step)


def stay_away() -> None:
    """Does nothing for longer than the other ranks wait."""
    time.sleep(HANGS_S)
    os._exit(1)


def spoil_a_loss(task: Any) -> None:
    """Makes the next loss NaN, and the gradients that follow from it."""
    unspoilt = task.loss

    def spoilt(*arguments: Any, **named: Any) -> Any:
        task.loss = unspoilt
        terms = unspoilt(*arguments, **named)
        return terms._replace(values=terms.values * float("nan"))

    task.loss = spoilt


loop._Training._step = disturbed_step
waiting.PATIENCE_S, watchdog.LATE_S = 2.0, 1.0
sys.exit(main())
