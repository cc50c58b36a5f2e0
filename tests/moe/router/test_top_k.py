import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from moe.config import TopKRouterConfig
from tests.each import each
from tests.moe.router.routers import EXPERTS, build_router, logits_of, skewed_tokens


def scores_of(logits: Tensor, score: str) -> Tensor:
    return logits.softmax(dim=1) if score == "softmax" else logits.sigmoid()


@each("score, policy, top_k", product(["softmax", "sigmoid"], ["probs", "position"], [1, 2]))
def test_capacity_keeps_whom_the_policy_says(score: Any, policy: Any, top_k: int) -> None:
    config = TopKRouterConfig(score=score, aux_loss=0, capacity_factor=1.25, drop_policy=policy)
    router = build_router(config, top_k=top_k)
    tokens = skewed_tokens(64)
    probs, chosen = router(tokens)
    scores = scores_of(logits_of(router, tokens), score)
    for expert in range(EXPERTS):
        asking = [t for t in range(64) if expert in scores[t].topk(top_k).indices]
        if policy == "probs":
            gates = scores if score == "softmax" or top_k == 1 else scores / scores.topk(top_k).values.sum(1, True)
            asking.sort(key=lambda token: -gates[token, expert].item())
        kept = asking[: math.ceil(1.25 * 64 * top_k / EXPERTS)]
        assert sorted(kept) == chosen[:, expert].nonzero()[:, 0].tolist()
    assert router.report()["dropped_choices"] > 0
    if top_k == 1:
        torch.testing.assert_close(probs.double()[chosen], scores[chosen], rtol=1e-5, atol=1e-6)


@each("score, top_k", product(["softmax", "sigmoid"], [1, 2]))
def test_the_losses_of_the_gate_equal_their_formulas(score: Any, top_k: int) -> None:
    router = build_router(TopKRouterConfig(score=score, aux_loss=0.3, z_loss=0.2), top_k=top_k)
    tokens = skewed_tokens(48)
    probs, _ = router(tokens)
    (0 * probs.sum()).backward()

    weight = router.weight.detach().double().requires_grad_()
    logits = tokens[:, 0].double() @ weight.T
    scores = scores_of(logits, score)
    scores = scores / scores.sum(dim=1, keepdim=True)
    fraction = torch.zeros_like(scores).scatter(1, scores.topk(top_k).indices, 1.0).mean(dim=0) / top_k
    balance = EXPERTS * (fraction * scores.mean(dim=0)).sum()
    (0.3 * balance + 0.2 * logits.logsumexp(dim=1).square().mean()).backward()
    torch.testing.assert_close(router.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-5)


def test_the_losses_leave_inference_alone() -> None:
    router = build_router(TopKRouterConfig(aux_loss=0.3, z_loss=0.2)).eval()
    probs, _ = router(skewed_tokens(48))
    (0 * probs.sum()).backward()
    assert not router.weight.grad.any()


def test_two_networks_of_different_depth_live_in_one_process() -> None:
    """Megatron keeps losses in a table as long as the first network is deep; these routers stay out of it."""
    found = []
    for layers in (1, 5):
        for layer in range(1, layers + 1):
            router = build_router(TopKRouterConfig(aux_loss=0.1, z_loss=0.1))
            router.set_layer_number(layer)
            probs, chosen = router(skewed_tokens(8))
            (0 * probs.sum()).backward()
            assert router.weight.grad.any(), "the losses were taken"
            found.append((probs, chosen, router.weight.grad))
    for others in found[1:]:
        assert all(torch.equal(value, first) for value, first in zip(others, found[0], strict=True))


def test_the_bias_moves_by_its_rate_against_the_demand_of_the_step() -> None:
    router = build_router(TopKRouterConfig(score="sigmoid", aux_loss=0, bias_rate=0.01, capacity_factor=1.0))
    asked = torch.zeros(EXPERTS)
    for seed in range(3):
        tokens = skewed_tokens(64, seed)
        asked += logits_of(router, tokens).argmax(dim=1).bincount(minlength=EXPERTS)
        router(tokens)
    router.update_bias()
    torch.testing.assert_close(router.expert_bias, 0.01 * torch.sign(3 * 64 / EXPERTS - asked))
    before = router.expert_bias.clone()
    router.update_bias()
    assert torch.equal(router.expert_bias, before)


def test_the_bias_balances_a_skewed_gate_and_leaves_gate_values_alone() -> None:
    router = build_router(TopKRouterConfig(score="sigmoid", aux_loss=0, bias_rate=0.02), std=0.1)
    tokens = skewed_tokens(256)
    _, chosen = router(tokens)
    assert chosen.sum(dim=0).max() > 2 * 256 / EXPERTS
    for _ in range(60):
        probs, chosen = router(tokens)
        router.update_bias()
    assert chosen.sum(dim=0).max() < 1.5 * 256 / EXPERTS
    torch.testing.assert_close(
        probs.double()[chosen], logits_of(router, tokens).sigmoid()[chosen], rtol=1e-5, atol=1e-6
    )
