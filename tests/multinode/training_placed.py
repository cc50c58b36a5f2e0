"""Training across two network namespaces: experts in order, placed, and placed with hierarchical dispatch.

``python -m tests.multinode.training_placed --out DIR`` (root). Two namespaces are nodes of two ranks, and a link of
200 Mbit/s joins them. The trainer's GPT learns the sources of the standard library with its own engine, while every
router makes the choices of a real mixture: those that DeepSeek-V2-Lite made for texts of two domains (ESFT's published
scores), the two strongest of a token, in layers spread over its depth. Experts are placed by one half of the texts, and
the run plays the other half. Modes train in turn in one run; printed are tokens a second, median over the rounds.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tests.multinode.launching import run_on_hosts
from tests.multinode.namespaces import fabric, obstacle
from tests.multinode.training_placed_ranks import BASELINE, Case

NODES = 2
TRACES = tuple(Path(f"../shared/data/esft/{name}.npz") for name in ("law", "summary"))
_SECONDS_AT_MOST = 1500


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and compares.

    Args:
        argv: Arguments, those of the process if None.

    Returns:
        0, or 1 without namespaces or routing traces.
    """
    parser = argparse.ArgumentParser(prog="training_placed", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where figures go")
    parser.add_argument("--rate", type=int, default=200, metavar="MBIT", help="rate of the link, Mbit/s (default: 200)")
    parser.add_argument("--ranks", type=int, default=2, metavar="R", help="ranks on each node (default: 2)")
    parser.add_argument("--routing", type=Path, nargs="+", default=TRACES, metavar="FILE", help="routing traces")
    for field in fields(Case):
        if field.name == "by_domain":
            parser.add_argument("--by-domain", action="store_true", help="each node reads other traces (default: all)")
        else:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    arguments = vars(parser.parse_args(argv))
    traces = [path.resolve() for path in arguments.pop("routing")]
    missing = [str(path) for path in traces if not path.exists()]
    why_not = obstacle() or (f"{missing[0]} is missing; name routing traces by --routing" if missing else None)
    if why_not:
        print(f"training_placed: {why_not}", file=sys.stderr)
        return 1
    folder = arguments.pop("out").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rate, ranks = arguments.pop("rate"), arguments.pop("ranks")
    with fabric(NODES, 1, 1, rate) as made:
        case = json.dumps(asdict(Case(**arguments)))
        run_on_hosts(
            made,
            "tests.multinode.training_placed_ranks",
            [str(folder), case, *map(str, traces)],
            seconds_at_most=_SECONDS_AT_MOST,
            ranks_per_host=ranks,
        )
    figures = json.loads((folder / "training_placed.json").read_text(encoding="utf-8"))
    slowest = figures["tokens_per_s"][BASELINE]
    for name, per_second in figures["tokens_per_s"].items():
        print(
            f"{name:24} {per_second:8.0f} tokens/s  {per_second / slowest:5.2f} x, token messages between nodes "
            f"{figures['bytes_between_nodes'][name] / 1e6:6.2f} MB a step, busiest rank {figures['load'][name]:.2f}"
        )
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
