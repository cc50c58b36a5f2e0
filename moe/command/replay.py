"""replay: a recorded trace under another placement or dispatch mode."""

import argparse
import sys
from pathlib import Path

from moe.command.verb import Verb
from netsim.foundation.outputs import OutputFile

_DESCRIPTION = """\
Rewrites a recorded collective trace: the result is the trace that the same run would
have left under another placement or dispatch mode. This is exact because the router's
choices do not depend on where the experts are. Simulate the result with
`python -m netsim compare`.
"""
_EXAMPLES = """\
example:
  python -m moe replay runs/demo/traces/collectives.jsonl --routing runs/demo/traces/routing.npz \\
      --placement placement.json --out replayed.jsonl
"""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="TRACE", help="recorded collective trace (.jsonl)")
    command.add_argument("--routing", type=Path, required=True, metavar="FILE", help="routing trace of the same run")
    command.add_argument(
        "--placement", type=Path, required=True, metavar="FILE", help="placement to rewrite the trace for"
    )
    modes = ("coherent", "home", "capped", "copies", "hierarchical")
    command.add_argument("--dispatch", choices=modes, help="default: the placement's own")
    command.add_argument(
        "--replicas", choices=("even", "least_loaded"), help="choice among replicas (default: that of the run)"
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="trace to write (.jsonl)")


def _run(arguments: argparse.Namespace) -> None:
    from moe.collective_trace import read, write
    from moe.placement.placement import Placement
    from moe.replay import kept_rollouts, replay
    from moe.routing_trace import RoutingTrace

    header, records = read(arguments.source)
    routing, placement = RoutingTrace.read(arguments.routing), Placement.read(arguments.placement)
    header, records = replay(header, records, routing, placement, arguments.dispatch, arguments.replicas)
    write(arguments.out, header, records)
    if kept := kept_rollouts(header):
        print(f"moe replay: {kept}", file=sys.stderr)
    print(f"wrote {arguments.out}: {len(records)} collectives in {arguments.dispatch or placement.dispatch} dispatch")


REPLAY = Verb(
    "replay",
    "rewrite a collective trace for a placement",
    lambda: _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    _run,
    lambda options: [(OutputFile("--out", ('"source":"replayed"',)), options.out)],
)
