"""The formula of drawing against what ranks issue that draw; and what they draw together against one process."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moe.collective_trace import CollectiveRecord, TraceHeader, read
from moe.placement.placement import Placement
from moe.replay import replay
from moe.routing_trace import RoutingTrace
from tests.ranks import run_ranks
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.trace.formula import formula

EXPERTS = {"num_experts": 4, "top_k": 2, "expert_hidden": 24}
EULER, HEUN = {"kind": "euler", "steps": 3}, {"kind": "heun", "steps": 2}
GLOBAL = {"router": {"kind": "sparse_ot", "potentials": "global"}}
REPLICAS = "tests/files/replicas.json"

CASES: dict[int, dict[str, tuple[dict[str, Any], dict[str, Any], float, int]]] = {
    2: {
        "home": ({"moe": EXPERTS}, HEUN, 1.0, 5),
        "home, guided": ({"moe": EXPERTS}, EULER, 1.5, 6),
        "home, no class": ({"moe": EXPERTS}, EULER, 0.0, 2),
        "home, replicas": ({"moe": EXPERTS | {"placement": REPLICAS}}, EULER, 1.5, 4),
        "home, global potentials": ({"moe": EXPERTS | GLOBAL}, EULER, 1.0, 4),
        "copies, one expert": ({"moe": EXPERTS | {"dispatch": "copies", "top_k": 1}}, EULER, 1.0, 4),
        "copies, every rank, guided": ({"moe": EXPERTS | {"dispatch": "copies", "top_k": 3}}, HEUN, 1.5, 5),
        "copies, some ranks": ({"moe": EXPERTS | {"dispatch": "copies"}}, EULER, 1.5, 4),
        "dense, fewer examples than ranks": ({}, HEUN, 1.5, 1),
        "tensor": ({"parallel": {"tensor": 2}}, EULER, 1.5, 3),
    },
    4: {
        "home, two groups": ({"moe": EXPERTS}, HEUN, 1.5, 7),
        "hierarchical": (
            {"moe": EXPERTS | {"dispatch": "hierarchical", "top_k": 4}, "parallel": {"expert": 4}},
            EULER,
            1.5,
            6,
        ),
        "tensor, two groups": ({"parallel": {"tensor": 2}}, EULER, 1.0, 6),
    },
}
FLAT = [
    pytest.param(world_size, name, marks=pytest.mark.slow if world_size == 4 else ())
    for world_size, cases in CASES.items()
    for name in cases
]
UNEVEN = ("copies, some ranks",)
"""Cases in which the number of visits is an expectation."""


def configuration(world_size: int, name: str) -> RunConfig:
    settings, sampler, guidance, _ = CASES[world_size][name]
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"kind": "dit", "hidden": 16, "num_layers": 2, "num_heads": 4},
            "optim": {"steps": 1, "global_batch": 8},
            "sample": {"sampler": sampler, "guidance": guidance},
            "parallel": {"expert": 2 if "moe" in settings else 1},
            "trace": {"ranks_per_node": 2},
            **settings,
        }
    )


def record_cases(rank: int, world_size: int, folder: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Draws every case on all ranks and on one; returns both drawings, and leaves the recording of the first."""
    return {
        name: record_case(rank, world_size, name, Path(folder) / str(index))
        for index, name in enumerate(CASES[world_size])
    }


def record_case(rank: int, world_size: int, name: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    import torch.distributed as dist

    from trainer.config.constraints.plan import plan_sampling
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.model.build import parameter_shapes
    from trainer.model.pretrained import restore, restored_layout
    from trainer.sampling.draw import TrainedFlow
    from trainer.sampling.flow import FlowParts
    from trainer.trace.drawing import DrawingTrace

    config, (*_, guidance, num) = configuration(world_size, name), CASES[world_size][name]
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    if rank == 0:
        folder.mkdir()
        generator = torch.Generator().manual_seed(1)
        weights = {
            key: torch.randn(shape, generator=generator) * max(shape[-1], 1) ** -0.5
            for key, shape in parameter_shapes(config).items()
        }
        save_file(weights, folder / "ema.safetensors")
        planned = plan_sampling(config, world_size, ranks_per_node=2)
        if planned.placement is not None:
            planned.placement.write(folder / "placement.json")
    dist.barrier()
    drawn = []
    for layout in (restored_layout(config, folder, world_size), Layout.single(config)):
        divide_ranks(layout.expert_parallel, layout.tensor_parallel, layout.relay_ranks)
        flow = TrainedFlow(config, FlowParts(config), restore(config, layout, folder))
        condition = flow.conditioning(num, seed=3).condition
        if layout.world_size == 1:
            chosen = flow.sample.sampler
            drawn.append(flow.follow(condition, torch.arange(num), chosen, guidance=guidance, seed=3).final)
        else:
            trace = DrawingTrace(folder, config, layout, launch, flow.model)
            with trace.recording():
                drawn.append(flow.draw(condition, guidance=guidance, seed=3))
            trace.write()
        unite_ranks()
    return drawn[0], drawn[1]


Recorded = dict[str, tuple[TraceHeader, list[CollectiveRecord], list[tuple[torch.Tensor, torch.Tensor]], Path]]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Recorded]:
    """Filled with every case of a number of ranks, recorded when it is first asked for."""

    class Recordings(dict[int, Recorded]):
        def __missing__(self, world_size: int) -> Recorded:
            folder = tmp_path_factory.mktemp(f"ranks_{world_size}")
            drawn = run_ranks(record_cases, world_size, str(folder))
            self[world_size] = {
                name: (
                    *read(folder / str(index) / "collectives.jsonl"),
                    [of_rank[name] for of_rank in drawn],
                    folder / str(index),
                )
                for index, name in enumerate(CASES[world_size])
            }
            return self[world_size]

    return Recordings()


def computed(world_size: int, name: str) -> tuple[TraceHeader, list[CollectiveRecord]]:
    from trainer.config.constraints.plan import plan_sampling
    from trainer.trace.formula.sampling_plan import sampling_spec

    config, (*_, guidance, num) = configuration(world_size, name), CASES[world_size][name]
    layout = plan_sampling(config, world_size, ranks_per_node=2)
    examples = -(-num // layout.data_parallel)
    sampler: Any = config.sample
    spec = sampling_spec(
        config, layout, sampler=sampler.sampler, guidance=guidance, examples=examples, ranks_per_node=2
    )
    header, records = formula(spec)
    return header, list(records)


def without_times(record: CollectiveRecord) -> CollectiveRecord:
    return replace(record, gap_ns=None, t_issue_ns=None, t_done_ns=None)


def without_rows(records: Sequence[CollectiveRecord]) -> Iterator[CollectiveRecord]:
    """Every field but the sizes of the exchanges of rows, which only the tokens decide."""
    for record in map(without_times, records):
        if record.op == "all_to_all" and record.dtype != "int32":
            yield replace(record, bytes_in=0, bytes_out=0, in_splits=None, out_splits=None)
        else:
            yield record


@pytest.mark.parametrize(("world_size", "name"), FLAT)
def test_formula_and_recording_are_the_same_record_by_record(
    recordings: dict[int, Recorded], world_size: int, name: str
) -> None:
    header, recorded, *_ = recordings[world_size][name]
    computed_header, records = computed(world_size, name)
    assert replace(header, source="formula", torch=None) == computed_header
    assert list(without_rows(recorded)) == list(without_rows(records))
    calls = {"euler": 3, "heun": 4}[CASES[world_size][name][1]["kind"]]
    assert {record.micro for record in recorded if record.op != "all_gather"} <= set(range(calls))
    assert recorded[-1].micro == calls - 1


@pytest.mark.parametrize(("world_size", "name"), FLAT)
def test_exchanges_of_rows_move_the_same_bytes(recordings: dict[int, Recorded], world_size: int, name: str) -> None:
    _, recorded, *_ = recordings[world_size][name]
    _, records = computed(world_size, name)
    assert (totals(recorded) == totals(records)) == (name not in UNEVEN)


def totals(records: Sequence[CollectiveRecord]) -> dict[tuple[object, ...], int]:
    """Bytes of each all-to-all over all ranks of a kind of group: tokens decide between whom."""
    found: dict[tuple[object, ...], int] = {}
    turns: dict[int, int] = {}
    for record in records:
        if record.op == "all_to_all":
            turn = turns[record.rank] = turns.get(record.rank, -1) + 1
            key = turn, re.sub(r"_\d+$", "", record.group), record.micro, record.layer
            found[key] = found.get(key, 0) + record.bytes_in
    return found


@pytest.mark.parametrize(
    ("world_size", "name"), [param for param in FLAT if "moe" in CASES[param.values[0]][param.values[1]][0]]
)
def test_with_the_recorded_routes_the_formula_is_the_recording_to_the_last_split(
    recordings: dict[int, Recorded], world_size: int, name: str
) -> None:
    header, recorded, _, folder = recordings[world_size][name]
    routing, placement = RoutingTrace.read(folder / "routing.npz"), Placement.read(folder / "placement.json")
    replayed_header, replayed = replay(
        *computed(world_size, name), routing, placement, configuration(world_size, name).moe.dispatch
    )
    assert replayed_header.groups == header.groups
    assert [asdict(record) for record in replayed] == [asdict(without_times(record)) for record in recorded]


@pytest.mark.parametrize(("world_size", "name"), FLAT)
def test_ranks_draw_what_one_process_draws(recordings: dict[int, Recorded], world_size: int, name: str) -> None:
    for together, alone in recordings[world_size][name][2]:
        assert alone.std() > 0.1
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
