"""Pairs of a batch by transport and assignment, against POT and brute force."""

import itertools
import math
from typing import Any

import numpy as np
import ot
import pytest
import torch

from tests.draws import generator
from tests.each import each
from tests.trainer.flow.test_coupling import rows_of
from trainer.flow import UNCONDITIONAL, coupling

METRICS = {"l2": "euclidean", "sqeuclidean": "sqeuclidean"}
PERMUTING: dict[str, tuple[coupling.Config, str]] = {
    "assignment": (coupling.Assignment(), "l2"),
    "minibatch_ot": (coupling.MinibatchOT(), "sqeuclidean"),
    "minibatch_ot, l2": (coupling.MinibatchOT(cost="l2"), "l2"),
}
permuting = pytest.mark.parametrize(("config", "cost"), PERMUTING.values(), ids=PERMUTING.keys())


def points(size: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, dim, generator=generator(0)), 1 + 2 * torch.randn(size, dim, generator=generator(1))


def costs(x_0: torch.Tensor, x_1: torch.Tensor, cost: str) -> np.ndarray:
    return np.asarray(ot.dist(x_0.double().numpy(), x_1.double().numpy(), metric=METRICS[cost]))


@permuting
def test_no_permutation_is_cheaper(config: coupling.Config, cost: str) -> None:
    x_0, x_1 = points(6, 3)
    matrix = costs(x_0, x_1, cost)
    pairs = coupling.build(config).draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator(2))
    found = matrix[rows_of(pairs.x_0, x_0).numpy(), np.arange(6)].sum()
    least = min(matrix[list(order), np.arange(6)].sum() for order in itertools.permutations(range(6)))
    assert found == pytest.approx(least, rel=1e-6)


@each(("config", "cost"), PERMUTING.values(), ids=PERMUTING.keys())
@each(("size", "dim"), [(64, 2), (100, 64)])
def test_the_cost_is_that_of_an_exact_plan(config: coupling.Config, cost: str, size: int, dim: int) -> None:
    x_0, x_1 = points(size, dim)
    matrix = costs(x_0, x_1, cost)
    pairs = coupling.build(config).draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator(2))
    found = matrix[rows_of(pairs.x_0, x_0).numpy(), np.arange(size)].mean()
    assert found == pytest.approx(ot.emd2(ot.unif(size), ot.unif(size), matrix), rel=1e-5)
    assert found < np.trace(matrix) / size


def scales(matrix: np.ndarray, unit: str) -> tuple[float, float]:
    """Of epsilon and of the price: the residual of a fit of a number for each row and each column; or others."""
    if unit != "spread":
        scale = float(matrix.mean()) if unit == "mean" else 1.0
        return scale, scale
    rows, columns = (axis.ravel() for axis in np.indices(matrix.shape))
    design = np.concatenate([np.eye(len(matrix))[rows], np.eye(matrix.shape[1])[columns]], 1)
    fit, *_ = np.linalg.lstsq(design, matrix.ravel(), rcond=None)
    return float(np.sqrt(np.square(matrix.ravel() - design @ fit).mean())), float(matrix.std())


@each("cost", ["sqeuclidean", "l2"])
@each("price", [math.inf, 0.5])
@each(("unit", "epsilon"), [("spread", 0.15), ("mean", 0.1), ("absolute", 0.7)])
def test_the_entropic_plan_is_that_of_pot(price: float, cost: Any, unit: Any, epsilon: float) -> None:
    x_0, x_1 = points(12, 2)
    matrix, masses = costs(x_0, x_1, cost), np.ones(12)
    of_epsilon, of_price = scales(matrix, unit)
    plan = coupling.Entropic(cost, epsilon, price, unit).log_plan(x_0, x_1).exp().numpy()
    reg: dict[str, Any] = {"reg": epsilon * of_epsilon, "stopThr": 1e-9, "numItermax": 20_000}
    if math.isinf(price):
        expected = ot.sinkhorn(masses, masses, matrix, **reg)
    else:
        expected = ot.unbalanced.sinkhorn_unbalanced(
            masses, masses, matrix, reg_m=price * of_price, reg_type="kl", **reg
        )
    np.testing.assert_allclose(plan, np.asarray(expected), atol=0.02)


@pytest.mark.parametrize("price", [math.inf, 1.0])
def test_what_all_costs_have_in_common_changes_no_pairs(price: float) -> None:
    """Points far apart from the others' cloud, in a further dimension: all mass would be left behind."""
    x_0, x_1 = (torch.nn.functional.pad(cloud, (0, 1)) for cloud in points(64, 2))
    away = x_1 + torch.tensor([0.0, 0.0, 30.0])
    matching = coupling.Entropic("sqeuclidean", 0.15, price)
    near, far = (matching.log_plan(x_0, data).double() for data in (x_1, away))
    torch.testing.assert_close(far.flatten().softmax(0), near.flatten().softmax(0), atol=2e-4, rtol=0.02)


@each(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: not positive or not finite"),
        ({"epsilon": math.inf}, "epsilon: not positive or not finite"),
        ({"epsilon": math.nan}, "epsilon: not positive or not finite"),
        ({"epsilon": 1.0, "marginal_weight": -1.0}, "marginal_weight: not positive"),
    ],
)
def test_strengths_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        coupling.Entropic("l2", **settings)
    assert "\n" not in str(caught.value)


def test_pairs_are_drawn_from_the_plan_with_every_data_point_once() -> None:
    x_0, x_1 = points(5, 2)
    config = coupling.MinibatchOT(solver="sinkhorn", epsilon=0.5, unit="mean")
    built, draws = coupling.build(config), generator(3)
    counts, rounds = np.zeros((5, 5)), 500
    for _ in range(rounds):
        pairs = built.draw(x_1, UNCONDITIONAL, x_0=x_0, generator=draws)
        counts[rows_of(pairs.x_0, x_0).numpy(), np.arange(5)] += 1
    matrix = costs(x_0, x_1, "sqeuclidean")
    plan = np.asarray(ot.sinkhorn(np.ones(5), np.ones(5), matrix / matrix.mean(), reg=0.5, stopThr=1e-9))
    assert np.abs(counts / rounds - plan).max() < 4 * 0.5 / rounds**0.5 + 2e-3
    assert torch.equal(pairs.x_1, x_1)


def test_what_the_plan_leaves_behind_weighs_little() -> None:
    """An outlier among the data keeps little mass at a low price, and all of it at a high one."""
    x_0, x_1 = points(32, 2)
    x_1[7] = torch.tensor([40.0, 40.0])
    shares = {}
    for price in (0.05, 1000.0):
        config = coupling.MinibatchOT(solver="unbalanced", marginal_weight=price)
        log_weight = coupling.build(config).draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator(1)).log_weight
        assert log_weight is not None
        shares[price] = float(log_weight.softmax(0)[7])
    assert shares[0.05] < 1e-6
    assert shares[1000.0] == pytest.approx(1 / 32, rel=0.05)


@pytest.mark.parametrize("solver", ["sinkhorn", "unbalanced"])
def test_points_that_are_all_the_same_are_paired_all_the_same(solver: str) -> None:
    config = coupling.MinibatchOT.model_validate({"solver": solver})
    pairs = coupling.build(config).draw(torch.ones(4, 2), UNCONDITIONAL, x_0=torch.ones(4, 2), generator=generator(1))
    assert torch.equal(pairs.x_0, torch.ones(4, 2))
    assert pairs.log_weight is None or bool(pairs.log_weight.isfinite().all())
