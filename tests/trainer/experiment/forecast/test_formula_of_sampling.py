"""The formula of drawing against what ranks issue that draw; and what they draw together against one process."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
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
from trainer.experiment.forecast.trace import formula

EXPERTS = {"num_experts": 4, "top_k": 2, "expert_hidden": 24}
EULER, HEUN = {"kind": "euler", "steps": 3}, {"kind": "heun", "steps": 2}
GLOBAL = {"router": {"kind": "sparse_ot", "potentials": "global"}}
REPLICAS = "tests/files/replicas.json"

HEAD = {
    "model": {"kind": "transition_dit", "hidden": 16, "num_layers": 2, "num_heads": 4, "head": {"hidden": 8}},
    "flow": {"objective": {"kind": "transition"}},
}
DRAWN = {"kind": "transition", "steps": 2, "head": {"kind": "dopri5"}}
"""Ranks take other numbers of steps with the head, which sends nothing."""

CAUSAL = {
    "model": {"kind": "causal_transition", "hidden": 16, "num_layers": 2, "num_heads": 2},
    "data": {"kind": "toy", "classes": True},
    "flow": {"objective": {"kind": "causal_transition"}},
    "parallel": {"tensor": 2},
}
LAST = {"model": {**CAUSAL["model"], "history": "last"}}
ONE_BY_ONE = {"kind": "causal_transition", "tokens": 4, "head": {"kind": "euler", "steps": 3}}

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
        "home, a head draws, guided": ({"moe": EXPERTS, **HEAD}, DRAWN, 1.5, 6),
        "copies, mean of a head": ({"moe": EXPERTS | {"dispatch": "copies", "top_k": 4}, **HEAD}, EULER, 1.5, 4),
        "dense, fewer examples than ranks": ({}, HEUN, 1.5, 1),
        "tensor": ({"parallel": {"tensor": 2}}, EULER, 1.5, 3),
        "tensor, token by token from the last state": (CAUSAL | LAST, ONE_BY_ONE, 1.5, 2),
        "tensor, token by token from all states": (CAUSAL, ONE_BY_ONE, 1.0, 2),
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
RARE = {
    *CASES[4],
    "home",
    "home, no class",
    "copies, one expert",
    "copies, mean of a head",
    "tensor, token by token from all states",
}
"""Those of four ranks, and those of two whose parts stand in other cases of two."""
FLAT = [
    pytest.param(world_size, name, marks=pytest.mark.slow if name in RARE else ())
    for world_size, cases in CASES.items()
    for name in cases
]
WITH_EXPERTS = [
    pytest.param(world_size, name, marks=pytest.mark.slow if name in RARE else ())
    for world_size, cases in CASES.items()
    for name, (settings, *_) in cases.items()
    if "moe" in settings
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


def record_cases(
    rank: int, world_size: int, folder: str, names: Sequence[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Draws cases on all ranks and on one; returns both drawings, and leaves the recording of the first."""
    return {name: record_case(rank, world_size, name, Path(folder) / str(index)) for index, name in enumerate(names)}


def record_case(rank: int, world_size: int, name: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    import torch.distributed as dist

    from trainer.checkpoint.pretrained import restore, restored_layout
    from trainer.config.rules.plan import plan_sampling
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.model.build import parameter_shapes
    from trainer.sampling.draw import TrainedFlow
    from trainer.sampling.flow import FlowParts
    from trainer.trace.session import DrawingTrace

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


@dataclass(frozen=True)
class Recorded:
    """A case: its trace, what each rank drew with the others and alone, and its folder."""

    header: TraceHeader
    records: list[CollectiveRecord]
    drawn: list[tuple[torch.Tensor, torch.Tensor]]
    folder: Path


Recordings = Callable[[int, str], Recorded]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Every case, recorded with those of its number of ranks that are as rare when one is first asked for."""

    @cache
    def recorded(world_size: int, *, rare: bool) -> dict[str, Recorded]:
        folder = tmp_path_factory.mktemp(f"ranks_{world_size}")
        names = [name for name in CASES[world_size] if (name in RARE) == rare]
        drawn = run_ranks(record_cases, world_size, str(folder), names)
        folders = {name: folder / str(index) for index, name in enumerate(names)}
        return {
            name: Recorded(*read(own / "collectives.jsonl"), [of_rank[name] for of_rank in drawn], own)
            for name, own in folders.items()
        }

    return lambda world_size, name: recorded(world_size, rare=name in RARE)[name]


def computed(world_size: int, name: str) -> tuple[TraceHeader, list[CollectiveRecord]]:
    from trainer.config.rules.plan import plan_sampling
    from trainer.experiment.forecast.sampling import sampling_spec

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
    recordings: Recordings, world_size: int, name: str
) -> None:
    header, recorded = recordings(world_size, name).header, recordings(world_size, name).records
    computed_header, records = computed(world_size, name)
    assert replace(header, source="formula", torch=None) == computed_header
    assert list(without_rows(recorded)) == list(without_rows(records))
    calls = {"euler": 3, "heun": 4, "transition": 2, "causal_transition": 4}[CASES[world_size][name][1]["kind"]]
    assert {record.micro for record in recorded if record.op != "all_gather"} <= set(range(calls))
    assert recorded[-1].micro == calls - 1


@pytest.mark.parametrize(("world_size", "name"), FLAT)
def test_exchanges_of_rows_move_the_same_bytes(recordings: Recordings, world_size: int, name: str) -> None:
    recorded = recordings(world_size, name).records
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


@pytest.mark.parametrize(("world_size", "name"), WITH_EXPERTS)
def test_with_the_recorded_routes_the_formula_is_the_recording_to_the_last_split(
    recordings: Recordings, world_size: int, name: str
) -> None:
    recorded, moe = recordings(world_size, name), configuration(world_size, name).moe
    assert moe is not None
    routing = RoutingTrace.read(recorded.folder / "routing.npz")
    placement = Placement.read(recorded.folder / "placement.json")
    header, records = replay(*computed(world_size, name), routing, placement, moe.dispatch)
    assert header.groups == recorded.header.groups
    assert records == [without_times(record) for record in recorded.records]


@pytest.mark.parametrize(("world_size", "name"), FLAT)
def test_ranks_draw_what_one_process_draws(recordings: Recordings, world_size: int, name: str) -> None:
    """Where a solver chooses its steps, it does so for all rows of a call together."""
    error = 1e-3 if CASES[world_size][name][1] == DRAWN else 1e-5
    for together, alone in recordings(world_size, name).drawn:
        assert alone.std() > 0.1
        torch.testing.assert_close(together, alone, rtol=0, atol=error)
