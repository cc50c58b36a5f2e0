"""A trace replayed under another placement and dispatch mode, against a recording of exactly that."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read
from moe.placement.placement import Placement
from moe.replay import replay
from moe.routing_trace import RoutingTrace
from tests.ranks import run_ranks
from trainer.trace.merge import merge

WORLD, GROUP, EXPERTS, LAYERS, WIDTH, TOP_K = 4, 2, 8, 3, 8, 2
STEPS = (1, 2)
ACCUMULATION = 2


def placement(seed: int | None, dispatch: Any) -> Placement:
    contiguous = Placement.contiguous(LAYERS, EXPERTS, 1, GROUP, dispatch=dispatch)
    if seed is None:
        return contiguous
    draw = np.random.default_rng(seed)
    layers = (draw.permutation(EXPERTS).reshape(GROUP, -1).tolist() for _ in range(LAYERS))
    return contiguous.model_copy(update={"rank_experts": tuple(tuple(map(tuple, layer)) for layer in layers)})


CASES = {"home": placement(None, "home"), "home, placed": placement(1, "home"), "copies": placement(2, "copies")}


def record_cases(rank: int, world_size: int, folder: str) -> None:
    """Runs the same network on the same tokens under each placement and mode, and records both traces."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=GROUP)
    for name, case in CASES.items():
        record(Path(folder) / name, rank, world_size, case)


def record(folder: Path, rank: int, world_size: int, placed: Placement) -> None:
    import torch
    import torch.distributed as dist
    from torch import nn

    from moe.config import MoEConfig, TopKRouterConfig
    from moe.layer import PlacedMoELayer, transformer_config
    from moe.routing_trace import RoutingHeader
    from trainer.engine.groups import group_names
    from trainer.trace.context import phase
    from trainer.trace.recorder import Recorder
    from trainer.trace.routing import RoutingRecorder, merge_routing

    config = MoEConfig(
        num_experts=EXPERTS,
        top_k=TOP_K,
        expert_hidden=4,
        router=TopKRouterConfig(capacity_factor=1.2),
        dispatch=placed.dispatch,  # pyright: ignore[reportArgumentType]
    )
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=LAYERS, num_heads=1, expert_parallel=GROUP, dtype=torch.float32
    )
    layers = nn.ModuleList(
        PlacedMoELayer(config, megatron, layer, 5, placed.slot_to_expert(layer)) for layer in range(LAYERS)
    )
    recorder = Recorder(
        rank_path(folder, rank), steps=STEPS, ranks_per_node=1, group_names=group_names(), blocks=list(layers)
    )
    header = RoutingHeader(
        num_experts=EXPERTS,
        num_layers=LAYERS,
        top_k=TOP_K,
        world_size=world_size,
        model="stack",
        hidden=WIDTH,
        element_bytes=4,
        moe_layers=tuple(range(LAYERS)),
        expert_parallel=GROUP,
    )
    routing = RoutingRecorder(folder, [layer.router for layer in layers], header, steps=STEPS, micro_batch=3)
    for step in STEPS:
        for local in range(ACCUMULATION):
            micro = rank * ACCUMULATION + local
            draw = torch.Generator().manual_seed(100 * step + micro)
            tokens = torch.randn(4, 3, WIDTH, generator=draw, requires_grad=True)
            with recorder.step(step, local), routing.step(step, micro):
                with phase("forward"):
                    total = torch.zeros(1)
                    dist.all_reduce(total)
                    for layer in layers:
                        tokens = tokens + layer(tokens)
                with phase("backward"):
                    tokens.square().mean().backward()
    recorder.write()
    routing.write()
    dist.barrier()
    if rank == 0:
        merge(folder, world_size)
        merge_routing(folder, world_size)
    dist.barrier()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    run_ranks(record_cases, WORLD, str(folder))
    return folder


def timeless(records: list[CollectiveRecord]) -> list[CollectiveRecord]:
    return [replace(record, gap_ns=None, t_issue_ns=None, t_done_ns=None) for record in records]


def traces(folder: Path, name: str) -> tuple[TraceHeader, list[CollectiveRecord], RoutingTrace]:
    return *read(folder / name / "collectives.jsonl"), RoutingTrace.read(folder / name / "routing.npz")


@pytest.mark.parametrize("source", CASES)
@pytest.mark.parametrize("target", CASES)
def test_a_replay_is_what_the_run_would_have_issued(recorded: Path, source: str, target: str) -> None:
    header, records, routing = traces(recorded, source)
    wanted_header, wanted, _ = traces(recorded, target)
    replayed_header, replayed = replay(header, records, routing, CASES[target])
    assert timeless(replayed) == timeless(wanted)
    assert replayed_header == replace(wanted_header, source="replayed")


def test_compute_keeps_its_time(recorded: Path) -> None:
    header, records, routing = traces(recorded, "home")
    _, replayed = replay(header, records, routing, CASES["copies"])
    assert sum(record.gap_ns or 0 for record in replayed) == sum(record.gap_ns or 0 for record in records)


def test_what_does_not_belong_together_is_refused(recorded: Path) -> None:
    header, records, routing = traces(recorded, "home")
    other_world = replace(routing, header=routing.header.model_copy(update={"world_size": 8}))
    other_group = Placement.contiguous(LAYERS, EXPERTS, 1, 4)
    cases = [
        (header, replace(routing, step=None), CASES["home"], None, "routing: lacks step"),
        (header, other_world, CASES["home"], None, "routing: was recorded on 8 ranks"),
        (replace(header, steps=(1, 2, 3)), routing, CASES["home"], None, "routing: has no tokens of step [3]"),
        (header, routing, other_group, None, "placement: is made for groups of 4 ranks"),
        (header, routing, Placement.contiguous(2, EXPERTS, 1, GROUP), None, "placement: has 2 layers"),
        (header, routing, CASES["home"], "teleport", "dispatch: cannot be replayed (teleport)"),
    ]
    for case_header, case_routing, placed, dispatch, message in cases:
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            replay(case_header, records, case_routing, placed, dispatch)  # pyright: ignore[reportArgumentType]
