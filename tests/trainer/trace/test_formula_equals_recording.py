"""The formula against what the real engine issues: operation, group and bytes of every record, in order."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_ranks
from trainer.config import RunConfig
from trainer.trace.formula import formula
from trainer.trace.merge import merge
from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read

HIDDEN, LAYERS, EXPERTS, EXPERT_HIDDEN = 16, 2, 4, 24
STEPS = (3, 4)

Case = tuple[int, dict[str, Any], int]
"""Ranks that share experts, settings of the engine section, accumulation."""

CASES: dict[int, dict[str, Case]] = {
    2: {
        "ZeRO 1": (2, {}, 1),
        "ZeRO 0": (2, {"zero_stage": 0}, 1),
        "ZeRO 2, accumulation": (2, {"zero_stage": 2}, 2),
        "ZeRO 1, bf16, accumulation": (2, {"precision": "bf16"}, 2),
        "ZeRO 1, small buckets": (2, {"bucket_elements": 1000}, 1),
    },
    4: {
        "ZeRO 1": (2, {}, 1),
        "ZeRO 1, small buckets": (2, {"bucket_elements": 700}, 1),
        "ZeRO 2, bf16": (2, {"zero_stage": 2, "precision": "bf16"}, 1),
        "ZeRO 0": (2, {"zero_stage": 0}, 2),
    },
}
FLAT = [(world_size, name) for world_size, cases in CASES.items() for name in cases]


def configuration(world_size: int, case: Case) -> RunConfig:
    expert_parallel, engine, accumulation = case
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"hidden": HIDDEN, "num_layers": LAYERS, "num_heads": 4},
            "moe": {"num_experts": EXPERTS, "top_k": 2, "expert_hidden": EXPERT_HIDDEN},
            "optim": {"steps": 4, "global_batch": 3 * world_size * accumulation, "micro_batch": 3},
            "engine": engine,
            "parallel": {"expert": expert_parallel},
        }
    )


def record_cases(rank: int, world_size: int, folder: str) -> None:
    """Trains a few steps of each case and leaves its recording in a folder of its own."""
    from megatron.core import parallel_state

    os.environ["LOCAL_RANK"] = str(rank)
    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    for index, case in enumerate(CASES[world_size].values()):
        record_run(Path(folder) / str(index), configuration(world_size, case), world_size)


def record_run(folder: Path, config: RunConfig, world_size: int) -> None:
    import torch
    import torch.distributed as dist

    from trainer.engine.deepspeed import DeepSpeedEngine
    from trainer.layout import plan_layout
    from trainer.network import build_model
    from trainer.trace.context import phase
    from trainer.trace.recorder import Recorder

    layout = plan_layout(config, world_size)
    engine = DeepSpeedEngine(build_model(config, layout), config, layout, torch.device("cpu"))
    recorder = Recorder(
        rank_path(folder, dist.get_rank()),
        steps=STEPS,
        ranks_per_node=2,
        group_names=engine.group_names,
        blocks=list(engine.module.get_submodule("blocks").children()),
    )
    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(1, STEPS[-1] + 1):
        for micro in range(layout.accumulation):
            with recorder.step(step, micro):
                x_t = torch.randn(layout.micro_batch, *config.data.shape, generator=generator)
                with phase("forward"):
                    predicted = engine.model(x_t, torch.rand(len(x_t), generator=generator), None)
                with phase("backward"):
                    engine.backward((predicted - x_t).square().mean())
                if micro == layout.accumulation - 1:
                    with phase("optimizer"):
                        engine.step(1e-3)
    recorder.write()
    dist.barrier()


def computed(world_size: int, name: str) -> tuple[TraceHeader, list[CollectiveRecord]]:
    from trainer.layout import plan_layout
    from trainer.trace.plan import trace_spec

    config = configuration(world_size, CASES[world_size][name])
    header, records = formula(trace_spec(config, plan_layout(config, world_size), ranks_per_node=2, steps=STEPS))
    return header, list(records)


@pytest.fixture(scope="module")
def recordings(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[int, str], tuple[TraceHeader, list[CollectiveRecord], bool]]:
    found = {}
    for world_size, cases in CASES.items():
        folder = tmp_path_factory.mktemp(f"ranks_{world_size}")
        run_ranks(record_cases, world_size, str(folder))
        for index, name in enumerate(cases):
            steady = merge(folder / str(index), world_size)
            found[world_size, name] = *read(folder / str(index) / "collectives.jsonl"), steady
    return found


def without_all_to_alls(records: Sequence[CollectiveRecord]) -> Iterator[tuple[object, ...]]:
    for record in records:
        sizes = () if record.op == "all_to_all" else (record.bytes_in, record.bytes_out)
        yield record.rank, record.step, record.micro, record.phase, record.op, record.group, record.dtype, *sizes


@pytest.mark.parametrize(("world_size", "name"), FLAT)
def test_formula_and_recording_issue_the_same_collectives(
    recordings: dict[tuple[int, str], tuple[TraceHeader, list[CollectiveRecord], bool]], world_size: int, name: str
) -> None:
    header, recorded, steady = recordings[world_size, name]
    computed_header, records = computed(world_size, name)
    assert steady
    assert header.groups == computed_header.groups
    assert list(without_all_to_alls(recorded)) == list(without_all_to_alls(records))
    exchanged = [record for record in recorded if record.op == "all_to_all"]
    assert [record.layer for record in exchanged] == [record.layer for record in records if record.op == "all_to_all"]


@pytest.mark.parametrize(("world_size", "name"), FLAT)
def test_all_to_alls_move_the_same_bytes_over_each_group(
    recordings: dict[tuple[int, str], tuple[TraceHeader, list[CollectiveRecord], bool]], world_size: int, name: str
) -> None:
    _, recorded, _ = recordings[world_size, name]
    _, records = computed(world_size, name)
    assert all_to_all_totals(recorded) == all_to_all_totals(records)


def all_to_all_totals(records: Sequence[CollectiveRecord]) -> dict[tuple[object, ...], int]:
    """Bytes of each exchange over all its members: those of the k-th all-to-all of a group in a step."""
    totals: dict[tuple[object, ...], int] = {}
    for rank in sorted({record.rank for record in records}):
        exchanges = [record for record in records if record.rank == rank and record.op == "all_to_all"]
        for index, record in enumerate(exchanges):
            key = (record.group, index, record.step, record.phase, record.layer)
            totals[key] = totals.get(key, 0) + record.bytes_in
    return totals
