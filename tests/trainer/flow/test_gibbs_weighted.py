"""Weights of independent pairs, against POT and in their limits."""

import numpy as np
import ot
import pytest
import torch

from trainer.flow import UNCONDITIONAL, coupling


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("cost", "metric"), [("l2", "euclidean"), ("sqeuclidean", "sqeuclidean")])
def test_the_weighted_product_is_an_entropic_plan_between_its_own_marginals(cost: str, metric: str) -> None:
    """Of all plans with its marginals it is the one that POT's Sinkhorn iterations find."""
    x_0, x_1 = torch.randn(7, 3, generator=generator(0)), 2 + torch.randn(5, 3, generator=generator(1))
    a, b = torch.rand(7, generator=generator(2)), torch.rand(5, generator=generator(3))
    config = coupling.GibbsWeightedConfig.model_validate({"cost": cost, "epsilon": 1.5})
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


@pytest.mark.parametrize(("cost", "scale"), [("l2", 3 * 48**0.5), ("sqeuclidean", 3 * 48)])
def test_the_automatic_epsilon_grows_with_the_dimension_as_the_cost_does(cost: str, scale: float) -> None:
    x_1, x_0 = torch.randn(6, 3, 4, 4, generator=generator(0)), torch.randn(6, 3, 4, 4, generator=generator(1))
    drawn = [
        coupling.build(coupling.GibbsWeightedConfig.model_validate({"cost": cost, **epsilon})).draw(
            x_1, UNCONDITIONAL, x_0=x_0, generator=generator(2)
        )
        for epsilon in ({"kappa": 3.0}, {"epsilon": scale})
    ]
    assert drawn[0].log_weight is not None
    assert drawn[1].log_weight is not None
    torch.testing.assert_close(drawn[0].log_weight, drawn[1].log_weight)


def test_an_infinite_epsilon_weighs_nothing_and_a_small_one_tilts_the_data() -> None:
    """Data points far from the source lose weight as epsilon falls."""
    near, far = torch.full((500, 2), 0.5), torch.full((500, 2), 3.0)
    x_1, shares = torch.cat([near, far]), []
    for epsilon in (float("inf"), 30.0, 1.0):
        config = coupling.GibbsWeightedConfig(epsilon=epsilon)
        log_weight = coupling.build(config).draw(x_1, UNCONDITIONAL, generator=generator(0)).log_weight
        assert log_weight is not None
        shares.append(float(log_weight.softmax(0)[500:].sum()))
        if epsilon == float("inf"):
            assert torch.equal(log_weight, torch.zeros(1000))
    assert shares[0] == pytest.approx(0.5)
    assert shares[0] > shares[1] > 2 * shares[2]
