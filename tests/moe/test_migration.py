"""Which experts move, and when, against brute force and by properties."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moe.config import MigrationConfig
from moe.migration import MigrationPlan, MigrationTrigger, moves_between, plan_migration
from moe.migration.plan import Cycle, Gains, ranks_of, settle
from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.traces import dropping_trace, markov_trace, trace

OBJECTIVE_NAMES: tuple[Dispatch, ...] = ("home", "coherent", "copies")


def shuffled(num_layers: int, num_experts: int, seed: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(num_experts) for _ in range(num_layers)])


def statistics_of(objective: Dispatch, num_ranks: int, *, seed: int, num_experts: int = 8) -> RoutingStatistics:
    if objective == "coherent":
        return RoutingStatistics.collect(markov_trace(num_experts, 5, 0.8, 2000, seed=seed), num_ranks)
    routing = dropping_trace(num_experts, 5, 2, 2000, seed=seed, world_size=num_ranks, drop=0.0)
    return RoutingStatistics.collect(routing, num_ranks)


def traffic(objective: Dispatch, statistics: RoutingStatistics, ranks: NDArray, topology: Topology) -> float:
    return float(OBJECTIVES[objective](statistics, ranks, topology.cost).sum())


# plans


@each("seed", range(5))
def test_an_expert_that_stays_on_its_rank_keeps_its_slot(seed: int) -> None:
    before, wanted = shuffled(3, 12, seed), ranks_of(shuffled(3, 12, seed + 100), 4)
    after = settle(before, wanted, 4)
    np.testing.assert_array_equal(ranks_of(after, 4), wanted)
    stays = ranks_of(before, 4) == wanted
    assert (np.argsort(after, axis=1) == np.argsort(before, axis=1))[stays].all()


def test_moves_lead_from_one_map_to_the_other() -> None:
    before, after = shuffled(3, 8, 1), shuffled(3, 8, 2)
    replayed = before.copy()
    for move in moves_between(before, after):
        assert before[move.layer, move.source] == move.expert
        replayed[move.layer, move.target] = move.expert
    np.testing.assert_array_equal(replayed, after)


@each("seed", range(5))
def test_fixed_experts_stay(seed: int) -> None:
    topology, statistics = Topology.hops(2, 2), statistics_of("home", 4, seed=seed)
    before, target = shuffled(5, 8, seed), ranks_of(shuffled(5, 8, seed + 100), 4)
    fixed = np.random.default_rng(seed).random(before.shape) < 0.2
    settings: Any = {"objective": "home", "most_moves": 100, "expert_tokens": 0.0}
    free, held = (plan_migration(statistics, topology, before, target, **settings, fixed=f) for f in (None, fixed))
    assert any(fixed[move.layer, move.expert] for move in free.moves)
    assert not any(fixed[move.layer, move.expert] for move in held.moves)
    assert held.moves
    assert held.saving > 0


@each("objective", OBJECTIVE_NAMES)
@each("topology", [Topology.hops(1, 4), Topology.hops(2, 2)], ids=["1x4", "2x2"])
def test_a_gain_is_the_difference_of_the_objective(objective: Dispatch, topology: Topology) -> None:
    statistics = statistics_of(objective, 4, seed=3)
    present, goal = (ranks_of(shuffled(5, 8, seed), 4) for seed in (1, 2))
    gains = Gains(statistics, topology, objective, expert_tokens=7.0)
    for layer, experts in product(range(5), [(0,), (1, 6), (2, 3, 7)]):
        cycle = Cycle(layer, experts, tuple(goal[layer, experts].tolist()))
        ranks = cycle.applied(present)
        saving = traffic(objective, statistics, present, topology) - traffic(objective, statistics, ranks, topology)
        assert gains(cycle, present) == saving - 7.0 * topology.cost[present, ranks].sum()


@each("objective, most_moves", product(OBJECTIVE_NAMES, [0, 2, 3, 7, 100]))
def test_a_plan_is_balanced_pays_and_keeps_to_its_budget(objective: Dispatch, most_moves: int) -> None:
    topology, expert_tokens = Topology.hops(2, 2), 5.0
    statistics, slots = statistics_of(objective, 4, seed=3), shuffled(5, 8, 0)
    target = ranks_of(shuffled(5, 8, 9), 4)
    plan = plan_migration(
        statistics, topology, slots, target, objective=objective, most_moves=most_moves, expert_tokens=expert_tokens
    )
    before, after = ranks_of(slots, 4), ranks_of(plan.slot_to_expert, 4)
    assert all((np.bincount(layer) == 2).all() for layer in after)
    assert len(plan.moves) <= most_moves
    assert list(plan.moves) == list(moves_between(slots, plan.slot_to_expert))
    assert plan.effort == topology.cost[before, after].sum()
    assert plan.saving == pytest.approx(
        traffic(objective, statistics, before, topology) - traffic(objective, statistics, after, topology)
    )
    assert plan.saving > expert_tokens * plan.effort or not plan.moves


@each("objective", OBJECTIVE_NAMES)
def test_an_unlimited_plan_is_no_worse_than_its_target(objective: Dispatch) -> None:
    topology = Topology.hops(1, 4)
    for seed in range(4):
        statistics, slots = statistics_of(objective, 4, seed=seed), shuffled(5, 8, seed)
        target = ranks_of(shuffled(5, 8, seed + 50), 4)
        plan = plan_migration(
            statistics, topology, slots, target, objective=objective, most_moves=99, expert_tokens=0.0
        )
        reached = ranks_of(plan.slot_to_expert, 4)
        costs = [traffic(objective, statistics, ranks, topology) for ranks in (reached, target, ranks_of(slots, 4))]
        assert costs[0] <= min(costs)


@each("seed, most_moves", product(range(6), [2, 4, 6]))
def test_on_two_ranks_the_best_homes_within_the_budget_are_found(seed: int, most_moves: int) -> None:
    topology, slots = Topology.hops(1, 2), shuffled(2, 6, seed)
    routing = dropping_trace(6, 2, 2, 300, seed=seed, world_size=2, drop=0.0)
    statistics = RoutingStatistics.collect(routing, 2)
    present = ranks_of(slots, 2)
    halves = [np.isin(np.arange(6), half).astype(int) for half in combinations(range(6), 3)]
    allowed = [ranks for ranks in map(np.stack, product(halves, repeat=2)) if (ranks != present).sum() <= most_moves]
    cheapest = min(traffic("home", statistics, ranks, topology) for ranks in allowed)
    target = min(map(np.stack, product(halves, repeat=2)), key=lambda r: traffic("home", statistics, r, topology))
    plan = plan_migration(
        statistics, topology, slots, target, objective="home", most_moves=most_moves, expert_tokens=0.0
    )
    assert traffic("home", statistics, ranks_of(plan.slot_to_expert, 2), topology) == cheapest


def counted(transitions: list[list[list[int]]]) -> RoutingStatistics:
    """Counts of a trace in which the transitions of each gap come from tokens of their own."""
    num_experts = len(transitions[0])
    tokens = []
    for gap, table in enumerate(transitions):
        for one, other in product(range(num_experts), repeat=2):
            path = [-1] * (len(transitions) + 1)
            path[gap], path[gap + 1] = one, other
            tokens += [path] * table[one][other]
    ids = np.array(tokens)[:, :, None]
    return RoutingStatistics.collect(trace(ids, np.zeros(len(ids), int), num_experts, 1), 2)


def test_exchanges_that_lose_alone_are_taken_where_they_pay_together() -> None:
    topology = Topology.hops(1, 2)
    straight, wide = [[10, 0], [0, 10]], [[25, 0], [0, 25]]
    statistics = counted([straight, straight, wide])
    slots = np.array([[0, 1], [0, 1], [1, 0], [1, 0]])
    target = np.array([[0, 1]] * 4)

    def plan(most_moves: int) -> MigrationPlan:
        return plan_migration(
            statistics, topology, slots, target, objective="coherent", most_moves=most_moves, expert_tokens=1.0
        )

    assert not plan(2).moves
    assert plan(4).saving == 20
    assert len(plan(4).moves) == 4


def test_ranks_of_a_target_are_renamed_so_that_experts_stay() -> None:
    statistics = statistics_of("coherent", 4, seed=0)
    slots = shuffled(5, 8, 0)
    present = ranks_of(slots, 4)
    for topology, names in ((Topology.hops(1, 4), [2, 0, 3, 1]), (Topology.hops(2, 2), [3, 2, 0, 1])):
        renamed = np.array(names)[present]
        plan = plan_migration(
            statistics, topology, slots, renamed, objective="coherent", most_moves=99, expert_tokens=0.0
        )
        assert not plan.moves


def test_ranks_are_not_renamed_across_nodes_or_against_the_traffic() -> None:
    slots, most = shuffled(5, 8, 0), {"most_moves": 99, "expert_tokens": 0.0}
    present = ranks_of(slots, 4)
    statistics = statistics_of("coherent", 4, seed=0)
    across = np.array([0, 2, 1, 3])[present]
    plan = plan_migration(statistics, Topology.hops(2, 2), slots, across, objective="coherent", **most)
    costs = [traffic("coherent", statistics, ranks, Topology.hops(2, 2)) for ranks in (present, across)]
    assert plan.saving >= costs[0] - costs[1]

    bound = np.tile([0, 1, 2, 3], 500)
    ids = np.stack([bound * 2, bound * 2 + 1], axis=1)[:, None].repeat(5, axis=1)  # experts 2 r and 2 r + 1 from rank r
    homes = RoutingStatistics.collect(trace(ids, bound, 8, 4), 4)
    target = np.tile(np.arange(8) // 2, (5, 1))
    away = np.argsort(np.array([1, 0, 3, 2])[target], axis=1, kind="stable")
    plan = plan_migration(homes, Topology.hops(1, 4), away, target, objective="home", **most)
    np.testing.assert_array_equal(ranks_of(plan.slot_to_expert, 4), target)


# trigger


def trigger(objective: Dispatch, num_ranks: int, **config: float) -> MigrationTrigger:
    settings = MigrationConfig.model_validate({"every": 1, **config})
    return MigrationTrigger(settings, Topology.hops(1, num_ranks), objective, token_bytes=256, expert_bytes=100_000)


def leaning(seed: int, lean: float, *, tokens: int = 4000) -> RoutingStatistics:
    """Tokens of two ranks; a share of them goes to the experts of its rank's parity, which contiguous tears apart."""
    draw = np.random.default_rng(seed)
    rank = draw.integers(2, size=tokens)
    ids = draw.integers(8, size=(tokens, 3, 1))
    leans = draw.random((tokens, 3, 1)) < lean
    ids = np.where(leans, ids // 2 * 2 + rank[:, None, None], ids)
    return RoutingStatistics.collect(trace(ids, rank, 8, 2), 2)


CONTIGUOUS = np.tile(np.arange(8), (3, 1))


def test_two_dear_windows_in_a_row_move_experts_and_the_regret_falls() -> None:
    looks = trigger("home", 2)
    assert looks.look(leaning(0, 0.0), 10, CONTIGUOUS) is None
    assert looks.regret is not None
    assert looks.regret < 0.1
    assert looks.look(leaning(1, 0.6), 10, CONTIGUOUS) is None
    assert looks.regret > 0.3
    plan = looks.look(leaning(2, 0.6), 10, CONTIGUOUS)
    assert plan is not None
    assert looks.look(leaning(3, 0.6), 10, plan.slot_to_expert) is None
    assert looks.regret < 0.1
    assert all(set(layer[:4] % 2) == {0} for layer in plan.slot_to_expert)


def test_one_dear_window_alone_moves_nothing() -> None:
    looks = trigger("home", 2)
    for seed, lean in enumerate((0.6, 0.0, 0.6, 0.0)):
        assert looks.look(leaning(seed, lean), 10, CONTIGUOUS) is None


@each("objective", OBJECTIVE_NAMES)
def test_chance_alone_moves_nothing(objective: Dispatch) -> None:
    """Few tokens without affinity: moves seem to pay in every window, on the tokens that they were made from."""
    looks = trigger(objective, 4, regret=1e-6, horizon=200)
    slots = shuffled(5, 8, 0)
    for seed in range(8):
        routing = dropping_trace(8, 5, 2, 200, seed=seed, world_size=4, drop=0.0)
        assert looks.look(RoutingStatistics.collect(routing, 4), 1, slots) is None
        assert looks.planned is not None, "the noise must look worth a move for this to test anything"


def test_a_move_must_earn_back_its_bytes_within_the_horizon() -> None:
    """The saving is 8 bytes a token and hop: what a step saves is known, and so is the horizon that pays for a move."""
    windows = [leaning(seed, 0.6) for seed in (1, 2)]
    plans = {}
    for horizon in (1, 1000):
        looks = trigger("home", 2, horizon=horizon)
        plans[horizon] = [looks.look(window, 10, CONTIGUOUS) for window in windows][1]
    assert plans[1] is None
    plan = plans[1000]
    assert plan is not None
    saving_per_step = 256 * plan.saving / 10
    assert saving_per_step * 1 < 100_000 * plan.effort < saving_per_step * 1000


def test_equal_windows_lead_to_equal_plans() -> None:
    windows = [RoutingStatistics.collect(markov_trace(16, 6, 0.9, 3000, seed=s, tokens_seed=s), 4) for s in (1, 1)]
    slots = shuffled(6, 16, 0)
    plans = []
    for _ in range(2):
        looks = trigger("coherent", 4)
        plans.append([looks.look(window, 10, slots) for window in windows][1])
    one, other = plans
    assert one.moves
    np.testing.assert_array_equal(one.slot_to_expert, other.slot_to_expert)
    assert one.moves == other.moves
