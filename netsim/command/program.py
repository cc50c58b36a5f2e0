"""The program netsim: its verbs, and compilation ahead of use."""

import argparse
import sys
from typing import Any

from netsim.command.files import EXPORT, IMPORT, KEYS
from netsim.command.simulate import COMPARE, SWEEP
from netsim.documents import LimitError
from netsim.foundation.command import FAILED, Program, Request, Verb

_COMPILE = """\
Compiles every engine, two to four minutes once for each version, so that no later command waits for it. For images of
containers and for machines that many use; the compiled code lies beside the sources.

example:
  python -m netsim compile
"""


_FABRIC = {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 2}
_EXCHANGE = {"kind": "collective", "op": "all_to_all", "bytes_per_rank": "16KB"}
_RING = {"kind": "collective", "op": "all_reduce", "bytes_per_rank": "16KB"}
_COMPILED: dict[str, dict[str, Any]] = {
    "event": {"engine": "event"},
    "windowed": {"engine": "windowed"},
    "event, with pauses": {"engine": "event", "flow_control": {"kind": "pfc"}},
    "windowed, with pauses": {"engine": "windowed", "flow_control": {"kind": "pfc"}},
    "exact": {"engine": "exact"},
    "fluid": {"engine": "fluid"},
    "fast-forward": {"workload": _RING},
    "flows that have ended": {"engine": "event", "topology": {**_FABRIC, "hosts_per_leaf": 70}},
}
"""Code, and the scenario that compiles it; two engines have code for queues only where links need them."""


def _compile(request: Request) -> None:  # noqa: ARG001
    from netsim.compare import run_one
    from netsim.prepare import prepare
    from netsim.scenario import read_scenario

    for name, changes in _COMPILED.items():
        print(f"netsim compile: {name}", file=sys.stderr, flush=True)
        fabric = {"format": "flowfabric.scenario/1", "topology": _FABRIC, "workload": _EXCHANGE}
        scenario = read_scenario(fabric | {"transports": ["ecmp"], "seeds": [0]} | changes)
        run_one(prepare(scenario, "scenario"), scenario.transports[0], seed=0)


COMPILE = Verb(
    name="compile",
    summary="compile every engine ahead of its first use",
    description=_COMPILE,
    request=Request,
    run=_compile,
    following="python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/fabric",
)


class _Netsim(Program):
    """Only what is refused is wrong input: another error, whatever it is, is a failure in one line."""

    def ending(self, error: BaseException, options: argparse.Namespace) -> tuple[int, str]:
        if isinstance(error, LimitError):
            return FAILED, " ".join(str(error).split())
        problem = f"{type(error).__name__}: {error}; use --debug to see where"
        return super().ending(error, options) or (FAILED, " ".join(problem.split()))

    def misused(self, message: str) -> str:
        return f"command line: {message}"


PROGRAM = _Netsim(
    "netsim",
    (COMPARE, SWEEP, COMPILE, EXPORT, IMPORT, KEYS),
    "Predicts what a network does with the traffic of distributed training.",
    prog="netsim",
)
