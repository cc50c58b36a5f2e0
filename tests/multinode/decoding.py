"""Decoding across two network namespaces: context-coherent dispatch with placed experts against DeepSpeed-MoE.

``python -m tests.multinode.decoding --out DIR`` (root). One rank lives in each namespace, and a link of 200 Mbit/s
joins them. Modes generate in turn in one run; printed are tokens a second, prompts included, and the time of the
prompts and of a step behind them, medians over the rounds.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tests.multinode.decoding_ranks import Case
from tests.multinode.launching import run_on_hosts
from tests.multinode.namespaces import fabric, obstacle

_SECONDS_AT_MOST = 540


def main(argv: Sequence[str] | None = None) -> int:
    """Generates and compares.

    Args:
        argv: Arguments, those of the process if None.

    Returns:
        0, or 1 without namespaces.
    """
    parser = argparse.ArgumentParser(prog="decoding", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where figures go")
    parser.add_argument("--rate", type=int, default=200, metavar="MBIT", help="rate of the link, Mbit/s (default: 200)")
    for field in fields(Case):
        kind = str if field.name == "weights" else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    arguments = vars(parser.parse_args(argv))
    why_not = obstacle()
    if why_not:
        print(f"decoding: {why_not}", file=sys.stderr)
        return 1
    folder = arguments.pop("out").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with fabric(2, 1, 1, arguments.pop("rate")) as made:
        case = json.dumps(asdict(Case(**arguments)))
        run_on_hosts(made, "tests.multinode.decoding_ranks", [str(folder), case], seconds_at_most=_SECONDS_AT_MOST)
    figures = json.loads((folder / "decoding.json").read_text(encoding="utf-8"))
    peer = "DeepSpeed-MoE, capacity 1.25"
    for name, rate in figures["tokens_per_s"].items():
        step_ms = figures["step_ms"]
        print(
            f"{name:32} {rate:8.1f} tokens/s  {rate / figures['tokens_per_s'][peer]:5.2f} x DeepSpeed-MoE; prompts "
            f"{figures['prompts_ms'][name]:5.0f} ms, a step behind them {step_ms[name]:5.1f} ms  "
            f"{step_ms[peer] / step_ms[name]:5.2f} x"
        )
    moves = figures["cross_rank_moves"]
    print(
        f"moves to the other rank: {moves['contiguous']:.1%} contiguous, {moves['placed']:.1%} placed; "
        f"all modes write the same: {figures['modes_write_the_same']}; load {os.getloadavg()[0]:.1f}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
