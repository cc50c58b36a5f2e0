"""Sinkhorn, BASE and expert-choice routing against other solvers."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from moe.config import BaseAssignmentRouterConfig, ExpertChoiceRouterConfig, SinkhornRouterConfig
from moe.router.balanced import balanced_assignment
from tests.each import each
from tests.moe.router.routers import EXPERTS, build_router, logits_of, skewed_tokens


@each("tokens, experts", [(6, 3), (7, 3), (8, 3), (2, 3), (1, 4), (5, 2)])
def test_an_assignment_is_the_best_of_all_balanced_ones(tokens: int, experts: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    for _ in range(5):
        affinity = torch.randn(tokens, experts, generator=generator)
        affinity[:, 0] += 2
        assigned = balanced_assignment(affinity)
        counts = assigned.bincount(minlength=experts)
        assert counts.max() <= -(-tokens // experts)
        assert counts.min() >= tokens // experts
        best = max(
            affinity[range(tokens), list(assignment)].sum().item()
            for assignment in itertools.product(range(experts), repeat=tokens)
            if all(tokens // experts <= assignment.count(e) <= -(-tokens // experts) for e in range(experts))
        )
        assert affinity[range(tokens), assigned].sum().item() == pytest.approx(best, abs=1e-5)


def test_an_assignment_of_many_tokens_equals_that_of_the_hungarian_method() -> None:
    affinity = torch.randn(240, 8, generator=torch.Generator().manual_seed(0))
    slots = np.repeat(-affinity.double().numpy(), 30, axis=1)
    rows, columns = linear_sum_assignment(slots)
    expected = -slots[rows, columns].sum()
    assert affinity[range(240), balanced_assignment(affinity)].double().sum().item() == pytest.approx(expected)


def test_base_refuses_several_experts_a_token() -> None:
    with pytest.raises(ValueError, match=r"top_k: 2 with router base.*; choose 1"):
        build_router(BaseAssignmentRouterConfig(), top_k=2)


@each("top_k", [1, 2])
def test_sinkhorn_takes_the_largest_entries_of_the_balanced_plan(top_k: int) -> None:
    import ot

    router = build_router(SinkhornRouterConfig(epsilon=0.2, iterations=500), top_k=top_k)
    tokens = skewed_tokens(64)
    _, chosen = router(tokens)
    logits = logits_of(router, tokens).numpy()
    logits = logits - logits.mean(axis=1, keepdims=True)
    plan: Any = ot.sinkhorn(
        np.full(64, 1 / 64), np.full(EXPERTS, 1 / EXPERTS), -logits / logits.std(), 0.2, stopThr=1e-9
    )
    expected = np.argsort(-plan, axis=1)[:, :top_k]
    agreeing = np.mean([set(chosen[t].nonzero()[:, 0].tolist()) == set(expected[t].tolist()) for t in range(64)])
    assert agreeing > 0.96  # the router stops at a thousandth of the mean load
    if top_k == 1:
        assert chosen.sum(dim=0).max() < 1.5 * 64 / EXPERTS


def test_sinkhorn_with_little_entropy_comes_near_the_exact_assignment() -> None:
    router = build_router(SinkhornRouterConfig(epsilon=0.01, iterations=5000))
    tokens = skewed_tokens(128)
    _, chosen = router(tokens)
    logits = logits_of(router, tokens)
    exact = logits[range(128), balanced_assignment(logits)].mean()
    assert (logits * chosen).sum().item() / 128 == pytest.approx(exact.item(), rel=0.02)
    assert chosen.sum(dim=0).max() <= 1.25 * 128 / EXPERTS


@each("top_k", [1, 2])
def test_every_expert_chooses_the_tokens_that_like_it_best(top_k: int) -> None:
    router = build_router(ExpertChoiceRouterConfig(), top_k=top_k)
    tokens = skewed_tokens(60)
    probs, chosen = router(tokens)
    gates = logits_of(router, tokens).softmax(dim=1).numpy()
    slots = -(-60 * top_k // EXPERTS)
    for expert in range(EXPERTS):
        assert sorted(np.argsort(-gates[:, expert])[:slots]) == chosen[:, expert].nonzero()[:, 0].tolist()
    np.testing.assert_allclose(probs.detach()[chosen], gates[chosen.numpy()], rtol=1e-4)
