"""The experts of a rank against Megatron-Core's own, finite differences and their memory.

Shape suffixes: R rows, D width, F inner width.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import moe.experts
from tests.ranks import run_ranks

WIDTH, INNER = 6, 10
COUNTS = ([3, 0, 5], [0, 0, 0], [0, 9, 1])


def sequential_and_contiguous(_rank: int, _world_size: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Outputs and gradients of both on the same rows, of ours in blocks of four."""
    from megatron.core import parallel_state
    from megatron.core.transformer.moe.experts import SequentialMLP

    from moe.config import MoEConfig
    from moe.layer import PlacedMoELayer, transformer_config

    moe.experts._BLOCK_ROWS = 4
    parallel_state.initialize_model_parallel()
    config = MoEConfig(num_experts=3, expert_hidden=INNER)
    megatron = transformer_config(config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=1, dtype=dtype)
    experts = PlacedMoELayer(config, megatron, layer=0, seed=1, slot_to_expert=torch.arange(3).numpy()).experts
    results = []
    for counts in COUNTS:
        generator = torch.Generator().manual_seed(0)
        rows_RD = torch.randn(sum(counts), WIDTH, generator=generator).to(dtype).requires_grad_()
        gates_R = torch.rand(sum(counts), generator=generator, dtype=torch.float32).requires_grad_()
        for kind in (SequentialMLP, moe.experts.ContiguousExperts):
            experts.__class__ = kind
            experts.zero_grad()
            rows_RD.grad = gates_R.grad = None
            output_RD, bias = experts(rows_RD, torch.tensor(counts), gates_R)
            assert bias is None
            output_RD.square().sum().backward()
            gradients = {name: parameter.grad.clone() for name, parameter in experts.named_parameters()}
            results.append(gradients | {"output": output_RD.detach(), "rows": rows_RD.grad, "gates": gates_R.grad})
    return results


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.bfloat16, 3e-2)])
def test_equals_the_sequential_experts(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float) -> None:
    monkeypatch.setattr(moe.experts, "_BLOCK_ROWS", 4)
    results = run_ranks(sequential_and_contiguous, 1, dtype)[0]
    for sequential, contiguous in zip(results[::2], results[1::2], strict=True):
        torch.testing.assert_close(contiguous, sequential, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("block_rows", [1, 2, 512])
def test_gradients_are_exact_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr(moe.experts, "_BLOCK_ROWS", block_rows)
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    weights = [draw(4, 3) for _ in range(3)] + [draw(3, 4) for _ in range(3)]

    def experts(rows_RD: Tensor, gates_R: Tensor, *weights: Tensor) -> Tensor:
        return moe.experts._GatedExperts.apply(rows_RD, gates_R, [2, 0, 3], *weights)

    assert gradcheck(experts, (draw(5, 3), draw(5), *weights))


def test_keeps_one_inner_layer_for_the_backward_pass() -> None:
    """Megatron keeps three: before the activation, after it, and times the gate."""
    kept: list[int] = []
    weights = [torch.randn(50, 4).requires_grad_(), torch.randn(4, 50).requires_grad_()]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape[-1]), lambda _: torch.empty(0)
    ):
        moe.experts._GatedExperts.apply(torch.randn(7, 4), torch.rand(7), [7], *weights)
    assert kept.count(50) - 1 == 1  # the second weight is as wide
