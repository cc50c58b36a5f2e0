"""The program netsim and its verbs."""

import argparse

from netsim.command.calibrate import CALIBRATE
from netsim.command.files import EXPORT, IMPORT, KEYS
from netsim.command.simulate import COMPARE, SWEEP
from netsim.engine.limits import LimitError
from netsim.foundation.command import FAILED, Program


class _Netsim(Program):
    """The program netsim. A `Refusal` is wrong input, and any other error is a failure in one line."""

    def ending(self, error: BaseException, options: argparse.Namespace) -> tuple[int, str]:
        if isinstance(error, LimitError):
            return FAILED, " ".join(str(error).split())
        problem = f"{type(error).__name__}: {error}; use --debug to see where"
        return super().ending(error, options) or (FAILED, " ".join(problem.split()))

    def misused(self, message: str) -> str:
        return f"command line: {message}"


PROGRAM = _Netsim(
    "netsim",
    (COMPARE, SWEEP, CALIBRATE, EXPORT, IMPORT, KEYS),
    "Predicts what a network does with the traffic of distributed training.",
    prog="netsim",
)
