"""Layers whose router gives what it was given, and a dense mixture of their experts on one process.

Shape suffixes: T tokens of a rank, E experts, D width, S sequence, B batch.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from moe.config import MoEConfig
from tests.moe.expert_values import expert_values

WIDTH, HIDDEN, EXPERTS, BATCH = 6, 10, 8, 2
SLOTS = np.random.default_rng(5).permutation(EXPERTS)
MAPS = (
    *("top-1", "top-2", "top-4", "from none to all", "nothing", "everything"),
    *("one expert", "one node", "idle first rank", "no tokens on rank 0"),
)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}


def routing_map(name: str, num_tokens: int, generator: torch.Generator) -> Tensor:
    """Which experts each token visits, bool [T, E]."""
    scores_TE = torch.rand(num_tokens, EXPERTS, generator=generator)
    second_half = torch.isin(torch.arange(EXPERTS), torch.as_tensor(SLOTS[EXPERTS // 2 :]))
    match name:
        case "top-1" | "top-2" | "top-4" | "no tokens on rank 0":
            chosen_TK = scores_TE.topk(2 if name.startswith("no") else int(name[-1]), dim=1).indices
            return torch.zeros(num_tokens, EXPERTS, dtype=torch.bool).scatter(1, chosen_TK, True)
        case "from none to all":
            return scores_TE < torch.rand(num_tokens, 1, generator=generator) * 1.4 - 0.2
        case "nothing" | "everything":
            return torch.full((num_tokens, EXPERTS), name == "everything")
        case "one expert":
            return torch.arange(EXPERTS).expand(num_tokens, -1) == 3
        case "one node" | "idle first rank":
            return (scores_TE < (0.4 if name == "one node" else 0.3)) & second_half
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


def run_layer(rank: int, world_size: int, name: str, dispatch: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What a rank finds in both passes, and what it sends if the mode is none of home return."""
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, expert_hidden=HIDDEN, dispatch=dispatch)
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=dtype
    )
    layer = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=SLOTS)
    tokens_SBD, gates_TE, routing_map_TE = inputs(rank, name, dtype)
    layer.router = FixedRouter(gates_TE, routing_map_TE)  # pyright: ignore[reportAttributeAccessIssue]
    tokens_SBD.requires_grad_()
    with nullcontext() if dispatch == "home" else Messages() as messages:
        output = layer(tokens_SBD)
        output.sin().sum().backward()
    return {
        "messages": messages and messages.sent,
        "output": output.detach(),
        "tokens": tokens_SBD.grad,
        "gates": layer.router.gates_TE.grad,  # pyright: ignore[reportAttributeAccessIssue]
        "experts": expert_values(layer),
    }


def check_dense_mixture(ranks: list[dict[str, Any]], name: str, dtype: torch.dtype) -> None:
    """Outputs and gradients of all ranks are those of every expert on every token."""

    def assert_close(actual: Any, expected: Any) -> None:
        tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype], "check_dtype": False}
        torch.testing.assert_close(actual, expected, **tolerance)

    wide = torch.float64 if dtype == torch.bfloat16 else dtype
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
