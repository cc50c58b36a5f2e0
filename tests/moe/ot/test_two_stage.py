"""Balancing prices and the cut to capacity, as a router uses them."""

from importlib import import_module
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from moe.ot import exact, expert_potentials, fill_capacity, sparsity_constrained
from tests.each import each
from tests.moe.ot.routers import skewed_logits
from tests.ranks import run_ranks


def tokens_and_loads(num_tokens: int, num_experts: int, **kinds: Any) -> tuple[Tensor, Tensor]:
    return torch.ones(num_tokens, **kinds), torch.full([num_experts], num_tokens / num_experts, **kinds)


def two_stage(cost: Tensor, capacity: float = 1.25, gamma: float = 0.1, **options: Any):
    a, b = tokens_and_loads(*cost.shape, dtype=cost.dtype)
    slots = int(capacity * len(cost) / cost.shape[1])
    return sparsity_constrained(cost, a, b, k=slots, gamma=gamma, **options), slots


@each("k", [2, 4, 8])
def test_prices_balance_the_loads(k: int) -> None:
    cost = -skewed_logits(1024, 8, seed=0).float()
    a, b = tokens_and_loads(1024, 8)
    demand = (-cost).argmax(-1).bincount(minlength=8)
    plan = expert_potentials(cost, a, b, k=k, gamma=0.1)
    assert demand.max() > 1.5 * 128
    assert plan.converged
    assert plan.evaluations <= 20
    assert plan.axis == "rows"
    assert plan.values.shape == (1024, k)
    assert torch.allclose(plan.row_sums(), a, atol=1e-5)
    assert (plan.column_sums() - b).abs().max() <= 1.01e-2 * 128
    assert plan.marginal_error <= 1e-2


def test_a_router_gets_almost_the_exact_affinity_under_a_hard_cap() -> None:
    logits = skewed_logits(1024, 16, seed=1).float()
    plan, slots = two_stage(-logits)
    demand = logits.argmax(-1).bincount(minlength=16)
    assert (demand - slots).clamp_min(0).sum() >= 0.2 * 1024, "top-1 drops a fifth"
    assert plan.stages == ("potentials", "capacity")
    assert plan.indices is not None
    assert plan.indices.shape == plan.values.shape == (16, slots)
    assert (plan.column_counts() <= slots).all()
    assert (plan.row_counts() == 0).float().mean() <= 0.01
    a, b = tokens_and_loads(1024, 16)
    best = exact(-logits, a, b)
    affinity, highest = ((p.dense() * logits).sum() / p.dense().sum() for p in (plan, best))
    assert affinity >= 0.995 * highest


@each("gamma", [0.1, 0.3])
def test_looking_only_at_each_tokens_best_experts_loses_nothing(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = -skewed_logits(1024, 16, seed=1)
    few, _ = two_stage(cost, gamma=gamma)
    monkeypatch.setattr(import_module("moe.ot.sparsity_constrained"), "_candidates", lambda *_: None)
    everything, _ = two_stage(cost, gamma=gamma)
    assert few.stages == everything.stages == ("potentials", "capacity")
    assert float(few.value) == pytest.approx(float(everything.value), rel=1e-4)
    assert int((few.row_counts() == 0).sum()) <= int((everything.row_counts() == 0).sum()) + 2


def test_the_listed_entries_are_the_dense_plan() -> None:
    plan, _ = two_stage(-skewed_logits(256, 8, seed=2))
    dense = plan.dense()
    assert plan.indices is not None
    assert all(len(set(row.tolist())) == len(row) for row in plan.indices)
    assert torch.allclose(dense.sum(-1), plan.row_sums())
    assert torch.allclose(dense.sum(-2), plan.column_sums())
    assert torch.equal((dense > 0).sum(-1), plan.row_counts())
    assert torch.equal((dense > 0).sum(-2), plan.column_counts())
    assert torch.equal(plan.transposed().dense(), dense.mT)


def test_the_second_stage_is_skipped_where_the_first_fits() -> None:
    cost = -skewed_logits(256, 8, seed=0)
    plan, _ = two_stage(cost, capacity=8.0)
    a, b = tokens_and_loads(256, 8, dtype=cost.dtype)
    first = expert_potentials(cost, a, b, k=8, gamma=0.1, max_evaluations=100)
    assert plan.stages == ("potentials",)
    assert plan.axis == "columns"
    assert torch.equal(plan.dense(), first.dense())
    assert plan.evaluations == first.evaluations


def test_the_second_stage_keeps_the_tolerance_and_the_evaluations() -> None:
    cost = -skewed_logits(256, 8, seed=0)
    options: dict[str, Any] = {"capacity_iterations": 60, "max_evaluations": 400, "gamma": 0.1}
    for tolerance in (1e-2, 1e-6, 1e-12):
        plan, _ = two_stage(cost, tolerance=tolerance, **options)
        dense = plan.dense()
        violation = max(float((dense.sum(-1) - 1).abs().max()), float((dense.sum(-2) - 32).abs().max()) / 32)
        assert plan.stages == ("potentials", "capacity")
        assert plan.converged
        assert violation <= tolerance
        assert float(plan.marginal_error) == pytest.approx(violation, rel=1e-3)
    for most in (25, 40):
        plan, _ = two_stage(cost, tolerance=1e-12, **(options | {"max_evaluations": most}))
        assert not plan.converged
        assert plan.evaluations <= most
    plan, _ = two_stage(cost, tolerance=1e-12, **(options | {"capacity_iterations": 3}))
    assert not plan.converged, "3 steps do not reach it, whatever the evaluations"


def test_only_the_overfull_problems_of_a_batch_are_cut() -> None:
    skewed, even = -skewed_logits(256, 8, seed=0), 3 * torch.eye(8, dtype=torch.float64).repeat(32, 1).neg()
    a, b = tokens_and_loads(256, 8, dtype=torch.float64)
    together = sparsity_constrained(torch.stack([even, skewed, even]), a, b, k=33, gamma=0.3)
    assert together.stages == ("potentials", "capacity")
    for number, cost in enumerate((even, skewed, even)):
        alone = sparsity_constrained(cost, a, b, k=33, gamma=0.3)
        assert alone.stages == (("potentials", "capacity") if number == 1 else ("potentials",))
        assert torch.allclose(together.dense()[number], alone.dense(), atol=1e-9)
        assert torch.allclose(together.value[number], alone.value)


def test_a_drifted_router_needs_fewer_evaluations_from_the_last_prices() -> None:
    a, b = tokens_and_loads(2048, 16)
    evaluations = {"cold": 0, "warm": 0}
    for seed in range(4):
        before, after = (-skewed_logits(2048, 16, seed=seed, drift=drift).float() for drift in (0.0, 0.02))
        last = expert_potentials(before, a, b, k=8, gamma=0.1).potentials[1]
        for name, start in (("cold", None), ("warm", last)):
            plan = expert_potentials(after, a, b, k=8, gamma=0.1, warm_start=start)
            assert plan.converged
            evaluations[name] += plan.evaluations
    assert evaluations["warm"] <= 0.75 * evaluations["cold"]


def test_padding_takes_no_mass_and_no_slot() -> None:
    cost = -skewed_logits(256, 8, seed=4)
    padded = torch.cat([cost, torch.full([64, 8], -50.0, dtype=cost.dtype)])
    a = torch.cat([torch.ones(256), torch.zeros(64)]).double()
    b = torch.full([8], 32.0, dtype=torch.float64)
    for slots in (36, 80, 320):
        plan = sparsity_constrained(padded, a, b, k=slots, gamma=0.3)
        alone = sparsity_constrained(cost, a[:256], b, k=slots, gamma=0.3)
        assert float(plan.dense()[256:].abs().sum()) == 0
        assert (plan.row_counts()[256:] == 0).all()
        assert torch.allclose(plan.column_sums(), alone.column_sums(), rtol=1e-2)
        assert float(plan.value) == pytest.approx(float(alone.value), rel=1e-5)


@each("dtype", [torch.float32, torch.float64])
def test_repeated_tokens_are_told_apart_and_always_alike(dtype: torch.dtype) -> None:
    """Without the preference for other rows in each column, all experts would list the same of the equal tokens."""
    logits = skewed_logits(64, 16, seed=1).to(dtype).repeat(16, 1)
    plan, slots = two_stage(-logits)
    again, _ = two_stage(-logits)
    assert torch.equal(plan.dense(), again.dense())
    assert (plan.column_counts() <= slots).all()
    assert (plan.row_counts() > 0).float().mean() >= 0.99


def test_a_router_that_says_nothing_is_balanced_too() -> None:
    plan, slots = two_stage(torch.zeros(64, 8), capacity_iterations=10)
    assert torch.allclose(plan.column_sums(), torch.full([8], 8.0))
    assert (plan.column_counts() <= slots).all()
    assert (plan.row_counts() > 0).float().mean() >= 0.8


def test_loads_that_exceed_the_slots_move_to_experts_with_room() -> None:
    """A rank's tokens under prices that balance all ranks may crowd one expert."""
    logits = skewed_logits(256, 8, seed=6)
    a, b = tokens_and_loads(256, 8, dtype=logits.dtype)
    crowded = expert_potentials(-logits, a, b, k=4, gamma=0.1, max_evaluations=1)
    assert crowded.column_counts().max() > 40
    plan = fill_capacity(-logits, crowded, k=40, gamma=0.1, iterations=20)
    assert plan.column_counts().max() <= 40
    assert float(plan.column_sums().sum()) == pytest.approx(256)
    assert (plan.row_counts() == 0).float().mean() <= 0.05
    with pytest.raises(ValueError, match="too few slots"):
        fill_capacity(-logits, crowded, k=30, gamma=0.1)
    with pytest.raises(ValueError, match="no slots"):
        fill_capacity(-logits, crowded, k=0, gamma=0.1)


def test_gates_at_fixed_prices_have_the_gradient_of_the_projection() -> None:
    cost = -skewed_logits(12, 4, seed=7)
    a, b = tokens_and_loads(12, 4, dtype=cost.dtype)
    prices = expert_potentials(cost, a, b, k=2, gamma=1.0).potentials[1]

    def gates(cost: Tensor) -> Tensor:
        return expert_potentials(cost, a, b, k=2, gamma=1.0, warm_start=prices, max_evaluations=1).values

    assert torch.autograd.gradcheck(gates, cost.requires_grad_())


def priced_on_ranks(rank: int, world_size: int, cost: Tensor, b: Tensor) -> dict[str, Any]:
    """Prices of one rank's share of the tokens, of unequal size."""
    first = len(cost) // 4
    mine = cost[:first] if rank == 0 else cost[first:]
    sizes = []

    def reduce(sums: Tensor) -> Tensor:
        assert world_size == 2
        sizes.append(tuple(sums.shape))
        dist.all_reduce(sums)
        return sums

    plan = expert_potentials(mine, torch.ones(len(mine)), b, k=4, gamma=0.1, reduce=reduce)
    return {"prices": plan.potentials[1], "plan": plan.dense(), "error": plan.marginal_error, "value": plan.value} | {
        "sizes": sizes,
        "evaluations": plan.evaluations,
        "converged": plan.converged,
    }


def test_two_ranks_find_the_prices_of_one_that_has_all_tokens() -> None:
    cost = -skewed_logits(1024, 16, seed=8).float()
    a, b = tokens_and_loads(1024, 16)
    alone = expert_potentials(cost, a, b, k=4, gamma=0.1)
    first, second = run_ranks(priced_on_ranks, 2, cost, b)
    assert torch.equal(first["prices"], second["prices"])
    assert first["sizes"] == second["sizes"] == [(1, 17)] * alone.evaluations
    assert first["evaluations"] == second["evaluations"] == alone.evaluations
    assert first["converged"]
    assert torch.allclose(first["prices"], alone.potentials[1], atol=1e-4)
    assert torch.allclose(first["value"], alone.value, rtol=1e-5)
    assert torch.allclose(first["error"], alone.marginal_error, atol=1e-4)
    assert torch.allclose(torch.cat([first["plan"], second["plan"]]), alone.dense(), atol=2e-3)
