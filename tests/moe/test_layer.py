"""The expert-parallel layer against a dense mixture computed on one process.

Shape suffixes: S sequence, B batch, D width, E experts, F expert hidden width, T tokens.
"""

import functools
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from moe.config import MoEConfig, TopKRouterConfig
from tests.each import each
from tests.moe.expert_values import expert_values
from tests.ranks import run_ranks

SEQUENCE, BATCH, WIDTH, HIDDEN, EXPERTS = 5, 3, 16, 24, 8
WORLD_SIZES = (2, 4)
CASES = {
    "top-1": (1, "softmax", False),
    "top-1, permuted": (1, "softmax", True),
    "top-2, permuted": (2, "softmax", True),
    "top-2 sigmoid, permuted": (2, "sigmoid", True),
}


def tokens_of(rank: int) -> Tensor:
    return torch.randn(SEQUENCE, BATCH, WIDTH, generator=torch.Generator().manual_seed(100 + rank))


def slots(permuted: bool) -> np.ndarray:
    return np.random.default_rng(3).permutation(EXPERTS) if permuted else np.arange(EXPERTS)


def moe_config(top_k: int, score: Any) -> MoEConfig:
    router = TopKRouterConfig(score=score, aux_loss=0.0)
    return MoEConfig(num_experts=EXPERTS, top_k=top_k, expert_hidden=HIDDEN, router=router)


def run_cases(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    """Every case on one rank of an expert-parallel group of all ranks."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    return {
        name: run_layer(rank, world_size, moe_config(top_k, score), slots(permuted))
        for name, (top_k, score, permuted) in CASES.items()
    }


def run_layer(rank: int, world_size: int, config: MoEConfig, slot_to_expert: np.ndarray) -> dict[str, Any]:
    """Forward and backward of the real layer on one rank."""
    from moe.layer import PlacedMoELayer, transformer_config

    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
    )
    layer = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=slot_to_expert)
    tokens = tokens_of(rank).requires_grad_()
    output = layer(tokens)
    (output.sin().sum()).backward()
    router = layer.router.weight
    assert router.grad is not None
    dist.all_reduce(router.grad)
    return {
        "output": output.detach(),
        "input_gradient": tokens.grad,
        "router": (router.detach(), router.grad),
        "experts": expert_values(layer),
    }


def dense_mixture(tokens_SBD: Tensor, router_ED: Tensor, experts: list[dict[str, Tensor]], config: MoEConfig) -> Tensor:
    """Every expert on every token, weighted by a gate that is zero outside the top k."""
    assert isinstance(config.router, TopKRouterConfig)
    tokens_TD = tokens_SBD.reshape(-1, WIDTH)
    logits_TE = tokens_TD @ router_ED.T
    scores_TE = logits_TE.softmax(dim=1) if config.router.score == "softmax" else logits_TE.sigmoid()
    chosen_TE = torch.zeros_like(scores_TE).scatter(1, scores_TE.topk(config.top_k).indices, 1.0)
    gates_TE = scores_TE * chosen_TE
    if config.router.score == "sigmoid" and config.top_k > 1:
        gates_TE = gates_TE / gates_TE.sum(dim=1, keepdim=True)
    outputs_TED = torch.stack(
        [
            torch.nn.functional.gelu(tokens_TD @ expert["linear_fc1.weight"].T) @ expert["linear_fc2.weight"].T
            for expert in experts
        ],
        dim=1,
    )
    return (gates_TE[:, :, None] * outputs_TED).sum(dim=1).view_as(tokens_SBD)


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[str, dict[str, Any]]]]:
    return {world_size: run_ranks(run_cases, world_size) for world_size in (1, *WORLD_SIZES)}


@each("world_size, case", product(WORLD_SIZES, CASES))
def test_equals_the_dense_mixture(results: dict[int, list[dict[str, Any]]], world_size: int, case: str) -> None:
    top_k, score, _ = CASES[case]
    config = moe_config(top_k, score)
    ranks = [result[case] for result in results[world_size]]

    merged = {expert: parameters for result in ranks for expert, parameters in result["experts"].items()}
    assert sorted(merged) == list(range(EXPERTS))
    experts = [
        {name: value.clone().requires_grad_() for name, (value, _) in merged[expert].items()}
        for expert in range(EXPERTS)
    ]
    router_ED = ranks[0]["router"][0].clone().requires_grad_()
    inputs = [tokens_of(rank).requires_grad_() for rank in range(world_size)]
    outputs = [dense_mixture(tokens, router_ED, experts, config) for tokens in inputs]
    torch.stack([output.sin().sum() for output in outputs]).sum().backward()

    assert_close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    for result, tokens, output in zip(ranks, inputs, outputs, strict=True):
        assert_close(result["output"], output)
        assert_close(result["input_gradient"], tokens.grad)
        assert_close(result["router"][1], router_ED.grad)
    for expert in range(EXPERTS):
        for name, (_, gradient) in merged[expert].items():
            assert_close(gradient, experts[expert][name].grad)


def weights(ranks: list[dict[str, Any]], case: str) -> dict[int, dict[str, Tensor]]:
    return {
        expert: {name: value for name, (value, _) in parameters.items()}
        for result in ranks
        for expert, parameters in result[case]["experts"].items()
    }


def test_initial_experts_do_not_depend_on_world_size_or_placement(results: dict[int, list[dict[str, Any]]]) -> None:
    alone = weights(results[1], "top-1")
    assert len({values["linear_fc1.weight"].sum().item() for values in alone.values()}) == EXPERTS
    for world_size in WORLD_SIZES:
        placed = weights(results[world_size], "top-1, permuted")
        for expert, values in alone.items():
            for name, value in values.items():
                assert torch.equal(value, placed[expert][name])
