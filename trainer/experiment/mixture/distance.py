"""How far a mixture of examples is from those that are wanted, by exact transport that counts labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe.ot import exact, squared_euclidean
from trainer.data import Dataset
from trainer.data.order import keyed_order
from trainer.data.subsets import KEY, counts_of, first_revealed
from trainer.model.feature_extractor.extractor import read_extractor

MOST = 1_000
"""Examples of each side that are compared; an exact plan takes a fraction of a second."""


@dataclass(frozen=True)
class Points:
    """Features [N, F] of examples, and their labels int64 [N]; None without labels."""

    features: Tensor
    labels: Tensor | None

    def first(self, num: int) -> Points:
        """The first of them."""
        return Points(self.features[:num], None if self.labels is None else self.labels[:num])


class Reader:
    """Reads examples as points: their values, or features by the network in a file."""

    def __init__(self, features: Path | None, *, labelled: bool) -> None:
        self._extractor = None if features is None else read_extractor(features)
        self._labelled = labelled

    def revealed(self, source: Dataset, num: int) -> Points:
        """The first training examples that a mixture takes of a source."""
        return self._points(source, first_revealed(source, min(num, MOST, source.count("train"))))

    def held_out(self, dataset: Dataset) -> Points:
        """Some held-out examples, by a shuffle that nothing changes."""
        ids = dataset.data_points("held_out")
        return self._points(dataset, ids[keyed_order(torch.arange(min(MOST, len(ids))), len(ids), key=KEY)])

    def _points(self, dataset: Dataset, ids: Tensor) -> Points:
        batch = dataset.get(ids)
        values = batch.x_1 if self._extractor is None else torch.from_numpy(self._extractor.features(batch.x_1))
        return Points(values.flatten(1), batch.labels if self._labelled else None)


def joined(parts: Sequence[Points]) -> Points:
    """The points of several sets, which all have labels or none."""
    labels = [part.labels for part in parts if part.labels is not None]
    return Points(torch.cat([part.features for part in parts]), torch.cat(labels) if labels else None)


def mixed(sources: Sequence[Points], shares: Sequence[float], size: int) -> Points:
    """The points that a mixture of so many examples takes of the first of each source, at most `MOST` in its ratio."""
    counts = counts_of(shares, min(size, MOST))
    return joined([source.first(count) for source, count in zip(sources, counts, strict=True)])


def transport_distance(points: Points, wanted: Points) -> float:
    """Least mean cost of moving points to the wanted ones.

    The cost is the squared distance of features, of which two wanted examples have 1 in the mean, and 1 more for
    another label: classes weigh as much as features. Kang et al., arXiv 2307.02460, with the label distance of
    Alvarez-Melis and Fusi, arXiv 2002.02923, replaced by this step.
    """
    wanted = wanted.first(MOST)
    scale = 2 * wanted.features.double().var(dim=0, correction=0).sum()
    cost = squared_euclidean(points.features.double(), wanted.features.double()) / scale.clamp(min=1e-12)
    if points.labels is not None and wanted.labels is not None:
        cost = cost + (points.labels[:, None] != wanted.labels)
    rows, columns = (cost.new_full((num,), 1 / num) for num in cost.shape)
    return float(exact(cost, rows, columns).value)
