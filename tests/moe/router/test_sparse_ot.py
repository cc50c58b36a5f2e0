import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from moe.config import SparseOTRouterConfig, TopKRouterConfig
from moe.ot import exact, expert_potentials
from tests.each import each
from tests.moe.router.routers import EXPERTS, build_router, logits_of, skewed_tokens


def rescale(router: Any, factor: float) -> None:
    with torch.no_grad():
        router.weight *= factor


def capped_simplex(scores: Tensor, mass: float, gamma: float) -> Tensor:
    """Rows projected onto the simplex of their mass, by bisection on the threshold."""
    low, high = scores.amin(dim=1, keepdim=True) - mass * gamma, scores.amax(dim=1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        too_much = ((scores - middle).clamp_min(0) / gamma).sum(dim=1, keepdim=True) > mass
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    return (scores - high).clamp_min(0) / gamma


def test_skewed_tokens_are_all_served_under_the_cap_at_the_affinity_of_the_exact_assignment() -> None:
    tokens = skewed_tokens(1024)
    greedy = build_router(TopKRouterConfig(aux_loss=0, capacity_factor=1.25))
    greedy(tokens)
    assert greedy.report()["dropped_choices"].item() > 0.2 * 1024
    for gamma in (0.1, 0.3):
        router = build_router(SparseOTRouterConfig(gamma=gamma, gate="plan"))
        plan, chosen = router(tokens)
        logits = logits_of(router, tokens)
        logits = logits - logits.mean(dim=1, keepdim=True)
        mass = torch.ones(1024, dtype=torch.float64)
        best = -exact(-logits, mass, torch.full((EXPERTS,), 1024 / EXPERTS, dtype=torch.float64)).value
        assert router.report()["dropped_choices"].item() == 0
        assert chosen.sum(dim=0).max() <= math.ceil(1.25 * 1024 / EXPERTS)
        assert (plan.double() * logits).sum() >= 0.995 * best


@each("gamma", [0.1, 1.0])
def test_where_no_expert_is_full_the_gates_are_the_plan_of_the_transport_problem(gamma: float) -> None:
    router = build_router(SparseOTRouterConfig(gate="plan", gamma=gamma, candidates=EXPERTS, capacity_factor=8.0))
    tokens = skewed_tokens(256)
    for _ in range(2):
        router(tokens)
        router.update_bias()
    plan, chosen = router(tokens)
    assert torch.equal(chosen, plan > 0)
    logits = logits_of(router, tokens)
    logits = logits - logits.mean(dim=1, keepdim=True)
    scores = logits / logits.square().mean().sqrt() + router.report()["potentials"]
    torch.testing.assert_close(plan.detach().double(), capped_simplex(scores, 1.0, gamma), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(256))
    assert (plan.sum(dim=0) - 256 / EXPERTS).abs().max() <= 0.011 * 256 / EXPERTS
    assert router.report()["residual"] <= 0.02


@each("gate", ["plan", "straight_through"])
def test_plan_gates_have_the_gradient_that_they_say(gate: Any) -> None:
    """Finite differences at fixed potentials and scale, for the logits of a few tokens, in float64."""
    router = build_router(SparseOTRouterConfig(gate=gate, gamma=1.0, candidates=3))
    for step in range(3):
        router(skewed_tokens(64, step))
        router.update_bias()
    router.eval()  # potentials and scale stay put
    logits = logits_of(router, skewed_tokens(6, 9)).requires_grad_()
    gates = router.routing(logits[:, None])[0]
    pull = torch.randn(gates.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((gates * pull).sum(), logits)
    if gate == "straight_through":
        on_support = logits.softmax(dim=1) * (gates > 0)
        (expected,) = torch.autograd.grad((on_support * pull).sum(), logits)
        torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close(gates.sum(dim=1), torch.ones(6, dtype=torch.float64))
        return
    assert gradient.abs().max() > 0
    for token in range(6):
        for expert in range(EXPERTS):
            moved = torch.zeros_like(logits)
            moved[token, expert] = 1e-6
            above, below = (router.routing((logits + sign * moved).detach()[:, None])[0] for sign in (1, -1))
            slope = ((above - below) * pull).sum() / 2e-6
            assert gradient[token, expert].item() == pytest.approx(slope.item(), abs=1e-6)


def test_one_hot_plans_starve_the_gate_and_probabilities_do_not() -> None:
    gradients = {}
    for gate in ("plan", "prob"):
        router = build_router(SparseOTRouterConfig(gate=gate, gamma=1e-3))
        probs, chosen = router(skewed_tokens(64))
        alone = chosen.sum(dim=1) == 1
        assert alone.sum() > 50
        (probs[alone] * torch.arange(EXPERTS)).sum().backward()
        gradients[gate] = router.weight.grad.abs().max().item()
    assert gradients["plan"] < 1e-6
    assert gradients["prob"] > 1e-2


@each("gate", ["prob", "straight_through"])
def test_the_scale_of_the_logits_and_a_shift_of_a_token_change_no_choice(gate: Any) -> None:
    maps = []
    for factor in (1.0, 50.0):
        router = build_router(SparseOTRouterConfig(gate=gate))
        rescale(router, factor)
        maps.append(router(skewed_tokens(128))[1])
        logits = router.gating(skewed_tokens(128))
        maps.append(router.routing(logits + 10 * torch.arange(128.0)[:, None, None])[1])
    assert all(torch.equal(maps[0], other) for other in maps[1:])


def test_a_token_visits_as_many_experts_as_it_is_due_and_no_more_than_its_candidates() -> None:
    for top_k, candidates in ((1, 3), (2, 2), (2, 4)):
        router = build_router(SparseOTRouterConfig(candidates=candidates, gamma=1.0), top_k=top_k)
        _, chosen = router(skewed_tokens(128))
        counts = chosen.sum(dim=1)
        assert counts.min() >= top_k
        assert counts.max() <= candidates
        assert chosen.sum(dim=0).max() <= math.ceil(1.25 * 128 * top_k / EXPERTS)


def test_the_next_step_starts_from_the_last_ones_potentials() -> None:
    warm, tokens = build_router(SparseOTRouterConfig()), skewed_tokens(1024)
    warm(tokens)
    cold = warm.report()
    warm(tokens)
    assert torch.equal(warm.report()["potentials"], cold["potentials"])  # within a step nothing is learnt
    warm.update_bias()
    warm(tokens)
    assert warm.report()["residual"] < 0.6 * cold["residual"]
    residuals = {"cold": 0.0, "warm": 0.0}
    for step in range(1, 6):
        fresh = build_router(SparseOTRouterConfig())
        for name, router in (("cold", fresh), ("warm", warm)):
            router(skewed_tokens(1024, step))
            residuals[name] += float(router.report()["residual"]) / 5
        torch.testing.assert_close(fresh.report()["potentials"], warm.report()["potentials"], atol=0.1, rtol=0)
        warm.update_bias()
    assert residuals["warm"] <= min(residuals["cold"], 0.05)


def test_more_evaluations_come_nearer_to_balance_from_anywhere() -> None:
    tokens, found = skewed_tokens(1024), []
    for evaluations in (4, 6, 10):
        router = build_router(SparseOTRouterConfig(evaluations=evaluations))
        router.potentials.copy_(torch.randn(EXPERTS, generator=torch.Generator().manual_seed(0)))
        router(tokens)
        found.append(float(router.report()["residual"]))
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.01


def test_inference_takes_the_best_experts_at_the_average_potentials() -> None:
    router = build_router(SparseOTRouterConfig(ema_decay=0.75, gamma=1e-4))
    potentials, scale = torch.zeros(EXPERTS, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for step in range(6):
        found, spreads = [], []
        for micro in range(2):
            tokens = skewed_tokens(256, 2 * step + micro)
            router(tokens)
            found.append(router.report()["potentials"])
            logits = logits_of(router, tokens)
            spreads.append((logits - logits.mean(dim=1, keepdim=True)).square().mean().sqrt())
        router.update_bias()
        kept = min(0.75, step / (step + 1))
        potentials = kept * potentials + (1 - kept) * torch.stack(found).mean(dim=0)
        scale = kept * scale + (1 - kept) * torch.stack(spreads).mean()
    torch.testing.assert_close(router.average_potentials.double(), potentials, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(router.average_scale.double(), scale, rtol=1e-4, atol=1e-5)

    router.eval()
    tokens = skewed_tokens(512, 77)
    _, chosen = router(tokens)
    logits = logits_of(router, tokens)
    best = ((logits - logits.mean(dim=1, keepdim=True)) / scale + potentials).argmax(dim=1)
    assert chosen[range(512), best].double().mean() > 0.99
    plain = logits.argmax(dim=1).bincount(minlength=EXPERTS).max()
    assert chosen.sum(dim=0).max() < 1.5 * 512 / EXPERTS < plain


def test_a_capacity_at_inference_holds_when_it_is_asked_for() -> None:
    for factor, full in ((None, False), (1.0, True)):
        router = build_router(SparseOTRouterConfig(inference_capacity_factor=factor)).eval()
        _, chosen = router(skewed_tokens(128))
        assert (chosen.sum(dim=0).max() == 128 / EXPERTS) == full


def test_potentials_agree_with_a_solve_to_the_end_in_float64_from_elsewhere() -> None:
    router = build_router(SparseOTRouterConfig())
    tokens = skewed_tokens(512)
    router(tokens)
    logits = logits_of(router, tokens)
    logits = logits - logits.mean(dim=1, keepdim=True)
    plan = expert_potentials(
        -logits / logits.square().mean().sqrt(),
        torch.ones(512, dtype=torch.float64),
        torch.full((EXPERTS,), 512 / EXPERTS, dtype=torch.float64),
        k=EXPERTS,
        gamma=0.1,
        warm_start=torch.randn(EXPERTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        tolerance=1e-6,
        max_evaluations=500,
    )
    expected = plan.potentials[1] - plan.potentials[1].mean()
    torch.testing.assert_close(router.report()["potentials"].double(), expected, atol=0.05, rtol=0)


@each(
    "settings, message",
    [
        ({"hop_cost": 0.1}, "hop_cost: 0.1 with potentials rank is cancelled.*; choose potentials global"),
        ({"gate": "plan", "candidates": 1}, "gate: plan with candidates 1 .*never learns; choose"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SparseOTRouterConfig(**settings)
