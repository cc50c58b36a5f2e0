"""Searches for step sizes, against brute force, closed forms and the samplers themselves."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from tests.each import each
from tests.trainer.sampling.steps.fields import Bent, Constant, Jumping, solutions
from trainer.flow.sampler import Euler, Segmented
from trainer.sampling.fine_grid import FineSolution, check_evaluations, fine_solution, times_of, uniform_grid
from trainer.sampling.step_search import chord_cost, chord_grid, cost_matrix, endpoint_error, endpoint_grid

NODES = 12


def all_grids(nodes: int, evaluations: int) -> list[tuple[int, ...]]:
    return [(0, *inner, nodes) for inner in combinations(range(1, nodes), evaluations - 1)]


def error_by_sampler(found: list[FineSolution], grid: tuple[int, ...]) -> float:
    """The error at the end, by the sampler that samples are drawn by."""
    sampler = Euler() if found[0].segments == 1 else Segmented(segments=found[0].segments, within=Euler())
    times = torch.tensor(times_of(grid, found[0].nodes))
    missed = [sampler.sample(one.field, one.states[0], times).final - one.states[-1] for one in found]
    return float(torch.cat(missed).double().square().sum(1).mean())


def test_costs_are_what_one_step_misses_the_fine_solution_by() -> None:
    found = solutions(Bent(), nodes=NODES)
    cost = cost_matrix(found)
    x = torch.cat([one.states for one in found], dim=1).double()
    for start in range(NODES + 1):
        for end in range(NODES + 1):
            if end <= start:
                assert np.isinf(cost[start, end])
                continue
            velocity = Bent()(x[start], torch.full((x.shape[1],), start / NODES, dtype=torch.float64))
            missed = x[start] + (end - start) / NODES * velocity - x[end]
            assert cost[start, end] == pytest.approx(float(missed.square().sum(1).mean()), rel=1e-4, abs=1e-10)
    assert not np.diag(cost, 1).any(), "a fine step misses nothing"


def test_the_programme_finds_the_least_cost_of_all_grids() -> None:
    cost = cost_matrix(solutions(Bent(), nodes=NODES))
    for evaluations in range(1, NODES + 1):
        grid = chord_grid(cost, evaluations)
        assert len(grid) == evaluations + 1
        least = min(chord_cost(cost, other) for other in all_grids(NODES, evaluations))
        assert chord_cost(cost, grid) == pytest.approx(least, rel=1e-12)
        assert chord_cost(cost, grid) <= chord_cost(cost, uniform_grid(NODES, evaluations))
    assert chord_cost(cost, chord_grid(cost, NODES)) == 0


def test_the_programme_finds_the_least_cost_of_any_matrix() -> None:
    draw = np.random.default_rng(3)
    for _ in range(20):
        cost = np.where(np.triu(np.ones((9, 9)), 1) > 0, draw.exponential(size=(9, 9)), np.inf)
        for evaluations in (2, 3, 5):
            least = min(chord_cost(cost, other) for other in all_grids(8, evaluations))
            assert chord_cost(cost, chord_grid(cost, evaluations)) == pytest.approx(least, rel=1e-12)


def test_straight_paths_cost_nothing_anywhere() -> None:
    found = solutions(Constant(), nodes=NODES)
    cost = cost_matrix(found)
    assert np.nanmax(cost[np.isfinite(cost)]) < 1e-11
    assert endpoint_error(found, (0, 5, NODES)) < 1e-11


def test_the_uniform_grid_has_equal_steps_and_the_edges_of_segments() -> None:
    assert uniform_grid(12, 4) == (0, 3, 6, 9, 12)
    for nodes in (7, 30, 100, 102):
        for evaluations in range(1, nodes + 1):
            grid = uniform_grid(nodes, evaluations)
            lengths = {end - start for start, end in pairwise(grid)}
            assert (grid[0], grid[-1], len(grid)) == (0, nodes, evaluations + 1)
            assert max(lengths) - min(lengths) <= 1
    assert set(uniform_grid(102, 12)) >= set(range(0, 103, 17))


def test_errors_are_those_of_the_sampler() -> None:
    found = solutions(Bent(), nodes=NODES)
    for grid in ((0, NODES), (0, 1, 7, NODES), uniform_grid(NODES, 5)):
        assert endpoint_error(found, grid) == pytest.approx(error_by_sampler(found, grid), rel=1e-5)
    assert endpoint_error(found, uniform_grid(NODES, NODES)) == 0


def test_the_descent_ends_no_worse_than_it_began_and_where_no_neighbour_is_better() -> None:
    found = solutions(Bent(), nodes=NODES)
    cost = cost_matrix(found)
    for evaluations in (1, 2, 4, 9, NODES):
        starts = (uniform_grid(NODES, evaluations), chord_grid(cost, evaluations))
        best = endpoint_grid(found, starts)
        assert best.error == pytest.approx(endpoint_error(found, best.grid), rel=1e-12)
        assert best.error <= min(endpoint_error(found, start) for start in starts)
        errors = {grid: endpoint_error(found, grid) for grid in all_grids(NODES, evaluations)}
        neighbours = [grid for grid in errors if np.abs(np.subtract(grid, best.grid)).sum() == 1]
        assert all(errors[grid] >= best.error for grid in neighbours)
        assert best.error <= 1.1 * min(errors.values()), "on these paths it finds nearly the best of all grids"


def test_the_descent_gains_on_noises_that_it_has_not_seen() -> None:
    found, fresh = solutions(Bent(), nodes=50), solutions(Bent(), nodes=50, num=400, seed=1)
    for evaluations in (2, 4, 8):
        uniform = uniform_grid(50, evaluations)
        best = endpoint_grid(found, (uniform, chord_grid(cost_matrix(found), evaluations)))
        assert endpoint_error(fresh, best.grid) < endpoint_error(fresh, uniform)


def test_states_before_a_node_that_moves_are_kept() -> None:
    counted = 0

    class Counted(Bent):
        def __call__(self, x: torch.Tensor, t: torch.Tensor, /) -> torch.Tensor:
            nonlocal counted
            counted += 1
            return super().__call__(x, t)

    found = [fine_solution(Counted(), torch.randn(5, 2), nodes=NODES)]
    counted, evaluations = 0, 6
    best = endpoint_grid(found, (uniform_grid(NODES, evaluations),))
    assert counted <= evaluations + (best.tried - 1) * (evaluations - 1)
    assert counted < 0.75 * best.tried * evaluations


@pytest.mark.parametrize("evaluations", [3, 6, 9])
def test_grids_hold_the_edges_of_segments(evaluations: int) -> None:
    found = solutions(Jumping(3), nodes=NODES, segments=3)
    cost = cost_matrix(found)
    crossing = [
        (start, end) for start in range(NODES) for end in range(start + 1, NODES + 1) if start // 4 < (end - 1) // 4
    ]
    assert all(np.isinf(cost[step]) for step in crossing)
    starts = (uniform_grid(NODES, evaluations), chord_grid(cost, evaluations))
    best = endpoint_grid(found, starts)
    for grid in (*starts, best.grid):
        assert set(grid) >= {0, 4, 8, 12}
    assert best.error == pytest.approx(error_by_sampler(found, best.grid), rel=1e-4, abs=1e-9)
    legal = [grid for grid in all_grids(NODES, evaluations) if {4, 8} <= set(grid)]
    assert chord_cost(cost, starts[1]) == pytest.approx(min(chord_cost(cost, grid) for grid in legal))


def test_the_field_of_a_segment_is_made_anew_where_a_path_enters_it() -> None:
    field = Jumping(2)
    fine_solution(field, torch.ones(1, 2), nodes=6, segments=2)
    assert field.entered == [0, 1]


@each(
    ("arguments", "said"),
    [
        ((13, 12), "exceed the 12 nodes of the fine grid; use more nodes"),
        ((0, 12), "is below 1; use 1"),
        ((2, 12, 3), "not a multiple of the 3 segments of the sampler; use 3"),
        ((7, 12, 3), "not a multiple of the 3 segments of the sampler; use 6"),
    ],
)
def test_evaluations_without_a_grid_are_refused(arguments: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_evaluations(*arguments)


def test_segments_that_do_not_divide_the_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="nodes: 10 is not a multiple of the 3 segments"):
        fine_solution(Jumping(3), torch.ones(1, 2), nodes=10, segments=3)
    with pytest.raises(ValueError, match="holds all edges of segments"):
        chord_grid(cost_matrix(solutions(Jumping(3), nodes=NODES, segments=3)), 2)
