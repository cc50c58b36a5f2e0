"""Two-level dispatch against a dense mixture, the other modes and counts made by hand, on nodes of any size.

Shape suffixes: T tokens of a rank, E experts, D width, S sequence, B batch, N ranks.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moe.config import MoEConfig
from moe.dispatch.messages import PATTERNS, Sizes, Visits
from tests.moe.expert_values import expert_values
from tests.ranks import run_ranks

WIDTH, HIDDEN, EXPERTS, BATCH = 6, 10, 8, 2
SLOTS = np.random.default_rng(5).permutation(EXPERTS)
NODES = {2: (1, 2), 4: (1, 2, 4)}
"""Ranks of a node, by all ranks."""
CASES = [(world_size, node) for world_size, sizes in NODES.items() for node in sizes]
SLOW = {(4, 1), (4, 4)}
"""One level, which the suite has on 2 ranks."""
MAPS = ("top-1", "top-2", "top-4", "from none to all", "nothing", "everything", "one node", "no tokens on rank 0")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}
ELEMENT_TYPES = ("float64", "float32", "bfloat16")


def marked(cases: Iterable[tuple[int, int]]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in cases]


def routing_map(name: str, num_tokens: int, generator: torch.Generator) -> Tensor:
    """Which experts each token visits, bool [T, E]."""
    scores_TE = torch.rand(num_tokens, EXPERTS, generator=generator)
    match name:
        case "top-1" | "top-2" | "top-4" | "no tokens on rank 0":
            chosen_TK = scores_TE.topk(2 if name.startswith("no") else int(name[-1]), dim=1).indices
            return torch.zeros(num_tokens, EXPERTS, dtype=torch.bool).scatter(1, chosen_TK, True)
        case "from none to all":
            return scores_TE < torch.rand(num_tokens, 1, generator=generator) * 1.4 - 0.2
        case "nothing" | "everything":
            return torch.full((num_tokens, EXPERTS), name == "everything")
        case "one node":
            return (scores_TE < 0.4) & torch.isin(torch.arange(EXPERTS), torch.as_tensor(SLOTS[EXPERTS // 2 :]))
    raise AssertionError(name)


def inputs(rank: int, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [S, B, D] (a number that differs by rank), gates and map [T, E] of a rank."""
    generator = torch.Generator().manual_seed(100 * rank + MAPS.index(name))
    length = 0 if rank == 0 and name == "no tokens on rank 0" else rank + 9
    tokens_SBD = torch.randn(length, BATCH, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    num_tokens = len(tokens_SBD) * BATCH
    gates_TE = torch.rand(num_tokens, EXPERTS, generator=generator, dtype=torch.float64)
    wide = torch.promote_types(dtype, torch.float32)
    return tokens_SBD, gates_TE.to(wide), routing_map(name, num_tokens, generator)


class FixedRouter(nn.Module):
    """Gives what it was given."""

    def __init__(self, gates_TE: Tensor, routing_map_TE: Tensor) -> None:
        super().__init__()
        self.gates_TE, self.routing_map_TE = nn.Parameter(gates_TE), routing_map_TE

    def forward(self, _tokens: Tensor, _padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.gates_TE * self.routing_map_TE, self.routing_map_TE


class Messages(TorchDispatchMode):
    """Bytes of each all-to-all to each rank of the world, own block included."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[list[int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            assert func.name() == "c10d::alltoall_base_", "the mode issues nothing but all-to-alls"
            ranks = dist.get_process_group_ranks(dist.ProcessGroup.unbox(args[2]))
            message, splits = args[1], args[4] or [len(args[1]) // len(ranks)] * len(ranks)
            row_bytes = message[:1].numel() * message.element_size()
            sent = dict(zip(ranks, splits, strict=True))
            self.sent.append([sent.get(rank, 0) * row_bytes for rank in range(dist.get_world_size())])
        return func(*args, **(kwargs or {}))


def run_cases(rank: int, world_size: int, node: int) -> dict[str, dict[str, dict[str, Any]]]:
    from trainer.distributed.groups import divide_ranks

    divide_ranks(world_size, 1, node if 1 < node < world_size else None)
    return {
        name: {
            f"{dispatch}, {dtype}": run_layer(rank, world_size, name, dispatch, getattr(torch, dtype))
            for dispatch in ("copies", "hierarchical")
            for dtype in ELEMENT_TYPES
            if dispatch == "hierarchical" or node in (1, world_size) or name == "everything"
        }
        for name in MAPS
    }


def run_layer(rank: int, world_size: int, name: str, dispatch: Any, dtype: torch.dtype) -> dict[str, Any]:
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, expert_hidden=HIDDEN, dispatch=dispatch)
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=dtype
    )
    layer = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=SLOTS)
    tokens_SBD, gates_TE, routing_map_TE = inputs(rank, name, dtype)
    layer.router = FixedRouter(gates_TE, routing_map_TE)  # pyright: ignore[reportAttributeAccessIssue]
    tokens_SBD.requires_grad_()
    with Messages() as messages:
        output = layer(tokens_SBD)
        output.sin().sum().backward()
    return {
        "messages": messages.sent,
        "output": output.detach(),
        "tokens": tokens_SBD.grad,
        "gates": layer.router.gates_TE.grad,  # pyright: ignore[reportAttributeAccessIssue]
        "experts": expert_values(layer),
    }


Results = Callable[[tuple[int, int]], list[dict[str, dict[str, dict[str, Any]]]]]


@pytest.fixture(scope="module")
def results() -> Results:
    """What the ranks of a case find, when it is first asked for."""
    return cache(lambda case: run_ranks(run_cases, *case))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", marked(CASES), ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_equals_the_dense_mixture(results: Results, case: tuple[int, int], name: str, dtype: torch.dtype) -> None:
    def assert_close(actual: Any, expected: Any) -> None:
        tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype], "check_dtype": False}
        torch.testing.assert_close(actual, expected, **tolerance)

    wide = torch.float64 if dtype == torch.bfloat16 else dtype
    ranks = [of_rank[name][f"hierarchical, {str(dtype)[6:]}"] for of_rank in results(case)]
    held = {expert: values for of_rank in ranks for expert, values in of_rank["experts"].items()}
    experts = [
        {key: value.clone().to(wide).requires_grad_() for key, (value, _) in held[expert].items()}
        for expert in sorted(held)
    ]
    for rank, of_rank in enumerate(ranks):
        tokens_SBD, gates_TE, routing_map_TE = inputs(rank, name, dtype)
        tokens_SBD, gates_TE = (values.to(wide).requires_grad_() for values in (tokens_SBD, gates_TE))
        output = torch.zeros_like(tokens_SBD)
        for expert, weights in enumerate(experts):
            inner = torch.nn.functional.gelu(tokens_SBD @ weights["linear_fc1.weight"].T)
            gate = (gates_TE * routing_map_TE)[:, expert].view(*tokens_SBD.shape[:2], 1)
            output = output + gate * (inner @ weights["linear_fc2.weight"].T)
        output.sin().sum().backward()
        assert_close(of_rank["output"], output.detach())
        assert_close(of_rank["tokens"], tokens_SBD.grad)
        assert_close(of_rank["gates"], gates_TE.grad)
    for expert, weights in enumerate(experts):
        for key, (_, gradient) in held[expert].items():
            assert_close(gradient, weights[key].grad)


@pytest.mark.parametrize("case", marked(case for case in CASES if case[1] in (1, case[0])), ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_one_level_is_one_copy_a_rank(results: Results, case: tuple[int, int], name: str) -> None:
    """One node, or one rank a node: the same messages and the same values to the last bit."""
    for of_rank in results(case):
        for dtype in ELEMENT_TYPES:
            ours, copies = (of_rank[name][f"{mode}, {dtype}"] for mode in ("hierarchical", "copies"))
            assert ours["messages"] == copies["messages"]
            for key in ("output", "tokens", "gates", "experts"):
                torch.testing.assert_close(ours[key], copies[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", MAPS)
def test_messages_hold_one_row_a_node_and_then_one_a_rank(results: Results, name: str) -> None:
    """Nine all-to-alls on 2 nodes x 2 ranks, counted here token by token, and as described for formula and replay."""
    ranks, element, gate = range(4), 4, 4
    slot_of = {int(expert): slot for slot, expert in enumerate(SLOTS)}
    rail, rail_labels, node, node_labels = np.zeros((4, 4, 4), int)
    chosen = []
    for home in ranks:
        rows = inputs(home, name, torch.float32)[2]
        chosen.append((home, np.array([[e if on else -1 for e, on in enumerate(row)] for row in rows.tolist()], int)))
        for row in rows:
            visited = [slot_of[expert] // 2 for expert in row.nonzero()[:, 0].tolist()]
            for relay in {rank // 2 * 2 + home % 2 for rank in visited}:
                rail[home, relay] += 1
            for rank in visited:
                rail_labels[home, rank // 2 * 2 + home % 2] += 1
                node_labels[rank // 2 * 2 + home % 2, rank] += 1
            for rank in set(visited):
                node[rank // 2 * 2 + home % 2, rank] += 1
    row, label = WIDTH * element, element + gate
    expected = [
        np.full((4, 4), 5 * 4),
        rail * row + rail_labels * label,
        node * row + node_labels * label,
        node.T * row,
        rail.T * row,
        rail * row,
        node * row,
        node.T * row + node_labels.T * gate,
        rail.T * row + rail_labels.T * gate,
    ]
    expert_ranks_E = np.argsort(SLOTS) // 2
    visits = Visits.of([(home, ids.reshape(-1, EXPERTS)) for home, ids in chosen], expert_ranks_E, 4, num_nodes=2)
    sizes = Sizes(WIDTH, element, EXPERTS, "float32")
    described = [one for phase in ("forward", "backward") for one in PATTERNS["hierarchical"](visits, sizes, phase)]
    for rank, of_rank in enumerate(results((4, 2))):
        assert of_rank[name]["hierarchical, float32"]["messages"] == [message[rank].tolist() for message in expected]
    for exchange, volume in zip(described, expected, strict=True):
        np.testing.assert_array_equal(exchange.volume, volume)


def test_fewer_rows_cross_between_nodes(results: Results) -> None:
    """Every expert of every token: two ranks a node make two copies cross where one is enough."""
    crossing = {}
    for mode in ("copies", "hierarchical"):
        rows = [of_rank["everything"][f"{mode}, float64"]["messages"] for of_rank in results((4, 2))]
        crossing[mode] = sum(
            size for rank, sent in enumerate(rows) for message in sent for size in message[2 - rank // 2 * 2 :][:2]
        )
    assert crossing["hierarchical"] < 0.65 * crossing["copies"]
