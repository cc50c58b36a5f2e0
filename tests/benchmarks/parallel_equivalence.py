"""How far runs on four ranks are from the same run on one, for every legal division of the work.

    python -m tests.benchmarks.parallel_equivalence

Each run takes a few steps of the real loop in float32, with dropout, clipping and weight decay. Printed are the largest
relative differences of the losses and of the gradient norms, and the largest absolute difference of a final weight.
"""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.ranks import run_ranks
from tests.trainer.parallel_runs import DENSE, Division, train

RANKS = 4
TRANSFORMERS = tuple(kind for kind in DENSE if kind not in ("mlp", "autoencoder"))
"""Networks whose blocks can be divided and be mixtures."""
MIXTURE = {"num_experts": 4, "top_k": 2, "expert_hidden": 24, "router": {"kind": "top_k", "aux_loss": 0.0}}


def divisions() -> list[Division]:
    """Tensor parallel by engine for dense networks, expert parallel by ZeRO stage for mixtures."""
    engines: list[dict[str, Any]] = [*({"zero_stage": stage} for stage in (0, 1, 2, 3)), {"kind": "fsdp"}]
    dense = [
        Division(kind, tensor=tensor, engine=engine)
        for kind in DENSE
        for tensor in ((1, 2, 4) if kind in TRANSFORMERS else (1,))
        for engine in engines
    ]
    mixtures = [
        Division(kind, expert=expert, engine={"zero_stage": stage}, moe=MIXTURE)
        for kind in TRANSFORMERS
        for expert in (1, 2, 4)
        for stage in (0, 1, 2)
    ]
    return dense + mixtures


def train_all(rank: int, world_size: int, folder: str, wanted: list[Division]) -> list[Any]:
    """Every run, one after the other on the same ranks."""
    return [
        train(rank, world_size, division.config(Path(folder) / f"{world_size}_{number}"))
        for number, division in enumerate(wanted)
    ]


def main() -> None:
    """Trains and prints the table."""
    alone = [*map(Division, DENSE), *(Division(kind, moe=MIXTURE) for kind in TRANSFORMERS)]
    table = Table(title=f"{RANKS} ranks against one", title_justify="left")
    for name in ("network", "experts", "tensor", "data", "expert", "engine", "loss", "norm", "weight"):
        table.add_column(name, justify="left" if name == "network" else "right")
    with tempfile.TemporaryDirectory() as folder:
        expected = dict(
            zip(
                [(division.kind, bool(division.moe)) for division in alone],
                run_ranks(train_all, 1, folder, alone)[0],
                strict=True,
            )
        )
        for division, (figures, weights) in zip(
            divisions(), run_ranks(train_all, RANKS, folder, divisions())[0], strict=True
        ):
            wanted, whole = expected[division.kind, bool(division.moe)]
            distances = [
                max(abs(found[name] / right[name] - 1) for found, right in zip(figures, wanted, strict=True))
                for name in ("loss", "grad_norm")
            ]
            furthest = max(float((weights[name] - value).abs().max()) for name, value in whole.items())
            sizes = (len(division.moe) and MIXTURE["num_experts"], division.tensor, RANKS // division.tensor)
            engine = division.config(Path(folder)).engine.label
            row = (division.kind, *sizes, division.expert, engine)
            table.add_row(*map(str, row), *(f"{value:.0e}" for value in (*distances, furthest)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
