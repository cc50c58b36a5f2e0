"""Measures a real kernel's network against netsim: ``python -m tests.multinode.reality --out reality.json``."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.multinode.cases import HOSTS_PER_LEAF, LEAVES, SPINES, Case, Figure, Sizes, cases, cores, measure
from tests.multinode.namespaces import obstacle

_HEAD = f"{'case':44} {'measured':>9} {'predicted':>15} {'error':>7} {'limit':>6} {'spread':>7} {'lost':>6} {'load':>5}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures all cases, prints a table and writes it as JSON.

    Args:
        argv: Arguments, those of the process if None.

    Returns:
        0 if every error is within its limit, where the machine was quiet; 1 if not, or without namespaces.
    """
    arguments = _parser().parse_args(argv)
    why_not = obstacle()
    if why_not:
        print(f"reality: {why_not}", file=sys.stderr)
        return 1
    sizes = Sizes(arguments.rate, round(arguments.megabytes * 1e6), round(arguments.megabytes * 1e6 / 3))
    until = time.monotonic() + 60 * arguments.patience
    print(_HEAD)
    figures = []
    for case in _chosen(sizes, arguments.only):
        figures.append(_quietly(case, sizes, arguments.runs, until))
        print(_row(figures[-1]), flush=True)
    if arguments.out:
        _write(arguments.out, sizes, figures)
    return 0 if all(figure.kept or figure.loaded for figure in figures) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reality", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    parser.add_argument("--rate", type=int, default=50, metavar="MBIT", help="rate of every link, Mbit/s (default: 50)")
    parser.add_argument("--megabytes", type=float, default=4.0, help="size of a TCP stream, MB (default: 4)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case (default: 3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name holds this text")
    parser.add_argument(
        "--patience",
        type=float,
        default=15.0,
        metavar="MINUTES",
        help="how long to repeat cases in all while the load average exceeds the cores (default: 15)",
    )
    return parser


def _chosen(sizes: Sizes, text: str) -> list[Case]:
    return [case for case in cases(sizes) if text in case.name]


def _quietly(case: Case, sizes: Sizes, runs: int, until: float) -> Figure:
    """Measures a case, again while the machine is loaded, and at last as it is."""
    while (figure := measure(case, sizes, runs)).loaded and time.monotonic() < until:
        print(f"{case.name}: load average {figure.load_average:.2f}, again in 10 s", file=sys.stderr, flush=True)
        time.sleep(10)
    return figure


def _row(figure: Figure) -> str:
    values = figure.to_dict()
    outcomes = [f"{outcome:.3f}" for outcome in figure.outcomes_s]
    predicted = " or ".join(outcomes) if len(outcomes) < 3 else f"{outcomes[0]} .. {outcomes[-1]}"
    limit = "-" if figure.limit is None else f"{figure.limit:.0%}"
    notes = ("" if figure.kept else "  beyond its limit") + ("  machine loaded" if figure.loaded else "")
    return (
        f"{figure.name:44} {values['median_s']:7.3f} s {predicted:>15} {figure.error:+7.1%} {limit:>6} "
        f"{figure.spread:7.1%} {max(figure.lost):6} {figure.load_average:5.2f}{notes}"
    )


def _write(path: Path, sizes: Sizes, figures: Sequence[Figure]) -> None:
    content = {
        "format": "flowfabric.reality/1",
        "fabric": {"leaves": LEAVES, "spines": SPINES, "hosts_per_leaf": HOSTS_PER_LEAF, **sizes._asdict()},
        "cores": cores(),
        "cases": [figure.to_dict() for figure in figures],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
