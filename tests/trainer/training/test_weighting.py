"""Weights over the global batch, against numpy on one rank and across ranks."""

import numpy as np
import torch
import torch.distributed as dist

from tests.ranks import run_ranks
from trainer.training.weighting import effective_share, few_count, relative_weights, weighted_mean

PIECES = 4


def piece(number: int, spread: float) -> torch.Tensor:
    return spread * torch.randn(5, generator=torch.Generator().manual_seed(number)) - 200 * spread


def on_ranks(rank: int, world_size: int) -> None:
    for spread in (1.0, 40.0):
        check(rank, world_size, spread)


def check(rank: int, world_size: int, spread: float) -> None:
    own = range(rank * PIECES // world_size, (rank + 1) * PIECES // world_size)
    everything = torch.cat([piece(number, spread) for number in range(PIECES)]).double().numpy()
    expected = np.exp(everything - everything.max())
    expected /= expected.mean()
    found = torch.cat([weights for weights in relative_weights([piece(n, spread) for n in own]) if weights is not None])
    np.testing.assert_allclose(found, expected.reshape(world_size, -1)[rank], rtol=1e-5, atol=1e-30)
    losses = torch.arange(PIECES * 5.0).sqrt().split(5)
    mean = weighted_mean([losses[number] for number in own], [piece(number, spread) for number in own])
    np.testing.assert_allclose(mean, np.average(torch.cat(losses), weights=expected), rtol=1e-6)
    plain = weighted_mean([losses[number] for number in own], [None for _ in own])
    np.testing.assert_allclose(plain, torch.cat(losses).double().mean(), rtol=1e-12)
    assert relative_weights([None for _ in own]) == [None for _ in own]
    equal = relative_weights([torch.zeros(7) for _ in own])
    assert all(weights is not None and torch.equal(weights, torch.ones(7)) for weights in equal)
    share = effective_share(relative_weights([piece(n, spread) for n in own]))["effective_share"]
    np.testing.assert_allclose(share, expected.sum() ** 2 / (len(expected) * (expected**2).sum()), rtol=1e-5)
    assert effective_share([None for _ in own]) == {}
    assert dist.get_world_size() == world_size


def test_weights_have_mean_one_over_all_ranks_even_where_each_alone_is_nothing() -> None:
    for world_size in (1, 4):
        run_ranks(on_ranks, world_size)


def test_a_small_share_is_cautioned_about_in_one_line() -> None:
    text = few_count(0.03)
    assert text is not None
    assert "only 3.0% of the pairs count" in text
    assert "\n" not in text
    assert few_count(0.5) is None
