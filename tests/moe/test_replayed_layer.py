"""Replayed training passes of whole layers on 1 and 2 ranks, in every way that tokens travel, bit for bit."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from moe.config import MoEConfig
from moe.repetition import passes
from moe.router.replay import record, replay
from tests.each import each
from tests.ranks import run_ranks

WIDTH, EXPERTS, TOKENS = 16, 8, 48
BIASED = {"kind": "top_k", "score": "sigmoid", "bias_rate": 0.05, "aux_loss": 0}
CASES: dict[str, dict[str, Any]] = {
    "home": {"dispatch": "home"},
    "copies": {"dispatch": "copies"},
    "hierarchical": {"dispatch": "hierarchical"},
    "capped": {"dispatch": "capped"},
    "home, replicas": {"dispatch": "home", "replicas": "least_loaded"},
    "copies, replicas": {"dispatch": "copies", "replicas": "least_loaded"},
    "home, base": {"dispatch": "home", "top_k": 1, "router": {"kind": "base"}},
    "capped, expert_choice": {"dispatch": "capped", "router": {"kind": "expert_choice"}},
    "coherent": {"dispatch": "coherent", "top_k": 1, "router": BIASED},
}
REPLICAS = np.array([5, 0, 2, 3, 1, 6, 4, 7, 1, 0])
"""Experts of two ranks: both have 0 and 1."""
ALIKE = {"capped, expert_choice"}
"""Routers whose training passes are their evaluation passes without replay too."""


def run_cases(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    from trainer.distributed.groups import divide_ranks

    divide_ranks(world_size, 1, 1)
    return {name: run_stack(rank, world_size, name) for name in CASES if world_size > 1 or "replicas" not in name}


def build(world_size: int, name: str) -> list[Any]:
    from moe.coherent_layer import CoherentMoELayer
    from moe.layer import PlacedMoELayer, transformer_config

    usual = {"num_experts": EXPERTS, "expert_hidden": 24, "top_k": 2, "router": {"kind": "sparse_ot"}}
    config = MoEConfig(**usual | CASES[name])
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=2, num_heads=1, expert_parallel=world_size, dtype=torch.float32
    )
    kind = CoherentMoELayer if name == "coherent" else PlacedMoELayer
    slots = np.random.default_rng(5).permutation(EXPERTS)
    layers = [kind(config, megatron, layer, 7, slots) for layer in range(2)]
    for layer in layers:
        torch.nn.init.normal_(layer.router.weight, std=0.5, generator=torch.Generator().manual_seed(layer.layer))
        if "replicas" in name:
            layer.place(REPLICAS)
    return layers


def through(layers: list[Any], tokens_TD: Tensor, *, recomputes: bool = False) -> Tensor:
    """A stack of mixtures, each added to the stream."""
    from moe.dispatch.residency import Residency, return_home

    call: Any = (
        partial(checkpoint, use_reentrant=False, context_fn=passes) if recomputes else lambda layer, *x: layer(*x)
    )
    if hasattr(layers[0], "moves_tokens"):
        rows, residency = tokens_TD, Residency.home(len(tokens_TD), layers[0].ep_group, tokens_TD.device)
        for layer in layers:
            rows, fed, residency = call(layer, rows, residency, torch.nn.functional.normalize)
            rows = rows + fed
        return return_home(rows, residency)
    for layer in layers:
        tokens_TD = tokens_TD + call(layer, tokens_TD[:, None])[:, 0]
    return tokens_TD


def run_stack(rank: int, world_size: int, name: str) -> dict[str, Any]:
    layers = build(world_size, name)
    network = torch.nn.ModuleList(layers)
    generator = torch.Generator().manual_seed(rank)
    draw = lambda: torch.randn(TOKENS, WIDTH, generator=generator)  # noqa: E731
    for _ in range(2):  # potentials and biases move
        through(layers, draw())
        for layer in layers:
            layer.router.update_bias()
    tokens_TD = draw()
    network.eval()
    with torch.no_grad(), record(network) as routes:
        before = through(layers, tokens_TD)
    network.train()
    if "top_k" in str(CASES[name].get("router")):  # it routes alike until its bias moves
        through(layers, draw())
        for layer in layers:
            layer.router.update_bias()
    found: dict[str, Any] = {"before": before, "routes": [len(own) for own in routes.by_router]}
    for way in ("plain", "recomputed"):
        replay(network, routes)
        network.zero_grad()
        output = through(layers, tokens_TD.clone().requires_grad_(), recomputes=way == "recomputed")
        output.sin().sum().backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        gates = [float(layer.router.weight.grad.abs().max()) for layer in layers]
        found[way] = {"output": output.detach(), "gradients": gradients, "gates": gates}
    found["choices"] = [int(layer.router.report()["expert_tokens"].sum()) for layer in layers]
    found["recorded"] = [int(own[0].map.sum()) for own in routes.by_router]
    replay(network, None)
    with torch.no_grad():
        found["without"] = through(layers, tokens_TD)
    return found


@pytest.fixture(scope="module")
def results() -> Callable[[int], list[dict[str, dict[str, Any]]]]:
    return cache(lambda world_size: run_ranks(run_cases, world_size))


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2])
@each("name", CASES)
def test_a_replayed_pass_is_the_evaluation_pass(results: Any, world_size: int, name: str) -> None:
    for rank, of_rank in enumerate(results(world_size)):
        if name not in of_rank:
            continue
        found = of_rank[name]
        assert found["routes"] == [1, 1]
        assert found["choices"] == found["recorded"]
        for way in ("plain", "recomputed"):
            assert torch.equal(found[way]["output"], found["before"]), (rank, way)
            assert min(found[way]["gates"]) > 0
        for plain, recomputed in zip(found["plain"]["gradients"], found["recomputed"]["gradients"], strict=True):
            assert torch.equal(plain, recomputed)
        assert torch.equal(found["without"], found["before"]) == (name in ALIKE)
