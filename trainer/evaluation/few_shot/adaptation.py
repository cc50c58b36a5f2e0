"""Classification of queries by the mean features of a few labelled examples, moved towards the queries or not.

All functions take many episodes at once. Shape suffixes: E episodes, W classes, S labelled examples of a class, Q
queries, D features; prototypes are [E, W, D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from moe.ot import sinkhorn, squared_euclidean

EPSILON, TOLERANCE, MOST_ITERATIONS = 0.05, 1e-4, 1000
"""Of transport, in units of the largest cost of an episode."""
LEFT_AT = 0.05
"""Price of a class that has not as many queries as the others, in units of the largest cost."""
KEPT = 0.3
"""Share of the labelled examples' own mean in a prototype where there are several of a class."""
STEPS = 5
"""Of k-means."""


def nearest(prototypes_EWD: Tensor, queries_EQD: Tensor) -> Tensor:
    """The class [E, Q] of each query, that of the nearest prototype."""
    return squared_euclidean(queries_EQD, prototypes_EWD).argmin(2)


def k_means(shots_EWSD: Tensor, queries_EQD: Tensor) -> Tensor:
    """Prototypes after some steps of k-means over queries and labelled examples, whose classes stay as they are."""
    ways, num = shots_EWSD.shape[1:3]
    first_EWD = shots_EWSD.mean(2)
    prototypes_EWD = first_EWD
    for _ in range(STEPS):
        of_class_EWQ = functional.one_hot(nearest(prototypes_EWD, queries_EQD), ways).mT.to(queries_EQD.dtype)
        sums_EWD = num * first_EWD + of_class_EWQ @ queries_EQD
        prototypes_EWD = sums_EWD / (num + of_class_EWQ.sum(2, keepdim=True))
    return prototypes_EWD


def transported(
    shots_EWSD: Tensor, queries_EQD: Tensor, *, passes: int, left_at: float = torch.inf, epsilon: float = EPSILON
) -> Tensor:
    """Prototypes moved to the means of the queries that an entropic plan brings to them, as often as `passes`.

    Every class gets as many queries as the others, or leaves that at a price `left_at` times the Kullback-Leibler
    divergence. Where a class has several labelled examples, `KEPT` of their mean stays.

    Poulakakis-Daktylidis and Jamali-Rad, "BECLR", ICLR 2024, section 4.2.
    """
    first_EWD = shots_EWSD.mean(2)
    ways, queries = first_EWD.shape[1], queries_EQD.shape[1]
    masses = first_EWD.new_full((ways,), 1 / ways), first_EWD.new_full((queries,), 1 / queries)
    prototypes_EWD = first_EWD
    for _ in range(passes):
        cost_EWQ = squared_euclidean(prototypes_EWD, queries_EQD)
        cost_EWQ = cost_EWQ / cost_EWQ.amax((1, 2), keepdim=True).clamp_min(torch.finfo(cost_EWQ.dtype).tiny)
        limits = {"tolerance": TOLERANCE, "max_iterations": MOST_ITERATIONS}
        plan = sinkhorn(cost_EWQ, *masses, epsilon=epsilon, row_weight=left_at, **limits)
        prototypes_EWD = plan.barycentric_projection(queries_EQD)
    if passes and shots_EWSD.shape[2] > 1:
        prototypes_EWD = (1 - KEPT) * prototypes_EWD + KEPT * first_EWD
    return prototypes_EWD


def regressed(shots_EWSD: Tensor, queries_EQD: Tensor) -> Tensor:
    """The class [E, Q] of each query by a logistic regression on the labelled examples of its episode."""
    from sklearn.linear_model import LogisticRegression  # nearly a second to import

    ways, num = shots_EWSD.shape[1:3]
    truth = torch.arange(ways).repeat_interleave(num).numpy()
    classes = []
    for shots_WSD, queries_QD in zip(shots_EWSD.double().numpy(), queries_EQD.double().numpy(), strict=True):
        regression = LogisticRegression(max_iter=1000).fit(shots_WSD.reshape(ways * num, -1), truth)
        classes.append(torch.from_numpy(regression.predict(queries_QD)))
    return torch.stack(classes)
