"""A trace replayed under another placement and dispatch mode, against a recording of exactly that."""

import re
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read
from moe.placement.placement import Placement
from moe.replay import replay
from moe.routing_trace import RoutingTrace
from tests.ranks import run_ranks
from tests.selected import selected
from trainer.model.values import initialised
from trainer.trace.merge import merge

WORLD, GROUP, EXPERTS, LAYERS, WIDTH, TOP_K = 4, 2, 8, 3, 8, 2
EXPERT_HIDDEN = 4
STEPS = (1, 2)


def placement(seed: int | None, dispatch: Any, num_nodes: int = 1) -> Placement:
    contiguous = Placement.contiguous(LAYERS, EXPERTS, num_nodes, GROUP, dispatch=dispatch)
    if seed is None:
        return contiguous
    draw = np.random.default_rng(seed)
    layers = (draw.permutation(EXPERTS).reshape(num_nodes * GROUP, -1).tolist() for _ in range(LAYERS))
    return contiguous.model_copy(update={"rank_experts": tuple(tuple(map(tuple, layer)) for layer in layers)})


def replicated(seed: int, dispatch: Any, num_nodes: int = 1) -> Placement:
    """One slot more on each rank: it has a replica of some expert of the next."""
    made, draw = placement(seed, dispatch, num_nodes), np.random.default_rng(seed)
    layers = [
        [[*own, int(draw.choice(other))] for own, other in zip(layer, [*layer[1:], layer[0]], strict=True)]
        for layer in made.rank_experts
    ]
    return Placement.model_validate({**made.model_dump(), "rank_experts": layers})


STACK = {
    "home": placement(None, "home"),
    "home, placed": placement(1, "home"),
    "copies": placement(2, "copies"),
    "home, even replicas": replicated(5, "home"),
    "home, least loaded replicas": replicated(6, "home"),
    "copies, even replicas": replicated(7, "copies"),
    "copies, least loaded replicas": replicated(8, "copies"),
    "capped": placement(None, "home"),
    "capped, placed": placement(9, "home"),
}
"""A stack of layers that drop tokens."""
MODEL = {"home": placement(None, "home"), "coherent": placement(3, "coherent"), "copies": placement(4, "copies")}
"""A language model."""
NODES = {
    "home": placement(None, "home", 2),
    "copies": placement(5, "copies", 2),
    "hierarchical": placement(6, "hierarchical", 2),
    "hierarchical, contiguous": placement(None, "hierarchical", 2),
    "hierarchical, least loaded replicas": replicated(9, "hierarchical", 2),
    "coherent": placement(7, "coherent", 2),
}
"""The language model, its experts shared by two nodes of two ranks."""
KINDS = {"stack": STACK, "model": MODEL, "nodes": NODES}
ACCUMULATION = {"stack": 1, "model": 2, "nodes": 1}
SLOW = {
    ("stack", "home, placed"),
    ("stack", "home, even replicas"),
    ("stack", "copies, least loaded replicas"),
    ("stack", "capped"),
    ("nodes", "copies"),
    ("nodes", "hierarchical, contiguous"),
}
"""The rest has every mode, both ways to choose among replicas, and experts that are placed and that are not."""
PAIRS = [
    pytest.param(
        (kind, source, target),
        marks=pytest.mark.slow if SLOW & {(kind, source), (kind, target)} else (),
        id=f"{kind}: {source} -> {target}",
    )
    for kind, cases in KINDS.items()
    for source, target in product(cases, cases)
]


def rule_of(name: str) -> Any:
    """How a case chooses among replicas."""
    return "least_loaded" if "least loaded" in name else "even"


def mode_of(name: str, placed: Placement) -> Any:
    """How tokens travel in a case; a placement is never made for capped dispatch."""
    return "capped" if name.startswith("capped") else placed.dispatch


def record_cases(rank: int, world_size: int, folder: str, recorded: set[tuple[str, str]]) -> None:
    """Runs the same network on the same tokens under each placement and mode, and records both traces."""
    from trainer.distributed.groups import divide_ranks, unite_ranks

    for kind, name in sorted(recorded):
        case = KINDS[kind][name]
        divide_ranks(case.num_ranks, 1, case.relay_ranks(case.dispatch))
        record(Path(folder) / kind / name, rank, world_size, kind, case)
        unite_ranks()


def record(folder: Path, rank: int, world_size: int, kind: str, placed: Placement) -> None:
    import torch
    import torch.distributed as dist
    from torch import Tensor

    from moe.coherent_layer import CoherentMoELayer
    from moe.config import MoEConfig, TopKRouterConfig
    from moe.layer import PlacedMoELayer, transformer_config
    from moe.routing_trace import RoutingHeader
    from trainer.config.model import GPTConfig
    from trainer.distributed.groups import group_names
    from trainer.model.gpt import GPT
    from trainer.model.network import NetworkSpec
    from trainer.trace.context import phase
    from trainer.trace.merge import merge_routing
    from trainer.trace.recorder import Recorder
    from trainer.trace.routing import RoutingRecorder

    config = MoEConfig(
        num_experts=EXPERTS,
        top_k=TOP_K,
        expert_hidden=EXPERT_HIDDEN,
        router=TopKRouterConfig(capacity_factor=1.2 if kind == "stack" else None),
        dispatch=mode_of(folder.name, placed),
        replicas=rule_of(folder.name),
    )
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=LAYERS, num_heads=1, expert_parallel=placed.num_ranks, dtype=torch.float32
    )
    layer_type = CoherentMoELayer if placed.dispatch == "coherent" else PlacedMoELayer
    layers = [layer_type(config, megatron, layer, 5, placed.slot_to_expert(layer)) for layer in range(LAYERS)]
    sizes = GPTConfig(hidden=WIDTH, num_layers=LAYERS, num_heads=2, num_kv_heads=1)
    model = initialised(GPT(NetworkSpec(config=sizes, state_shape=(), mixture=layers.__getitem__)), 5)
    blocks = layers if kind == "stack" else list(model.blocks)

    def loss(draw: torch.Generator) -> Tensor:
        if kind != "stack":
            tokens = torch.randint(256, (3, 5), generator=draw)
            return model(tokens[:, :-1], tokens[:, 1:]).mean()
        rows = torch.randn(4, 3, WIDTH, generator=draw, requires_grad=True)
        for layer in layers:
            rows = rows + layer(rows)
        return rows.square().mean()

    recorder = Recorder(
        rank_path(folder, rank), steps=STEPS, ranks_per_node=1, group_names=group_names(), blocks=blocks
    )
    header = RoutingHeader(
        num_experts=EXPERTS,
        num_layers=LAYERS,
        top_k=TOP_K,
        world_size=world_size,
        model=kind,
        hidden=WIDTH,
        element_bytes=4,
        key_value_width=None if kind == "stack" else sizes.key_value_width,
        moe_layers=tuple(range(LAYERS)),
        expert_parallel=placed.num_ranks,
        expert_parameters=2 * WIDTH * EXPERT_HIDDEN,
        replicas=config.replicas,
        cap=config.router.cap,
        due_choices=config.top_k,
    )
    holders: list[Any] = list(layers)
    routing = RoutingRecorder(folder, holders, header, steps=STEPS, micro_batch=3)
    for step in STEPS:
        for local in range(ACCUMULATION[kind]):
            micro = rank * ACCUMULATION[kind] + local
            draw = torch.Generator().manual_seed(100 * step + micro)
            with routing.step(step, micro), recorder.step(step, local):
                with phase("forward"):
                    dist.all_reduce(torch.zeros(1))
                    value = loss(draw)
                with phase("backward"):
                    value.backward()
    recorder.write()
    routing.write()
    dist.barrier()
    if rank == 0:
        merge(folder, world_size)
        merge_routing(folder, world_size)
    dist.barrier()


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    cases = {(kind, name) for kind, names in KINDS.items() for name in names} - SLOW
    cases |= {(kind, name) for kind, *names in selected(request, "pair") for name in names}
    run_ranks(record_cases, WORLD, str(folder), cases)
    return folder


def timeless(records: list[CollectiveRecord]) -> list[CollectiveRecord]:
    return [replace(record, gap_ns=None, t_issue_ns=None, t_done_ns=None) for record in records]


@cache
def collectives(folder: Path, kind: str, name: str) -> tuple[TraceHeader, list[CollectiveRecord]]:
    return read(folder / kind / name / "collectives.jsonl")


@cache
def routing_of(folder: Path, kind: str) -> RoutingTrace:
    return RoutingTrace.read(folder / kind / "home" / "routing.npz")


@pytest.mark.parametrize("pair", PAIRS)
def test_a_replay_is_what_the_run_would_have_issued(recorded: Path, pair: tuple[str, str, str]) -> None:
    kind, source, target = pair
    wanted_header, wanted = collectives(recorded, kind, target)
    trace = collectives(recorded, kind, source)
    placed = KINDS[kind][target]
    routing = routing_of(recorded, kind)
    header, replayed = replay(*trace, routing, placed, mode_of(target, placed), rule_of(target))
    assert timeless(replayed) == timeless(wanted)
    assert header == replace(wanted_header, source="replayed")


def test_tokens_that_moved_are_recorded_at_home(recorded: Path) -> None:
    home, moved = (RoutingTrace.read(recorded / "model" / name / "routing.npz") for name in ("home", "coherent"))
    np.testing.assert_array_equal(moved.expert_ids, home.expert_ids)
    np.testing.assert_array_equal(moved.source_rank, home.source_rank)


def test_a_replay_chooses_among_replicas_as_the_run_did(recorded: Path) -> None:
    name = "home, least loaded replicas"
    own_routing = RoutingTrace.read(recorded / "stack" / name / "routing.npz")
    _, replayed = replay(*collectives(recorded, "stack", name), own_routing, STACK[name])
    assert timeless(replayed) == timeless(collectives(recorded, "stack", name)[1])


def test_compute_keeps_its_time(recorded: Path) -> None:
    targets = {"stack": STACK["copies"], "model": MODEL["coherent"], "nodes": NODES["hierarchical"]}
    for kind, target in targets.items():
        header, records = collectives(recorded, kind, "home")
        _, replayed = replay(header, records, routing_of(recorded, kind), target)
        assert sum(record.gap_ns or 0 for record in replayed) == sum(record.gap_ns or 0 for record in records)


def test_what_does_not_belong_together_is_refused(recorded: Path) -> None:
    header, records = collectives(recorded, "stack", "home")
    routing = routing_of(recorded, "stack")
    other_world = replace(routing, header=routing.header.model_copy(update={"world_size": 8}))
    without_experts = replace(routing, header=routing.header.model_copy(update={"expert_parameters": None}))
    without_limit = replace(routing, header=routing.header.model_copy(update={"cap": None}))
    other_group = Placement.contiguous(LAYERS, EXPERTS, 1, 4)
    home = STACK["home"]
    cases = [
        (header, replace(routing, step=None), home, None, "routing: lacks step"),
        (header, other_world, home, None, "routing: was recorded on 8 ranks"),
        (replace(header, steps=(1, 2, 3)), routing, home, None, "routing: has no tokens of step [3]"),
        (header, routing, other_group, None, "placement: is made for groups of 4 ranks"),
        (header, routing, Placement.contiguous(2, EXPERTS, 1, GROUP), None, "placement: has 2 layers"),
        (header, routing, home, "teleport", "dispatch: cannot be replayed (teleport)"),
        (header, routing, home, "coherent", "routing: header.key_value_width is missing"),
        (header, without_limit, home, "capped", "routing: header.cap is missing"),
        (header, routing, STACK["home, even replicas"], "capped", "placement: has replicas"),
        (header, without_experts, STACK["home, even replicas"], None, "routing: header.expert_parameters is missing"),
    ]
    for case_header, case_routing, placed, dispatch, message in cases:
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            replay(case_header, records, case_routing, placed, dispatch)  # pyright: ignore[reportArgumentType]
