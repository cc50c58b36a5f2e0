"""De-duplicated dispatch against home-return dispatch, a dense mixture and counts made by hand; any routing map.

Shape suffixes: T tokens of a rank, E experts, D width, S sequence, B batch.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moe.config import MoEConfig
from tests.moe.expert_values import expert_values
from tests.ranks import run_ranks

WIDTH, HIDDEN, EXPERTS, BATCH = 6, 10, 8, 2
SLOTS = np.random.default_rng(5).permutation(EXPERTS)
WORLD_SIZES = (2, 4)
MAPS = (
    "top-1",
    "top-2",
    "from none to all",
    "nothing",
    "everything",
    "one expert",
    "idle first rank",
    "no tokens on rank 0",
)


def routing_map(name: str, num_tokens: int, generator: torch.Generator) -> Tensor:
    """Which experts each token visits, bool [T, E]."""
    scores_TE = torch.rand(num_tokens, EXPERTS, generator=generator)
    match name:
        case "top-1" | "top-2" | "no tokens on rank 0":
            chosen_TK = scores_TE.topk(1 if name == "top-1" else 2, dim=1).indices
            return torch.zeros(num_tokens, EXPERTS, dtype=torch.bool).scatter(1, chosen_TK, True)
        case "from none to all":
            return scores_TE < torch.rand(num_tokens, 1, generator=generator) * 1.4 - 0.2
        case "nothing" | "everything":
            return torch.full((num_tokens, EXPERTS), name == "everything")
        case "one expert":
            return torch.arange(EXPERTS).expand(num_tokens, -1) == 3
        case "idle first rank":
            return (scores_TE < 0.3) & ~torch.isin(torch.arange(EXPERTS), torch.as_tensor(SLOTS[: EXPERTS // 2]))
    raise AssertionError(name)


class FixedRouter(nn.Module):
    """Gives what it was given."""

    def __init__(self, gates_TE: Tensor, routing_map_TE: Tensor) -> None:
        super().__init__()
        self.gates_TE, self.routing_map_TE = nn.Parameter(gates_TE), routing_map_TE

    def forward(self, _tokens: Tensor, _padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.gates_TE * self.routing_map_TE, self.routing_map_TE


class Messages(TorchDispatchMode):
    """Bytes of each all-to-all to each rank, own block included."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[list[int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            assert func.name() == "c10d::alltoall_base_", "copies issue nothing but all-to-alls"
            message, splits = args[1], args[4] or [len(args[1]) // dist.get_world_size()] * dist.get_world_size()
            row_bytes = message[:1].numel() * message.element_size()
            self.sent.append([rows * row_bytes for rows in splits])
        return func(*args, **(kwargs or {}))


def inputs(rank: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [S, B, D] (a number that differs by rank), gates and map [T, E] of a rank."""
    generator = torch.Generator().manual_seed(100 * rank + MAPS.index(name))
    length = 0 if rank == 0 and name == "no tokens on rank 0" else rank + 9
    tokens_SBD = torch.randn(length, BATCH, WIDTH, generator=generator, dtype=torch.float64)
    num_tokens = len(tokens_SBD) * BATCH
    gates_TE = torch.rand(num_tokens, EXPERTS, generator=generator, dtype=torch.float64)
    return tokens_SBD, gates_TE, routing_map(name, num_tokens, generator)


def run_cases(rank: int, world_size: int) -> dict[str, dict[str, dict[str, Any]]]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    return {
        name: {dispatch: run_layer(rank, world_size, name, dispatch) for dispatch in ("home", "copies", "copies again")}
        for name in MAPS
    }


def run_layer(rank: int, world_size: int, name: str, dispatch: Any) -> dict[str, Any]:
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, expert_hidden=HIDDEN, dispatch=dispatch.split()[0])
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float64
    )
    layer = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=SLOTS)
    tokens_SBD, gates_TE, routing_map_TE = inputs(rank, name)
    layer.router = FixedRouter(gates_TE, routing_map_TE)  # pyright: ignore[reportAttributeAccessIssue]
    tokens_SBD.requires_grad_()
    with Messages() if dispatch.startswith("copies") else torch.enable_grad() as messages:
        output = layer(tokens_SBD)
        output.sin().sum().backward()
    return {
        "messages": getattr(messages, "sent", None),
        "output": output.detach(),
        "tokens": tokens_SBD.grad,
        "gates": layer.router.gates_TE.grad,  # pyright: ignore[reportAttributeAccessIssue]
        "experts": expert_values(layer),
    }


Results = dict[int, list[dict[str, dict[str, dict[str, Any]]]]]


@pytest.fixture(scope="module")
def results() -> Results:
    return {world_size: run_ranks(run_cases, world_size) for world_size in (1, *WORLD_SIZES)}


def assert_close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("world_size", [1, *WORLD_SIZES])
@pytest.mark.parametrize("name", MAPS)
def test_equals_home_return_dispatch_and_itself(results: Results, world_size: int, name: str) -> None:
    for of_rank in results[world_size]:
        home, copies, again = (of_rank[name][dispatch] for dispatch in ("home", "copies", "copies again"))
        for key in ("output", "tokens", "gates", "experts"):
            assert_close(copies[key], home[key])
            torch.testing.assert_close(again[key], copies[key], rtol=0, atol=0)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("name", MAPS)
def test_equals_the_dense_mixture(results: Results, world_size: int, name: str) -> None:
    ranks = [of_rank[name]["copies"] for of_rank in results[world_size]]
    held = {expert: values for of_rank in ranks for expert, values in of_rank["experts"].items()}
    experts = [
        {key: value.clone().requires_grad_() for key, (value, _) in held[expert].items()} for expert in sorted(held)
    ]
    for rank, of_rank in enumerate(ranks):
        tokens_SBD, gates_TE, routing_map_TE = inputs(rank, name)
        tokens_SBD.requires_grad_()
        gates_TE.requires_grad_()
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


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("name", MAPS)
def test_messages_hold_one_row_a_rank_and_one_label_a_choice(results: Results, world_size: int, name: str) -> None:
    """Five all-to-alls; counted here token by token."""
    element, rank_of = 8, {int(expert): slot * world_size // EXPERTS for slot, expert in enumerate(SLOTS)}
    choices, copies = np.zeros((2, world_size, world_size), int)
    for rank in range(world_size):
        for row in inputs(rank, name)[2]:
            ranks = [rank_of[expert] for expert in row.nonzero()[:, 0].tolist()]
            for other in ranks:
                choices[rank, other] += 1
            for other in set(ranks):
                copies[rank, other] += 1
    row = WIDTH * element
    expected = [
        np.full_like(copies, 8),
        copies * row + choices * 2 * element,
        copies.T * row,
        copies * row,
        copies.T * row + choices.T * element,
    ]
    for rank, of_rank in enumerate(results[world_size]):
        assert of_rank[name]["copies"]["messages"] == [message[rank].tolist() for message in expected]


def exchange_labels(rank: int, _world_size: int) -> dict[int, list[tuple[Tensor, ...]]]:
    """One or two labels with a row to the other rank and none to oneself, in bfloat16 with float32 weights."""
    from moe.dispatch.exchange import ExchangeLabelledRows, ExchangeWeightedRows, Splits

    results = {}
    for number in (1, 2):
        one, many = [0, 0], [0, 0]
        one[1 - rank], many[1 - rank] = 1, number
        rows = torch.full((1, 3), float(rank), dtype=torch.bfloat16)
        sizes = Splits(one, many), Splits(one, many)
        arguments = SENT_WEIGHTS[:number] + rank, SENT_LABELS[:number], dist.group.WORLD
        labelled = ExchangeLabelledRows.apply(rows, *arguments, *sizes)
        results[number] = [labelled, ExchangeWeightedRows.apply(rows, arguments[0][:1], dist.group.WORLD, one, one)]
    return results


SENT_WEIGHTS, SENT_LABELS = torch.tensor([0.1, float("nan")]), torch.tensor([2**15 - 1, 5])


def test_weights_keep_their_bits_in_messages_of_lower_precision() -> None:
    """A single row at an odd place is a trap: torch takes a slice of it for contiguous and cannot widen its type."""
    for rank, results in enumerate(run_ranks(exchange_labels, 2)):
        for number, (labelled, weighted) in results.items():
            sent = SENT_WEIGHTS[:number] + (1 - rank)
            rows = torch.full((1, 3), 1.0 - rank, dtype=torch.bfloat16)
            assert torch.equal(labelled[0], rows)
            assert torch.equal(weighted[0], rows)
            assert torch.equal(labelled[1].view(torch.int32), sent.view(torch.int32))
            assert torch.equal(weighted[1].view(torch.int32), sent[:1].view(torch.int32))
            assert torch.equal(labelled[2], SENT_LABELS[:number])
