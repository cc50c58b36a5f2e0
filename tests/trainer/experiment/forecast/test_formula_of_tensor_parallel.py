"""What tensor-parallel blocks send, by formula and as recorded: every record in order, layer and bytes included."""

import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, read
from tests.each import each
from tests.ranks import run_ranks
from tests.trainer.experiment.forecast.test_formula_equals_recording import record_run, steps_of
from trainer.config.run import RunConfig
from trainer.experiment.forecast.trace import formula
from trainer.trace.merge import merge

MICRO_BATCH = 3
SMALL_ZERO_3 = {"zero_stage": 3, "bucket_elements": 900}

CASES: dict[str, tuple[int, int, str, dict[str, Any], int]] = {
    "tensor 2": (2, 2, "dit", {}, 1),
    "tensor 2, ZeRO 0, accumulation": (2, 2, "gpt", {"zero_stage": 0}, 2),
    "tensor 2, bf16": (2, 2, "dit", {"precision": "bf16"}, 1),
    "tensor 2 x data 2": (4, 2, "dit", {}, 1),
    "tensor 2 x data 2, computed twice": (4, 2, "gpt", {"activation_checkpointing": True}, 1),
    "tensor 2 x data 2, ZeRO 2, bf16, small buckets": (
        4,
        2,
        "gpt",
        {"zero_stage": 2, "precision": "bf16", "bucket_elements": 10_000},
        2,
    ),
    "tensor 4, ZeRO 0": (4, 4, "gpt", {"zero_stage": 0}, 1),
    "tensor 2, FSDP2": (2, 2, "gpt", {"kind": "fsdp"}, 2),
    "tensor 2 x data 2, FSDP2, computed twice": (
        *(4, 2, "dit"),
        {"kind": "fsdp", "precision": "bf16", "activation_checkpointing": True},
        1,
    ),
    "tensor 2, ZeRO 3, bf16": (2, 2, "dit", {"zero_stage": 3, "precision": "bf16"}, 1),
    "tensor 2 x data 2, ZeRO 3, small buckets": (4, 2, "gpt", SMALL_ZERO_3, 2),
    "tensor 2 x data 2, ZeRO 3, computed twice": (4, 2, "dit", {**SMALL_ZERO_3, "activation_checkpointing": True}, 1),
}
"""Ranks, tensor-parallel ranks, network, settings of the engine, accumulation."""


def configuration(name: str) -> RunConfig:
    world_size, tensor, kind, engine, accumulation = CASES[name]
    window = {"context": 12} if kind == "gpt" else {}
    settings: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": kind, "hidden": 16, "num_layers": 2, "num_heads": 4, **window},
        "optim": {
            "steps": 4,
            "global_batch": MICRO_BATCH * world_size // tensor * accumulation,
            "micro_batch": MICRO_BATCH,
        },
        "engine": engine,
        "parallel": {"tensor": tensor},
    }
    return RunConfig.model_validate(settings | ({"data": window} if window else {}))


def record_cases(rank: int, world_size: int, folder: str) -> None:
    from trainer.distributed.groups import divide_ranks, unite_ranks

    os.environ["LOCAL_RANK"] = str(rank)
    for name, (ranks, tensor, *_) in CASES.items():
        if ranks == world_size:
            divide_ranks(1, tensor)
            record_run(Path(folder) / name, configuration(name), world_size)
            unite_ranks()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folder of the cases of a number of ranks, recorded when it is first asked for."""

    @cache
    def recorded(world_size: int) -> Path:
        folder = tmp_path_factory.mktemp(f"ranks_{world_size}")
        run_ranks(record_cases, world_size, str(folder))
        return folder

    return recorded


def computed(name: str) -> tuple[TraceHeader, list[CollectiveRecord]]:
    from trainer.config.rules.plan import plan_layout
    from trainer.experiment.forecast.spec import trace_spec

    config = configuration(name)
    layout = plan_layout(config, CASES[name][0])
    header, records = formula(trace_spec(config, layout, ranks_per_node=2, steps=steps_of(config)))
    return header, list(records)


def issued(record: CollectiveRecord) -> tuple[object, ...]:
    return (
        *(record.rank, record.step, record.micro, record.phase, record.layer, record.group),
        *(record.op, record.dtype, record.bytes_in, record.bytes_out, record.wait_seq),
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if case[0] == 4 else ()) for name, case in CASES.items()]
)
def test_formula_and_recording_are_the_same(recordings: Callable[[int], Path], name: str) -> None:
    folder = recordings(CASES[name][0]) / name
    assert merge(folder, CASES[name][0]), "two recorded steps differ"
    header, recorded = read(folder / "collectives.jsonl")
    computed_header, records = computed(name)
    assert header.groups == computed_header.groups
    assert [issued(record) for record in recorded] == [issued(record) for record in records]


@each("name", CASES)
def test_blocks_sum_what_the_paper_says(name: str) -> None:
    """Two all-reduces of all tokens in each pass of a block (Megatron-LM, figure 4)."""
    config = configuration(name)
    _, _, kind, engine, accumulation = CASES[name]
    tokens = MICRO_BATCH * (config.data.shape[0] - 1 if kind == "gpt" else math.prod(config.data.shape[1:]) // 4)
    size = tokens * 16 * (2 if engine.get("precision") == "bf16" else 4)
    passes = 3 if engine.get("activation_checkpointing") else 2
    of_rank = [r for r in computed(name)[1] if r.rank == 0 and r.step == steps_of(config)[0]]
    sums = [r for r in of_rank if r.layer is not None and r.group.partition("_")[0] == "tensor"]
    assert len(sums) == 2 * 2 * passes * accumulation
    assert {(r.op, r.bytes_in) for r in sums} == {("all_reduce", size)}
