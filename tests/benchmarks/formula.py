"""The formula of a step's collectives against the recorded step, for every legal combination of a small grid.

    python -m tests.benchmarks.formula [--ranks 2 4] [--rates with]

Each combination trains a few steps of a tiny network on the real engine. The table shows how many collectives were
recorded and either that the formula gives the same, in order and with the same bytes, or the first that differs. The
exit code is 1 if any does. Where tokens decide sizes (see `without_sizes`), all-to-alls are compared in total.
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moe.collective_trace import CollectiveRecord, read
from tests.ranks import run_ranks
from tests.trainer.experiment.forecast.test_formula_equals_recording import (
    all_to_all_totals,
    record_run,
    steps_of,
    without_sizes,
)
from tests.trainer.experiment.forecast.test_formula_of_tensor_parallel import issued
from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import TraceSpec, formula
from trainer.trace.merge import merge

MICRO_BATCH = 2
SMALL_BUCKET = 900
DIVISIONS: list[dict[str, Any]] = [
    *({"zero_stage": stage} for stage in (0, 1, 2, 3)),
    {"zero_stage": 3, "bucket_elements": SMALL_BUCKET},
    *({"kind": "fsdp", "reshard_after_forward": reshard} for reshard in (True, False)),
]
RATES = {"blocks": 2.0, "experts": 0.5, "blocks.1.projection": 0.5, "weight": 3.0}
"""Few parameters are in no group but that of 1."""
DISPATCH = (None, "home", "copies", "coherent")


@dataclass(frozen=True)
class Combination:
    """What decides the collectives of a step.

    Attributes:
        ranks: all of them.
        network: kind of the model.
        tensor: ranks of a tensor-parallel group.
        dispatch: how tokens reach experts, which two ranks share; None: a dense network.
        engine: section of that name.
        accumulation: micro steps of a step.
        rates: whether parameters have learning rates of their own, `RATES`.
    """

    ranks: int
    network: str
    tensor: int
    dispatch: str | None
    engine: dict[str, Any]
    accumulation: int
    rates: bool

    @property
    def config(self) -> RunConfig:
        """The run."""
        window = {"context": 12} if self.network == "gpt" else {}
        moe = {"num_experts": 4, "top_k": 3, "expert_hidden": 24, "dispatch": self.dispatch}
        batch = MICRO_BATCH * self.ranks // self.tensor * self.accumulation
        return RunConfig.model_validate(
            {
                "run": {"dir": "unused"},
                "model": {"kind": self.network, "hidden": 16, "num_layers": 2, "num_heads": 4, **window},
                "moe": moe if self.dispatch else None,
                "optim": {
                    "steps": 4,
                    "global_batch": batch,
                    "micro_batch": MICRO_BATCH,
                    "rates": RATES if self.rates else {},
                },
                "engine": self.engine,
                "parallel": {"tensor": self.tensor, "expert": 2 if self.dispatch else 1},
                **({"data": window} if window else {}),
            }
        )

    @property
    def layout(self) -> Layout:
        """Its division; ValueError where there is none."""
        return plan_layout(self.config, self.ranks)

    @property
    def division(self) -> tuple[int, int]:
        """Ranks that share experts, and ranks that share blocks."""
        return 2 if self.dispatch else 1, self.tensor

    @property
    def spec(self) -> TraceSpec:
        """What the formula needs."""
        return trace_spec(self.config, self.layout, ranks_per_node=2, steps=steps_of(self.config))

    @property
    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        engine = self.config.engine
        sharing = engine.label
        if engine.kind == "fsdp" and not engine.reshard_after_forward:
            sharing += ", blocks kept"
        if engine.kind == "deepspeed" and engine.bucket_elements == SMALL_BUCKET:
            sharing += ", small buckets"
        ways = {"compiled": engine.compile, "twice": engine.activation_checkpointing}
        blocks = ", ".join(way for way, taken in ways.items() if taken)
        return (
            *(str(self.ranks), self.network, str(self.tensor), self.dispatch or "dense"),
            *(sharing, str(self.accumulation), blocks, "own" * self.rates),
        )


def combinations(ranks: int) -> list[Combination]:
    """Those of the grid that a run accepts."""
    grid = [
        Combination(ranks, network, tensor, dispatch, engine, accumulation, rates)
        for network, tensor, dispatch, engine, accumulation, rates in itertools.product(
            ("dit", "gpt"), (1, 2, 4), DISPATCH, list(_engines()), (1, 2), (False, True)
        )
    ]
    return [combination for combination in grid if _is_legal(combination)]


def _engines() -> Iterator[dict[str, Any]]:
    choices = itertools.product(DIVISIONS, ("fp32", "bf16"), (False, True), (False, True))
    for division, precision, twice, compiled in choices:
        yield {**division, "precision": precision, "activation_checkpointing": twice, "compile": compiled}


def _is_legal(combination: Combination) -> bool:
    if combination.rates and (combination.engine["compile"] or combination.engine["activation_checkpointing"]):
        return False  # how blocks compute has nothing to do with the optimiser's groups
    try:
        return combination.layout is not None
    except ValueError:
        return False


def record_all(rank: int, world_size: int, folder: str, wanted: list[Combination]) -> None:
    """Records combinations that divide the ranks alike one after the other, in a folder of its own each."""
    from trainer.distributed.groups import divide_ranks

    os.environ["LOCAL_RANK"] = str(rank)
    divide_ranks(*wanted[0].division)
    for number, combination in enumerate(wanted):
        record_run(Path(folder) / str(number), combination.config, world_size)


def compare(combination: Combination, folder: Path) -> tuple[int, str]:
    """How many collectives were recorded, and what the formula says of them."""
    merge(folder, combination.ranks)
    header, recorded = read(folder / "collectives.jsonl")
    computed_header, records = formula(combination.spec)
    computed = list(records)
    if header.groups != computed_header.groups:
        return len(recorded), f"groups: recorded {header.groups}, computed {computed_header.groups}"
    return len(recorded), first_difference(combination, recorded, computed) or "equal"


def first_difference(
    combination: Combination, recorded: list[CollectiveRecord], computed: list[CollectiveRecord]
) -> str | None:
    """The first record that differs, in words; None where there is none."""
    left, right = (
        list(without_sizes(records)) if combination.dispatch else [issued(record) for record in records]
        for records in (recorded, computed)
    )
    for number, (found, wanted) in enumerate(itertools.zip_longest(left, right)):
        if found != wanted:
            return f"record {number}: recorded {found}, computed {wanted}"
    totals, wanted_totals = all_to_all_totals(recorded), all_to_all_totals(computed)
    for key in totals.keys() | wanted_totals.keys():
        if combination.dispatch != "coherent" and totals.get(key) != wanted_totals.get(key):
            return f"all-to-all {key}: recorded {totals.get(key)} bytes, computed {wanted_totals.get(key)}"
    return None


def main() -> int:
    """Records, compares and prints the table.

    Returns:
        1 if a recording differs from its formula, 0 otherwise.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--ranks", type=int, nargs="+", choices=(2, 4), default=(2, 4))
    parser.add_argument(
        "--rates", choices=("all", "with", "without"), default="all", help="learning rates of their own"
    )
    options = parser.parse_args()
    table = Table(title="Formula against recording", title_justify="left")
    for name in (
        "ranks",
        "network",
        "tensor",
        "tokens",
        "engine",
        "micro steps",
        "blocks",
        "rates",
        "records",
        "verdict",
    ):
        table.add_column(name, justify="right" if name in ("ranks", "tensor", "micro steps", "records") else "left")
    verdicts = []
    kept = {"all": (False, True), "with": (True,), "without": (False,)}[options.rates]
    for ranks in options.ranks:
        found = (combination for combination in combinations(ranks) if combination.rates in kept)
        everything = sorted(found, key=lambda combination: combination.division)
        for _, alike in itertools.groupby(everything, key=lambda combination: combination.division):
            wanted = list(alike)
            with tempfile.TemporaryDirectory() as folder:
                run_ranks(record_all, ranks, folder, wanted)
                for number, combination in enumerate(wanted):
                    records, verdict = compare(combination, Path(folder) / str(number))
                    table.add_row(*combination.cells, f"{records:,}", verdict)
                    verdicts.append(verdict)
    console = Console(width=160, highlight=False)
    console.print(table)
    differ = len(verdicts) - verdicts.count("equal")
    console.print(f"{len(verdicts)} combinations: {len(verdicts) - differ} equal, {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
