"""The memory of a rank, told and measured, for every legal combination of engine, precision, recomputation and network.

    python -m tests.benchmarks.memory [--ranks 1 2 4] [--only TEXT] [--out memory.json]

Measured is the fourth step of the real loop on local ranks over gloo, by torch's `MemTracker`, on the fullest rank.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.ranks import run_ranks
from tests.trainer.experiment.forecast.cases import legal
from tests.trainer.experiment.forecast.measured import Measured, measure
from tests.trainer.experiment.forecast.test_memory_on_ranks import told
from trainer.config.run import RunConfig
from trainer.observe.units import scaled


def _measured(rank: int, world_size: int, cases: dict[str, dict[str, Any]]) -> dict[str, Measured]:
    return {name: measure(rank, world_size, RunConfig.model_validate(case)) for name, case in cases.items()}


def rows(ranks: int, only: str) -> list[dict[str, Any]]:
    """Told and measured bytes of each combination on so many ranks."""
    cases = {name: case for name, case in legal(ranks) if only in name}
    peaks = {name: told(case, ranks).peak for name, case in cases.items()}
    found = run_ranks(_measured, ranks, cases)
    listed = []
    for name, peak in peaks.items():
        fullest = max((of_rank[name] for of_rank in found), key=lambda one: one.peak)
        assert fullest.mem_tracker is not None
        error = peak.total / fullest.mem_tracker - 1
        listed.append(
            {
                "ranks": ranks,
                "case": name,
                "phase": peak.phase,
                "told_bytes": peak.total,
                "measured_bytes": fullest.mem_tracker,
                "error": error,
            }
        )
    return listed


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of ranks")
    parser.add_argument("--only", default="", metavar="TEXT", help="combinations with this text in their name")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON of the table")
    options = parser.parse_args()
    listed = [row for ranks in options.ranks for row in rows(ranks, options.only)]
    table = Table("ranks", "case", "phase", "told", "measured", "error")
    for row in listed:
        told_and_measured = (scaled(row[f"{kind}_bytes"], "B") for kind in ("told", "measured"))
        table.add_row(str(row["ranks"]), row["case"], row["phase"], *told_and_measured, f"{100 * row['error']:+.2f} %")
    console = Console(width=120)
    console.print(table)
    worst = max(listed, key=lambda row: abs(row["error"]))
    console.print(f"largest error {100 * worst['error']:+.2f} %: {worst['case']} on {worst['ranks']} ranks")
    if options.out is not None:
        options.out.write_text(json.dumps(listed, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
