"""price: what a placement saves a recorded run."""

import argparse
import sys
from pathlib import Path

from moe.command.verb import Verb
from netsim.foundation.outputs import OutputFolder

_DESCRIPTION = """\
Replays a recorded run under a placement, simulates the recorded and the replayed
trace on a fabric with `python -m netsim compare`, and prints one table: bytes of the
expert layers between ranks and nodes, the busiest rank, the time of the exchanges as
the alpha-beta model predicts it, and the simulated time of a step. The recorded trace
must be that of the placement in use, to the byte (--current; contiguous by default).

written to DIR:
  replayed.jsonl   the trace under the placement
  netsim/          both simulations; report.html has the pictures
  price.json       the figures of the table and the digests of what they are made of;
                   `python -m trainer report RUN --price DIR` shows them
"""
_EXAMPLES = """\
example:
  python -m moe price runs/demo/traces/collectives.jsonl --routing runs/demo/traces/routing.npz \\
      --placement runs/demo/placement.json --scenario configs/scenarios/two_nodes.yaml --out runs/demo/price
"""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="TRACE", help="recorded collective trace (.jsonl)")
    command.add_argument("--routing", type=Path, required=True, metavar="FILE", help="routing trace of the same run")
    command.add_argument("--placement", type=Path, required=True, metavar="FILE", help="placement to price")
    command.add_argument("--scenario", type=Path, required=True, metavar="FILE", help="netsim's scenario; its fabric")
    command.add_argument("--current", type=Path, metavar="FILE", help="placement of the run (default: contiguous)")
    command.add_argument(
        "--dispatch",
        choices=("coherent", "home", "capped", "copies", "hierarchical"),
        help="mode under the placement (default: the placement's own)",
    )
    command.add_argument(
        "--cost",
        metavar="RATES",
        help="rates of a rank's links for predictions, intra=900Gbps,inter=100Gbps[,latency=5us] "
        "(default: those of the fabric, if it is made of hosts)",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def _run(arguments: argparse.Namespace) -> None:
    from moe.collective_trace import read_header
    from moe.placement.topology import Topology
    from moe.price.price import PriceRequest, price
    from moe.price.table import print_table
    from moe.replay import kept_rollouts

    rates = None
    if arguments.cost is not None:
        rates = Topology.parse(arguments.cost, 1, 1).rates
        if rates is None:
            raise ValueError(f"cost: names no rates ({arguments.cost}); give intra=900Gbps,inter=100Gbps")
    found = price(
        PriceRequest(
            trace=arguments.source,
            routing=arguments.routing,
            placement=arguments.placement,
            current=arguments.current,
            scenario=arguments.scenario,
            dispatch=arguments.dispatch,
            rates=rates,
            out=arguments.out,
        )
    )
    print_table(found)
    if kept := kept_rollouts(read_header(arguments.source)):
        print(f"moe price: {kept}", file=sys.stderr)
    print(f"wrote {arguments.out / 'price.json'} and {arguments.out / 'netsim' / 'report.html'}")


PRICE = Verb(
    "price",
    "what a placement saves a recorded run",
    lambda: _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    _run,
    lambda options: [(OutputFolder("--out", ("price.json", "replayed.jsonl")), options.out)],
)
