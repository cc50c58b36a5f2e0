"""What a layer asks of a device around its experts, and how often the host would wait for it.

Shape suffixes: T tokens of a rank, E experts, D width, R rows, S slots of a rank.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moe.config import MoEConfig
from tests.each import each
from tests.moe.dispatch.counted import Counted
from tests.ranks import run_ranks

EXPERTS, WIDTH, TOKENS, SEATS = 16, 8, 64, 24
MOST_OPERATIONS = {"home": 60, "capped": 51, "copies": 80, "hierarchical": 110}
MOST_WAITS = {"home": 1, "capped": 0, "copies": 1, "hierarchical": 1}


class Chosen(nn.Module):
    """A router whose choices are made before anything is counted: two experts a token."""

    def __init__(self, gates_TE: Tensor, map_TE: Tensor) -> None:
        super().__init__()
        assert int(map_TE.sum(dim=0).max()) <= SEATS
        self.gates_TE, self.map_TE = gates_TE, map_TE

    def capacity(self, _tokens: int) -> int:
        return SEATS

    def forward(self, _tokens: Tensor, _mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.gates_TE, self.map_TE


class NoExperts(nn.Module):
    loans = None

    def forward(self, rows_RD: Tensor, tokens_per_slot_S: Tensor, gates_R: Tensor) -> tuple[Tensor, None]:
        assert rows_RD.is_contiguous()
        assert len(gates_R) == len(rows_RD)
        assert len(tokens_per_slot_S) == EXPERTS // 4
        return rows_RD, None


def count(rank: int, world_size: int) -> dict[str, tuple[Counted, Counted]]:
    """Forward and backward pass in every mode, on two nodes of two ranks."""
    from moe.layer import PlacedMoELayer, transformer_config
    from trainer.distributed.groups import divide_ranks

    divide_ranks(world_size, 1, 2)
    found: dict[str, Any] = {}
    for dispatch in MOST_WAITS:
        config = MoEConfig(num_experts=EXPERTS, top_k=2, expert_hidden=8, dispatch=dispatch)  # pyright: ignore[reportArgumentType]
        megatron = transformer_config(
            config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
        )
        slots = np.random.default_rng(3).permutation(EXPERTS)
        layer: Any = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=slots)
        generator = torch.Generator().manual_seed(rank)
        gates_TE = torch.rand(TOKENS, EXPERTS, generator=generator)
        map_TE = gates_TE >= gates_TE.topk(2, dim=1).values[:, 1:]
        gates_TE.requires_grad_()
        layer.router, layer.experts = Chosen(gates_TE, map_TE), NoExperts()
        tokens_SBD = torch.randn(TOKENS, 1, WIDTH, generator=generator, requires_grad=True)
        layer(tokens_SBD)  # what a placement leaves on the device once
        with Counted() as forward:
            output = layer(tokens_SBD)
        with Counted() as backward:
            output.backward(torch.ones_like(output))
        found[dispatch] = tuple((one.total, dict(one.waits), one.copies) for one in (forward, backward))
    return found


@pytest.fixture(scope="module")
def counts() -> list[dict[str, Any]]:
    return run_ranks(count, 4)


@each("dispatch", MOST_WAITS)
def test_the_host_waits_once_at_most_and_never_in_the_backward_pass(
    counts: list[dict[str, Any]], dispatch: str
) -> None:
    for of_rank in counts:
        (operations, waits, copies), (_, later_waits, later_copies) = of_rank[dispatch]
        assert sum(waits.values()) <= MOST_WAITS[dispatch], waits
        assert later_waits == {}
        assert copies == later_copies == 0
        assert operations <= MOST_OPERATIONS[dispatch]


def test_what_is_counted() -> None:
    """Operations that run, reads of the host and copies from it; nothing of what is computed on the host."""
    values = torch.arange(6.0)
    with Counted() as counted:
        on_host = (values + 1).cpu()
        on_host.sum().tolist()
        values[values > 2]
        bool(values.sum() > 0)
        values.view(2, 3).T[0]
        torch.tensor([1.0, 2.0])
    assert counted.operations == {"add": 1, "gt": 2, "index": 1, "sum": 1, "_local_scalar_dense": 1}
    assert counted.waits == {"cpu": 1, "index": 1, "_local_scalar_dense": 1}
    assert counted.copies == 1


def count_with_router(rank: int, world_size: int) -> dict[str, int]:
    """Operations of a forward pass around the experts, those of a sparse-OT router included."""
    from moe.layer import PlacedMoELayer, transformer_config
    from trainer.distributed.groups import divide_ranks

    divide_ranks(world_size, 1)
    found = {}
    for dispatch in ("home", "capped"):
        config = MoEConfig(num_experts=64, top_k=2, expert_hidden=8, router={"kind": "sparse_ot"}, dispatch=dispatch)  # pyright: ignore[reportArgumentType]
        megatron = transformer_config(
            config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
        )
        layer: Any = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=np.arange(64))
        layer.experts.forward = lambda rows, _counts, _gates: (rows, None)
        tokens = torch.randn(512, 1, WIDTH, generator=torch.Generator().manual_seed(rank))
        layer(tokens)
        with Counted() as counted:
            layer(tokens)
        found[dispatch] = sum(counted.operations.values())
    return found


def test_router_and_dispatch_take_at_most_150_operations_a_layer() -> None:
    for of_rank in run_ranks(count_with_router, 2):
        assert max(of_rank.values()) <= 150, of_rank
        assert min(of_rank.values()) > 50, "both are counted"
