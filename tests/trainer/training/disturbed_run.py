"""A training rank that things happen to: DISTURB lists them as `step:rank:what`, with semicolons between.

`NaN`: the rank's first loss in that step is not a number. `raise`: the rank fails. `hang`: it does nothing until it has
told where it is, and is then gone. A signal, `SIGTERM`: it is sent to the rank, and with ` agent` behind it to the
process that launched the rank, which hands it on.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.__main__ import main
from trainer.distributed.process import debug, hang_detector
from trainer.training import loop
from trainer.training.rank import Training

take_step = loop.take_step
DISTURBANCES = [tuple(one.split(":")) for one in os.environ["DISTURB"].split(";")]


def disturbed_step(run: Training, step: int) -> Any:
    """Takes a step after what happens at its beginning."""
    for _, _, what in (one for one in DISTURBANCES if one[:2] == (str(step), str(run.launch.rank))):
        name, *target = what.split()
        if name == "NaN":
            spoil_a_loss(run.task)
        elif name == "raise":
            raise RuntimeError("lightning struck")
        elif name == "hang":
            stay_away(run.config.run.dir / "debug" / f"rank_{run.launch.rank:05d}_stacks.txt")
        else:
            os.kill(os.getppid() if target else os.getpid(), signal.Signals[name])
            wait_until(lambda: run.stop.made)
    return take_step(run, step)


def stay_away(stacks: Path) -> None:
    """Never comes back to the other ranks."""
    wait_until(stacks.exists)
    os._exit(1)


def wait_until(condition: Callable[[], bool]) -> None:
    """Gives up after a minute."""
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)


def spoil_a_loss(task: Any) -> None:
    """Makes the next loss NaN, and the gradients that follow from it."""
    unspoilt = task.loss

    def spoilt(*arguments: Any, **named: Any) -> Any:
        task.loss = unspoilt
        terms = unspoilt(*arguments, **named)
        return terms._replace(values=terms.values * float("nan"))

    task.loss = spoilt


loop.take_step = disturbed_step
debug.PATIENCE_S, hang_detector.LATE_S = 2.0, 1.0
sys.exit(main())
