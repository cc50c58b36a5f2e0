"""Layers whose experts have replicas, against a dense mixture computed on one process."""

import functools
import itertools
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from moe.config import MoEConfig, TopKRouterConfig
from moe.replica import Slots
from tests.each import each
from tests.moe.test_layer import EXPERTS, HIDDEN, WIDTH, dense_mixture, run_layer, tokens_of
from tests.ranks import run_ranks

PLACEMENTS = {2: [[5, 0, 2, 3, 4, 1], [6, 4, 7, 1, 0, 2]], 4: [[5, 0, 2, 3], [6, 4, 1, 0], [7, 1, 0, 2], [3, 4, 5, 0]]}
"""Experts of each rank; neither has its homes in the first slots."""
CASES = list(itertools.product((1, 2), ("home", "copies", "hierarchical"), ("even", "least_loaded")))
SKEWED_TOKENS = 512


def moe_config(top_k: int, dispatch: Any, replicas: Any) -> MoEConfig:
    router = TopKRouterConfig(aux_loss=0.0)
    sizes: dict[str, Any] = {"num_experts": EXPERTS, "top_k": top_k, "expert_hidden": HIDDEN}
    return MoEConfig(**sizes, router=router, dispatch=dispatch, replicas=replicas)


def run_cases(rank: int, world_size: int) -> dict[str, Any]:
    from trainer.distributed.groups import divide_ranks

    divide_ranks(world_size, 1, 2 if world_size == 4 else None)
    slots = np.ravel(PLACEMENTS[world_size])
    found: dict[str, Any] = {str(case): run_layer(rank, world_size, moe_config(*case), slots) for case in CASES}
    found["gathered"] = replaced(rank, world_size)
    found["loads"] = {name: skewed(world_size, *case) for name, case in SKEWED.items()} if world_size == 4 else {}
    return found


def replaced(rank: int, world_size: int) -> dict[str, Any]:
    """Outputs and gradients of homes before, with and after replicas that come and go between two passes."""
    from moe.layer import PlacedMoELayer, transformer_config

    config = moe_config(2, "home", "least_loaded")
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
    )
    homes = Slots.of(np.ravel(PLACEMENTS[world_size]), EXPERTS, world_size).homes.reshape(-1)
    layer = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=homes)
    found: dict[str, Any] = {"outputs": [], "gradients": []}
    for slots in (homes, np.ravel(PLACEMENTS[world_size]), homes):
        layer.place(slots)
        layer.zero_grad()
        output = layer(tokens_of(rank))
        output.sin().sum().backward()
        found["outputs"].append(output.detach())
        found["gradients"].append([stack.grad for stack in layer.expert_stacks().values()])
    return found


SKEWED: dict[str, tuple[Any, Any, bool]] = {
    f"{dispatch}, {name}": (dispatch, rule, with_replicas)
    for dispatch in ("home", "copies")
    for name, rule, with_replicas in (
        ("without replicas", "even", False),
        ("even", "even", True),
        ("least loaded", "least_loaded", True),
    )
}


def skewed(world_size: int, dispatch: Any, rule: Any, with_replicas: bool) -> tuple[float, int]:
    """The busiest rank's rows over the mean where one expert is hot, and the rows of all ranks."""
    from moe.layer import PlacedMoELayer, transformer_config

    config = moe_config(2, dispatch, rule)
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
    )
    slots = Slots.of(np.ravel(PLACEMENTS[world_size]), EXPERTS, world_size)
    placed = slots.experts if with_replicas else slots.homes
    layer = PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=placed.reshape(-1))
    router: Any = layer.router
    generator = torch.Generator().manual_seed(dist.get_rank())
    chance = torch.tensor([8.0, 1, 1, 1, 3, 1, 1, 1])
    chosen = torch.multinomial(chance.expand(SKEWED_TOKENS, -1), 2, generator=generator)
    map_TE = torch.zeros(SKEWED_TOKENS, EXPERTS, dtype=torch.bool).scatter(1, chosen, value=True)
    router.forward = lambda *_: (map_TE * 0.5, map_TE)
    rows = torch.zeros(1, dtype=torch.long)

    def count(_experts: Any, inputs: Any) -> None:
        rows.copy_(inputs[1].sum())

    layer.experts.register_forward_pre_hook(count)
    layer(torch.randn(SKEWED_TOKENS, 1, WIDTH, generator=generator))
    everywhere = [torch.zeros_like(rows) for _ in range(world_size)]
    dist.all_gather(everywhere, rows)
    loads = torch.cat(everywhere)
    return float(loads.max() / loads.double().mean()), int(loads.sum())


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[str, Any]]]:
    return {world_size: run_ranks(run_cases, world_size) for world_size in PLACEMENTS}


@each("world_size, case", product(PLACEMENTS, CASES))
def test_equals_the_dense_mixture(results: dict[int, list[dict[str, Any]]], world_size: int, case: Any) -> None:
    ranks = [result[str(case)] for result in results[world_size]]
    held = [list(result["experts"]) for result in ranks]
    assert {len(experts) for experts in held} == {EXPERTS // world_size}, "every rank is home to as many experts"
    merged = {expert: parameters for result in ranks for expert, parameters in result["experts"].items()}
    assert sorted(merged) == list(range(EXPERTS))
    experts = [
        {name: value.clone().requires_grad_() for name, (value, _) in merged[expert].items()}
        for expert in range(EXPERTS)
    ]
    router_ED = ranks[0]["router"][0].clone().requires_grad_()
    inputs = [tokens_of(rank).requires_grad_() for rank in range(world_size)]
    outputs = [dense_mixture(tokens, router_ED, experts, moe_config(*case)) for tokens in inputs]
    torch.stack([output.sin().sum() for output in outputs]).sum().backward()

    assert_close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    for result, tokens, output in zip(ranks, inputs, outputs, strict=True):
        assert_close(result["output"], output)
        assert_close(result["input_gradient"], tokens.grad)
        assert_close(result["router"][1], router_ED.grad)
    for expert in range(EXPERTS):
        for name, (_, gradient) in merged[expert].items():
            assert_close(gradient, experts[expert][name].grad)


@each("world_size", PLACEMENTS)
def test_replicas_come_and_go_between_passes(results: dict[int, list[dict[str, Any]]], world_size: int) -> None:
    for found in (result["gathered"] for result in results[world_size]):
        for values in (found["outputs"], *zip(*found["gradients"], strict=True)):
            torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-5)
            assert torch.equal(values[2], values[0])


@each("dispatch", ["home", "copies"])
def test_least_loaded_replicas_level_a_skewed_batch(results: dict[int, list[dict[str, Any]]], dispatch: str) -> None:
    loads = results[4][0]["loads"]
    assert {rows for _, rows in loads.values()} == {4 * 2 * SKEWED_TOKENS}
    without, even, least = (loads[f"{dispatch}, {name}"][0] for name in ("without replicas", "even", "least loaded"))
    assert without >= 1.5
    assert least < even < without
    assert least <= 1.05
