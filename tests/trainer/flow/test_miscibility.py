"""What no network could learn better: how far paths of different data points cross, under each coupling.

The least error of a guess of x_1 from x_t is the variance of x_1 among pairs that pass through x_t. It is estimated by
the nearest neighbours of many points, and known where the law of the source given its data point is.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import KDTree

from trainer.flow import UNCONDITIONAL, coupling

SET = 2 * torch.randn(12, 2, generator=torch.Generator().manual_seed(7))
BATCH, BATCHES, T, NEIGHBOURS = 96, 125, 0.3, 24
COUPLINGS: dict[str, coupling.Config] = {
    "independent": coupling.Independent(),
    "minibatch_ot": coupling.MinibatchOT(),
    "minibatch_ot, sinkhorn": coupling.MinibatchOT(solver="sinkhorn"),
    "minibatch_ot, unbalanced": coupling.MinibatchOT(solver="unbalanced"),
    "assignment": coupling.Assignment(),
    "gibbs_weighted": coupling.GibbsWeighted(epsilon=2.0),
    "knn": coupling.KNN(k=4),
}


@cache
def crossing(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points x_t [N, 2], their data points [N, 2] and the weights [N] of the pairs."""
    generator, built = torch.Generator().manual_seed(0), coupling.build(COUPLINGS[name])
    points, data, weights = [], [], []
    for _ in range(BATCHES):
        x_1 = SET[torch.randint(len(SET), (BATCH,), generator=generator)]
        pairs = built.draw(x_1, UNCONDITIONAL, generator=generator)
        points.append((1 - T) * pairs.x_0 + T * pairs.x_1)
        data.append(pairs.x_1)
        weights.append(torch.zeros(BATCH) if pairs.log_weight is None else pairs.log_weight)
    return torch.cat(points).numpy(), torch.cat(data).numpy(), torch.cat(weights).double().softmax(0).numpy()


@cache
def estimated(name: str) -> float:
    """The mean variance of the data points among neighbouring points x_t."""
    points, data, weights = crossing(name)
    _, near = KDTree(points).query(points, k=NEIGHBOURS)
    share = weights[near] / weights[near].sum(1, keepdims=True)
    mean = (share[..., None] * data[near]).sum(1)
    variance = (share * np.square(data[near] - mean[:, None]).sum(2)).sum(1) / (1 - np.square(share).sum(1))
    return float((weights * variance).sum())


def exact(name: str, log_density: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The same from the law of the pairs.

    Args:
        name: of the coupling.
        log_density: logarithm, but for a constant, of the density of source points [N, 12, 2] and data points [12, 2]
            as pairs, to [N, 12].
    """
    points, data, weights = crossing(name)
    members = SET.double().numpy()
    logs = log_density((points[:, None] - T * members) / (1 - T), members)
    share = np.exp(logs - logs.max(1, keepdims=True))
    guess = share / share.sum(1, keepdims=True) @ members
    return float((weights * np.square(data - guess).sum(1)).sum())


def normal(x_0: np.ndarray, x_1: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Of the independent coupling."""
    return -0.5 * np.square(x_0).sum(2)


def nearest_of_four(x_0: np.ndarray, x_1: np.ndarray) -> np.ndarray:
    """A draw, times the chance that the three others are farther from the data point."""
    distance = np.square(x_0 - x_1).sum(2)
    return normal(x_0, x_1) + 3 * np.log(stats.ncx2.sf(distance, 2, np.square(x_1).sum(1)) + 1e-300)


def gibbs(x_0: np.ndarray, x_1: np.ndarray) -> np.ndarray:
    """A draw by its weight."""
    return normal(x_0, x_1) - np.sqrt(np.square(x_0 - x_1).sum(2)) / 2.0


def test_every_coupling_leaves_less_to_guess() -> None:
    for name in COUPLINGS.keys() - {"independent"}:
        assert estimated(name) < 0.9 * estimated("independent"), name


def test_neighbours_find_what_the_law_of_the_pairs_says() -> None:
    for name, log_density in (("independent", normal), ("knn", nearest_of_four), ("gibbs_weighted", gibbs)):
        assert estimated(name) == pytest.approx(exact(name, log_density), rel=0.05), name
