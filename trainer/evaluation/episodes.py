"""Episodes of few labelled examples, and classification of their queries.

Shape suffixes: E episodes, W classes of an episode, S labelled examples of a class, Q queries, D features; prototypes
are [E, W, D].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moe.ot import sinkhorn, squared_euclidean
from moe.seeds import derive_seed, fold_in, uniform

MOST_EPISODES = 100_000
MOST_SHOTS = 1_000


class Drawn(NamedTuple):
    """Rows int64 of the labelled examples [E, W, S] and of the queries [E, Q], and the queries' classes [Q]."""

    shots: Tensor
    queries: Tensor
    truth: Tensor


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Request for episodes; each depends on seed and number alone, so that more episodes include the fewer.

    Attributes:
        num: episodes.
        ways: classes of an episode.
        shots: numbers of labelled examples of a class, each played with the same queries; larger sets contain the
            smaller.
        queries: of each class, or by class in the order in which an episode draws its classes.
        seed: of all draws.
    """

    num: int = 600
    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: tuple[int, ...] = (15,)
    seed: int = 0

    @property
    def by_class(self) -> tuple[int, ...]:
        """Queries of each class of an episode."""
        return self.queries * self.ways if len(self.queries) == 1 else self.queries

    def check(self) -> None:
        """Refuses, with a ValueError, numbers that no data could serve."""
        for option, values, least, most in (
            ("--episodes", (self.num,), 2, MOST_EPISODES),
            ("--ways", (self.ways,), 2, MOST_SHOTS),
            ("--shots", self.shots, 1, MOST_SHOTS),
            ("--queries", self.queries, 1, MOST_SHOTS),
            ("--seed", (self.seed,), 0, 2**63 - 1),
        ):
            for value in values:
                if not least <= value <= most:
                    raise ValueError(f"{option}: {value} is not from {least} to {most:,}; use a number between")
        if len(set(self.shots)) < len(self.shots):
            raise ValueError(f"--shots: {','.join(map(str, self.shots))} has a number twice; give each once")
        if len(self.queries) not in (1, self.ways):
            raise ValueError(
                f"--queries: {len(self.queries)} numbers for the {self.ways} classes of an episode (--ways); give one "
                f"for all, or {self.ways}"
            )

    def check_labels(self, labels: Tensor | None) -> Tensor:
        """Refuses examples, of classes int64 [N], that episodes cannot be drawn from."""
        if labels is None:
            raise ValueError("--episodes: the examples have no labels; give data with classes by --data-from")
        classes, counts = labels.unique(return_counts=True)
        if len(classes) < self.ways:
            remedy = f"use {len(classes)} or less" if len(classes) > 1 else "give data with classes by --data-from"
            raise ValueError(f"--ways: {self.ways}, and held-out examples are of {len(classes)} classes; {remedy}")
        needed, least = max(self.shots) + max(self.queries), int(counts.argmin())
        if counts[least] < needed:
            raise ValueError(
                f"--queries: {max(self.queries)} beside {max(self.shots)} labelled examples are {needed} of a class, "
                f"and class {int(classes[least])} has {int(counts[least])} held-out examples; use fewer --queries or "
                "--shots, or raise data.held_out"
            )
        return labels

    def draw(self, labels: Tensor | None) -> Drawn:
        """Draws rows of examples whose classes are int64 [N]."""
        labels = self.check_labels(labels)
        classes = labels.unique()
        rows = [(labels == one).nonzero()[:, 0] for one in classes]
        seed = torch.tensor(derive_seed(self.seed, "episodes"))
        most, by_class, shots, queries = max(self.shots), self.by_class, [], []
        for number in range(self.num):
            key = fold_in(seed, number)
            ways = uniform(fold_in(key, -1 - classes)).argsort(stable=True)[: self.ways].tolist()
            orders = [rows[label][uniform(fold_in(key, rows[label])).argsort(stable=True)] for label in ways]
            shots.append(torch.stack([order[:most] for order in orders]))
            wanted = zip(orders, by_class, strict=True)
            queries.append(torch.cat([order[most : most + num] for order, num in wanted]))
        truth = torch.arange(self.ways).repeat_interleave(torch.tensor(by_class))
        return Drawn(torch.stack(shots), torch.stack(queries), truth)


EPSILON, TOLERANCE, MOST_ITERATIONS = 0.05, 1e-4, 1000
"""Entropy of transport in units of an episode's largest cost, its relative tolerance, and its most iterations."""
LEFT_AT = 0.05
"""Price of a class that has not as many queries as the others, in units of the largest cost."""
KEPT = 0.3
"""Share of the labelled examples' own mean in a prototype where there are several of a class."""
STEPS = 5
"""Steps of k-means."""


def nearest(prototypes_EWD: Tensor, queries_EQD: Tensor) -> Tensor:
    """The class [E, Q] of the prototype nearest to each query."""
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
    """Moves prototypes `passes` times to the means of the queries that an entropic transport plan assigns to them.

    Every class gets equally many queries, or deviates at a price of `left_at` times the Kullback-Leibler divergence. If
    a class has several labelled examples, its prototype keeps a share `KEPT` of their mean.

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
