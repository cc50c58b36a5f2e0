"""Prototypes and their adaptation to the queries, against what is known of them."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trainer.evaluation.episodes import KEPT, k_means, nearest, regressed, transported

EPISODES, WAYS, SHOTS, QUERIES, WIDTH = 3, 4, 2, 6, 5


def points(spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Labelled examples [E, W, S, D], queries [E, W Q, D] and the queries' classes."""
    generator = torch.Generator().manual_seed(0)
    means = spread * torch.randn(EPISODES, WAYS, 1, WIDTH, generator=generator)
    shots, queries = (means + torch.randn(EPISODES, WAYS, num, WIDTH, generator=generator) for num in (SHOTS, QUERIES))
    return shots, queries.flatten(1, 2), torch.arange(WAYS).repeat_interleave(QUERIES)


def test_the_exact_means_of_balanced_queries_stay() -> None:
    _, queries, _ = points(spread=20.0)
    means = queries.unflatten(1, (WAYS, QUERIES)).mean(2)
    moved = transported(means[:, :, None], queries, passes=3, epsilon=1e-3)
    torch.testing.assert_close(moved, means, rtol=1e-3, atol=1e-3)


def test_a_pass_without_entropy_is_a_balanced_step_of_k_means() -> None:
    shots, queries, _ = points(spread=1.0)
    shots = shots[:, :, :1]
    moved = transported(shots, queries, passes=1, epsilon=1e-3)
    for prototypes, asked, found in zip(shots[:, :, 0], queries, moved, strict=True):
        cost = (prototypes.repeat_interleave(QUERIES, 0)[:, None] - asked).square().sum(2)
        _, columns = linear_sum_assignment(cost.numpy())
        expected = asked[torch.from_numpy(columns)].unflatten(0, (WAYS, QUERIES)).mean(1)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-2)


def test_all_entropy_leads_every_prototype_to_the_mean_of_the_queries() -> None:
    shots, queries, _ = points()
    moved = transported(shots[:, :, :1], queries, passes=1, epsilon=1e4)
    torch.testing.assert_close(moved, queries.mean(1, keepdim=True).expand_as(moved), rtol=1e-3, atol=1e-3)


def test_the_order_of_queries_does_not_matter_and_several_examples_keep_a_share_of_their_mean() -> None:
    shots, queries, _ = points()
    order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(1))
    moved = transported(shots, queries, passes=2)
    torch.testing.assert_close(transported(shots, queries[:, order], passes=2), moved, rtol=1e-4, atol=1e-4)
    alone = transported(shots.mean(2, keepdim=True), queries, passes=2)
    torch.testing.assert_close(moved, (1 - KEPT) * alone + KEPT * shots.mean(2))
    assert torch.equal(transported(shots, queries, passes=0), shots.mean(2))


def test_unbalanced_prototypes_stay_with_classes_that_have_few_queries() -> None:
    shots, queries, truth = points(spread=4.0)
    kept = (truth != 0) | (torch.arange(len(truth)) < 1)
    skewed = queries[:, kept]
    errors = {
        left_at: (transported(shots, skewed, passes=1, left_at=left_at) - shots.mean(2))[:, 0].norm(dim=1).mean()
        for left_at in (torch.inf, 0.05)
    }
    assert errors[0.05] < 0.7 * errors[torch.inf]


def test_nearest_prototypes_and_k_means() -> None:
    shots, queries, truth = points(spread=6.0)
    assert (nearest(shots.mean(2), queries) == truth).float().mean() > 0.9
    found = k_means(shots, queries)
    right = torch.cat([shots, queries.unflatten(1, (WAYS, QUERIES))], dim=2).mean(2)
    assert (nearest(found, queries) == truth).all()
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("num", [1, SHOTS])
def test_regressions_are_those_of_each_episode_by_itself(num: int) -> None:
    shots, queries, _ = points(spread=1.0)
    found = regressed(shots[:, :, :num], queries)
    truth = np.repeat(np.arange(WAYS), num)
    for known, asked, classes in zip(shots[:, :, :num].flatten(1, 2), queries, found, strict=True):
        regression = LogisticRegression(max_iter=1000).fit(known.double().numpy(), truth)
        assert np.array_equal(regression.predict(asked.double().numpy()), classes.numpy())
