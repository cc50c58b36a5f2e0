"""Experts re-placed twice in a run, against the same run without: python -m tests.benchmarks.migration [--out FILE].

Eight AdamW steps, new placements drawn at random after steps 3 and 5: by how much the losses differ, for every ZeRO
stage, precision and number of ranks. A token's experts are added up in the order of their slots, so that three or more
of them may differ in the last bit in float32; with one or two the difference is 0.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tests.ranks import run_ranks
from tests.trainer.training.migration.migrated import configuration, losses, shuffled

CASES: dict[int, list[dict[str, Any]]] = {
    2: [{"expert_parallel": 2}],
    4: [{"expert_parallel": 2}, {"expert_parallel": 4}],
}
ENGINES = [
    {"zero_stage": 0},
    {"zero_stage": 1},
    {"zero_stage": 2},
    {"zero_stage": 1, "precision": "bf16"},
    {"zero_stage": 2, "precision": "bf16"},
]
VARIANTS: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_k": 2},
    {"top_k": 2, "clip_norm": 0.5},
    {"top_k": 2, "dispatch": "copies"},
    {"top_k": 4},
]


def compare(_rank: int, world_size: int, expert_parallel: int) -> list[dict[str, Any]]:
    """Every engine and variant on one rank."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=expert_parallel)
    rows = []
    for engine in ENGINES:
        for variant in VARIANTS:
            settings = {"expert_parallel": expert_parallel, **engine, **variant}
            config = configuration(**settings)
            straight = losses(config, world_size, {})
            moved = losses(config, world_size, {3: shuffled(3), 5: shuffled(5)})
            differences = [abs(one - other) for one, other in zip(straight, moved, strict=True)]
            rows.append({"ranks": world_size, **settings, "largest_difference": max(differences)})
    return rows


def main() -> None:
    """Runs all cases; prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    out = parser.parse_args().out
    rows = []
    for world_size, layouts in CASES.items():
        for layout in layouts:
            by_rank = run_ranks(compare, world_size, layout["expert_parallel"])
            for of_ranks in zip(*by_rank, strict=True):
                worst = max(of_ranks, key=lambda row: row["largest_difference"])
                rows.append(worst)
                print("  ".join(f"{name} {value}" for name, value in worst.items()), flush=True)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
