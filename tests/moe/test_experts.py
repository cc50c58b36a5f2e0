"""The experts of a rank against Megatron-Core's own, finite differences and their memory.

Shape suffixes: R rows, D width, F inner width.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

import moe.experts
from tests.each import each
from tests.ranks import run_ranks

WIDTH, INNER = 6, 10
COUNTS = ([3, 0, 5], [0, 0, 0], [0, 9, 1])


def sequential_experts(stacked: nn.Module, config: Any) -> nn.Module:
    """Megatron-Core's experts with the weights of ours."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import SequentialMLP
    from megatron.core.transformer.moe.moe_utils import get_default_pg_collection

    products = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    experts: Any = SequentialMLP(len(COUNTS[0]), config, products, pg_collection=get_default_pg_collection())
    stacks = dict(stacked.named_parameters())
    with torch.no_grad():
        for row, expert in enumerate(experts.local_experts):
            for name, weight in expert.named_parameters():
                weight.copy_(stacks[name][row])
    return experts


def expert_gradients(experts: Any) -> dict[str, Tensor]:
    """Gradients of all first and all second matrices, whichever way the experts keep them."""
    if not hasattr(experts, "local_experts"):
        return {name: stack.grad.clone() for name, stack in experts.named_parameters()}
    names = [name for name, _ in experts.local_experts[0].named_parameters()]
    return {name: torch.stack([expert.get_parameter(name).grad for expert in experts.local_experts]) for name in names}


def sequential_and_stacked(_rank: int, _world_size: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Outputs and gradients of both on the same rows, of ours in blocks of four."""
    from megatron.core import parallel_state

    from moe.config import MoEConfig
    from moe.layer import PlacedMoELayer, transformer_config

    moe.experts._BLOCK_ROWS = 4
    parallel_state.initialize_model_parallel()
    config = MoEConfig(num_experts=3, expert_hidden=INNER)
    megatron = transformer_config(config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=1, dtype=dtype)
    stacked: Any = PlacedMoELayer(config, megatron, layer=0, seed=1, slot_to_expert=torch.arange(3).numpy()).experts
    sequential = sequential_experts(stacked, megatron)
    results = []
    for counts in COUNTS:
        generator = torch.Generator().manual_seed(0)
        rows_RD = torch.randn(sum(counts), WIDTH, generator=generator).to(dtype).requires_grad_()
        gates_R = torch.rand(sum(counts), generator=generator, dtype=torch.float32).requires_grad_()
        for experts in (sequential, stacked):
            experts.zero_grad()
            rows_RD.grad = gates_R.grad = None
            output_RD, bias = experts(rows_RD, torch.tensor(counts), gates_R)
            assert bias is None
            output_RD.square().sum().backward()
            gradients = expert_gradients(experts)
            results.append(gradients | {"output": output_RD.detach(), "rows": rows_RD.grad, "gates": gates_R.grad})
    return results


@each("dtype, tolerance", [(torch.float64, 1e-6), (torch.bfloat16, 3e-2)])
def test_equals_the_sequential_experts(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float) -> None:
    monkeypatch.setattr(moe.experts, "_BLOCK_ROWS", 4)
    results = run_ranks(sequential_and_stacked, 1, dtype)[0]
    for sequential, stacked in zip(results[::2], results[1::2], strict=True):
        torch.testing.assert_close(stacked, sequential, rtol=tolerance, atol=tolerance)


@each("block_rows", [1, 2, 512])
def test_gradients_are_exact_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr(moe.experts, "_BLOCK_ROWS", block_rows)
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    def experts(rows_RD: Tensor, gates_R: Tensor, first_SFD: Tensor, second_SDF: Tensor) -> Tensor:
        return moe.experts.BlockedExperts.apply(rows_RD, gates_R, [2, 0, 3], first_SFD, second_SDF)

    assert gradcheck(experts, (draw(7, 3), draw(7), draw(3, 4, 3), draw(3, 3, 4)))  # two rows are of no expert


def test_keeps_one_inner_layer_for_the_backward_pass() -> None:
    """Megatron keeps three: before the activation, after it, and times the gate."""
    kept: list[int] = []
    weights = [torch.randn(1, 50, 4).requires_grad_(), torch.randn(1, 4, 50).requires_grad_()]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape[-1]), lambda _: torch.empty(0)
    ):
        moe.experts.BlockedExperts.apply(torch.randn(7, 4), torch.rand(7), [7], *weights)
    assert kept.count(50) - 1 == 1  # the second weight is as wide
