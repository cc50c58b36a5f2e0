"""Samples that fit into memory, compared with real examples on the features of a network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from netsim.foundation.digests import file_digest
from trainer.evaluation.fidelity.gaussian import Gaussian, gaussian_distance
from trainer.evaluation.fidelity.precision_recall import NEIGHBOURS, precision_recall
from trainer.evaluation.fidelity.statistics_file import Statistics
from trainer.evaluation.points import as_points
from trainer.model.feature_extractor.extractor import feature_shape, read_extractor


def read_statistics(path: Path, features: Path) -> Statistics:
    """Reads statistics of real examples on the features of a network; refuses those of another network."""
    return Statistics.read(path, num_features=math.prod(feature_shape(features)), extractor=file_digest(features))


def feature_distance(
    samples: NDArray[np.floating], real: NDArray[np.floating], statistics: Statistics | None = None
) -> dict[str, float]:
    """Compares features of samples [N, F] with those of real examples [M, F]: ``frechet_distance``, ``precision``,
    ``recall``.

    The latter two if both sets have neighbours enough; the first is to `statistics`, or if None to `real`.
    """
    samples, real = as_points("samples", samples), as_points("real", real)
    against = Gaussian.of(real) if statistics is None else statistics.gaussian
    figures = {"frechet_distance": gaussian_distance(Gaussian.of(samples), against)}
    near = real if statistics is None or statistics.features is None else statistics.features
    if min(len(samples), len(near)) > NEIGHBOURS:
        figures |= precision_recall(torch.from_numpy(near).double(), torch.from_numpy(samples))._asdict()
    return figures


class FeatureJudge:
    """Compares sets of samples with the same real examples."""

    def __init__(
        self, features: Path, real: NDArray[np.floating], device: torch.device, statistics: Path | None = None
    ) -> None:
        self._extractor = read_extractor(features, device)
        self.real = self._extractor.features(torch.from_numpy(real))
        self._statistics = None if statistics is None else read_statistics(statistics, features)

    def figures(self, samples: NDArray[np.floating]) -> dict[str, float]:
        """``fid``, ``precision`` and ``recall`` of samples [N, *shape]."""
        found = feature_distance(self._extractor.features(torch.from_numpy(samples)), self.real, self._statistics)
        return {"fid": found.pop("frechet_distance"), **found}

    def floor(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> dict[str, float]:
        """The same between two sets of features of real examples."""
        found = feature_distance(one, other)
        return {"fid": found.pop("frechet_distance"), **found}
