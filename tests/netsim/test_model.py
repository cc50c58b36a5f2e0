"""A step from a model's shape: its layout against the replay of the same step as a trace, and closed forms."""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from netsim import simulate
from netsim.collective.columns import IN_COLUMNS
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.workload import Issued, ModelWorkload, issued
from netsim.workload.program import Program
from tests.each import each
from tests.netsim.model_steps import exported, scenario

SHAPES = {
    "mixture": {"division": {"data": 8, "expert": 4}, "experts": 8, "top_k": 3, "bucket_elements": 40_000},
    "tensor": {"division": {"data": 4, "tensor": 2}, "bucket_elements": 30_000, "microbatches": 2},
    "pipeline": {"division": {"data": 2, "pipeline": 4}, "microbatches": 6},
    "all": {"division": {"data": 2, "tensor": 2, "pipeline": 2}, "microbatches": 3, "recompute": True},
    "shards": {"division": {"data": 8}, "sharded": "full", "microbatches": 2},
    "shards of experts": {"division": {"data": 4, "expert": 2, "pipeline": 2}, "experts": 4, "sharded": "full"},
}


@each("launch, name", product(["0us", "5us"], SHAPES))
def test_a_step_laid_out_at_once_is_its_replay_rank_by_rank(name, launch, tmp_path):
    """With overlap, stages and shards, which the trainer's formula does not have."""
    device = {"teraflops": 100, "memory_gbps": 1000, "contention": 1.25}
    shape = {"kind": "model", "layers": 4, "hidden": 64, "tokens": 96, "sequence": 32, "vocabulary": 99} | SHAPES[name]
    trace = exported(ModelConfig.model_validate(shape), tmp_path / "trace.jsonl")
    software = {"algorithms": {"launch": launch, "step": "1us", "inside_step": "200ns"}}
    computed = simulate(scenario(shape | {"device": device}, 8) | software)
    replayed = simulate(scenario({"kind": "trace", "path": str(trace), "device": device}, 8) | software)
    times = [
        Counter(
            (span.op, span.group, span.ranks, span.phase, span.layer, span.bytes, *times)
            for span, times in zip(results.spans, results.runs[0].collectives, strict=True)
        )
        for results in (replayed, computed)
    ]
    assert times[0] == times[1]


def test_overlap_changes_when_and_not_what():
    shape = {"kind": "model", "layers": 6, "hidden": 64, "tokens": 64, "bucket_elements": 50_000}
    shape |= {"division": {"data": 8, "expert": 2}, "experts": 4}
    for sharded in ("none", "optimizer", "full"):
        early, late = (
            issued(ModelConfig.model_validate(shape | {"sharded": sharded, "overlap": overlap}), 0)
            for overlap in (True, False)
        )
        moved = [
            Counter({(one.operation.op, one.group): 0 for one in step} | _bytes(step)) for step, _ in (early, late)
        ]
        assert moved[0] == moved[1]
        asynchronous = [sum(one.awaited is not None for one in step) for step, _ in (early, late)]
        assert asynchronous[0] > 2 > asynchronous[1]
        works = [sum((one.beside + one.work).flops for one in step) + behind.flops for step, behind in (early, late)]
        assert works[0] == works[1] > 0


def _bytes(step: Sequence[Issued]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for one in step:
        found[one.operation.op, one.group] += sum(one.operation.blocks) + sum(map(sum, one.operation.matrix))
    return found


@each("stages, micros", [(4, 8), (4, 2), (8, 8)])
def test_a_pipeline_idles_as_its_closed_form_says(stages, micros):
    """One forward, one backward: (stages - 1) of micros + stages - 1 turns are empty, where messages take no time."""
    shape = {"kind": "model", "layers": stages, "hidden": 64, "tokens": 64, "vocabulary": 1, "microbatches": micros}
    shape |= {
        "division": {"pipeline": stages},
        "activation_bytes": 1,
        "device": {"teraflops": 1e-3, "memory_gbps": 1e9},
    }
    model = ModelConfig.model_validate(shape)
    results = simulate(scenario(shape, stages))
    one = max(
        sum(work.flops for work in (*(one.beside + one.work for one in step), rest)) for step, rest in steps(model)
    )
    least_ps = one / micros / (1e-3 * 0.5) * (micros + stages - 1)
    assert results.runs[0].completion_ps == pytest.approx(least_ps, rel=1e-3)


def steps(model: ModelConfig) -> list[Any]:
    return [issued(model, stage) for stage in range(model.division.pipeline)]


def test_a_step_of_many_ranks_is_one_program_a_stage():
    """Tasks of 1,024 ranks are counted by hand: messages, arrivals and ends of a ring of 1,024 and its scalars."""
    shape = {"kind": "model", "layers": 2, "hidden": 64, "tokens": 64, "division": {"data": 128}, "overlap": False}
    program = Program()
    workload = ModelWorkload(ModelConfig.model_validate(shape))
    ring = IN_COLUMNS["all_reduce", "ring"]
    workload.extend(program, range(128), 0, lambda operation, _: ring(operation))
    assert len(program.spans) == 1
    assert len(program.tasks) == 1 + 128 + 2 * 127 * 128 + 128 + 128
    assert workload.notices == ["computation takes no time, since workload.device is not set"]


def test_a_block_computes_while_the_next_one_is_gathered():
    """Where gathering and computing take alike long, both together take less than their sum."""
    shape = {"kind": "model", "layers": 16, "hidden": 256, "tokens": 256, "vocabulary": 8, "sharded": "full"}
    shape |= {"division": {"data": 4}, "device": {"teraflops": 12, "memory_gbps": 1e6}}
    early, late = (simulate(scenario(shape | {"overlap": overlap}, 4)).runs[0] for overlap in (True, False))
    assert early.completion_ps < 0.75 * late.completion_ps
