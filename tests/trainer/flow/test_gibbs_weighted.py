"""Weights of independent pairs, against POT and in their limits."""

from typing import Any

import numpy as np
import ot
import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import brentq

from tests.draws import generator
from tests.each import each
from trainer.flow import UNCONDITIONAL, coupling
from trainer.flow.coupling.protocol import epsilon_of_share


@pytest.mark.parametrize(("cost", "metric"), [("l2", "euclidean"), ("sqeuclidean", "sqeuclidean")])
def test_the_weighted_product_is_an_entropic_plan_between_its_own_marginals(cost: str, metric: str) -> None:
    """Of all plans with its marginals it is the one that POT's Sinkhorn iterations find."""
    x_0, x_1 = torch.randn(7, 3, generator=generator(0)), 2 + torch.randn(5, 3, generator=generator(1))
    a, b = torch.rand(7, generator=generator(2)), torch.rand(5, generator=generator(3))
    config = coupling.GibbsWeighted.model_validate({"cost": cost, "epsilon": 1.5})
    pairs = coupling.build(config).draw(
        x_1.repeat(7, 1), UNCONDITIONAL, x_0=x_0.repeat_interleave(5, 0), generator=generator(4)
    )
    assert pairs.log_weight is not None
    weights = pairs.log_weight.double().exp().reshape(7, 5)
    product = (a[:, None] * b * weights).numpy()
    product /= product.sum()
    costs = ot.dist(x_0.double().numpy(), x_1.double().numpy(), metric=metric)
    plan = ot.sinkhorn(product.sum(1), product.sum(0), costs, reg=1.5, stopThr=1e-12, numItermax=10_000)
    np.testing.assert_allclose(np.asarray(plan), product, atol=1e-7)


def share(log_weight: torch.Tensor) -> float:
    """(sum w)^2 / (N sum w^2)."""
    weight = np.exp(log_weight.double().numpy() - float(log_weight.max()))
    return float(weight.sum() ** 2 / (len(weight) * np.square(weight).sum()))


def drawn(settings: dict[str, Any], x_0: torch.Tensor, x_1: torch.Tensor) -> torch.Tensor:
    config = coupling.GibbsWeighted.model_validate(settings)
    log_weight = coupling.build(config).draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator(2)).log_weight
    assert log_weight is not None
    return log_weight


@each("cost", ["l2", "sqeuclidean"])
@each("wanted", [0.05, 0.5, 0.9])
def test_the_automatic_epsilon_is_the_one_whose_weights_have_the_share(cost: str, wanted: float) -> None:
    """In units of the data, in many dimensions, and beside an outlier; the root is scipy's."""
    for scale, dim, outlier in ((1.0, 2, 0.0), (1e-3, 48, 0.0), (50.0, 48, 0.0), (1.0, 2, 1e4)):
        x_0, x_1 = (
            scale * torch.randn(300, dim, generator=generator(0)),
            scale * torch.randn(300, dim, generator=generator(1)),
        )
        x_1[7] += outlier * scale
        log_weight = drawn({"cost": cost, "share": wanted}, x_0, x_1)
        assert share(log_weight) == pytest.approx(wanted, rel=0.01)
        assert float(log_weight.exp().mean()) == pytest.approx(1, rel=1e-4)
        costs = np.linalg.norm(x_0.double().numpy() - x_1.double().numpy(), axis=1) ** (1 if cost == "l2" else 2)

        def above(log_epsilon: float, costs: np.ndarray = costs) -> float:
            return share(torch.from_numpy((costs.min() - costs) / np.exp(log_epsilon))) - wanted

        root: Any = brentq(above, np.log(np.ptp(costs)) - 25, np.log(np.ptp(costs)) + 12)
        found = epsilon_of_share(torch.from_numpy(costs), wanted)
        assert float(found) == pytest.approx(np.exp(root), rel=2e-3)
        wider = drawn({"cost": cost, "share": wanted, "kappa": 3.0}, x_0, x_1)
        torch.testing.assert_close(wider - wider.mean(), (log_weight - log_weight.mean()) / 3, rtol=1e-3, atol=1e-4)


def test_an_automatic_epsilon_leaves_two_pairs_at_least_and_takes_equal_costs() -> None:
    for size, least in ((1, 1.0), (2, 2.0), (3, 2.0), (40, 2.0)):
        x_0, x_1 = torch.randn(size, 3, generator=generator(0)), torch.randn(size, 3, generator=generator(1))
        assert share(drawn({"share": 0.001}, x_0, x_1)) * size == pytest.approx(least, rel=0.02)
    equal = drawn({}, torch.zeros(9, 2), torch.ones(9, 2))
    torch.testing.assert_close(equal, torch.zeros(9))


def test_an_automatic_epsilon_is_that_of_all_micro_batches() -> None:
    x_0, x_1 = torch.randn(64, 3, generator=generator(0)), 2 * torch.randn(64, 3, generator=generator(1))
    together = drawn({}, x_0, x_1)
    parts = coupling.GibbsWeighted().draw_step(
        x_1.split(16), [UNCONDITIONAL] * 4, generators=[generator(2)] * 4, x_0=x_0.split(16)
    )
    torch.testing.assert_close(torch.cat([part.log_weight for part in parts if part.log_weight is not None]), together)


@each(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", -1.0),
        ("epsilon", float("nan")),
        ("share", 0.0),
        ("share", 1.0),
        ("kappa", 0.0),
        ("kappa", float("inf")),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError) as caught:
        coupling.GibbsWeighted.model_validate({field: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_an_infinite_epsilon_weighs_nothing_and_a_small_one_tilts_the_data() -> None:
    """Data points far from the source lose weight as epsilon falls."""
    near, far = torch.full((500, 2), 0.5), torch.full((500, 2), 3.0)
    x_1, shares = torch.cat([near, far]), []
    for epsilon in (float("inf"), 30.0, 1.0):
        config = coupling.GibbsWeighted(epsilon=epsilon)
        log_weight = coupling.build(config).draw(x_1, UNCONDITIONAL, generator=generator(0)).log_weight
        assert log_weight is not None
        shares.append(float(log_weight.softmax(0)[500:].sum()))
        if epsilon == float("inf"):
            assert torch.equal(log_weight, torch.zeros(1000))
    assert shares[0] == pytest.approx(0.5)
    assert shares[0] > shares[1] > 2 * shares[2]
