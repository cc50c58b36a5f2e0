"""The value of a pilot: a measure, kept in the folder of its run, and the distance of its examples from wanted ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moe.ot import exact, squared_euclidean
from netsim.foundation.files import write_json
from trainer.checkpoint.intact import newest_checkpoint
from trainer.config.run import RunConfig
from trainer.data import Dataset
from trainer.data.derived import KEY, counts_of, first_revealed
from trainer.data.order import keyed_order
from trainer.evaluation.judgement import real_examples
from trainer.evaluation.quality import ClassJudge, frechet_distance
from trainer.experiment.mixture.fit import Values
from trainer.experiment.mixture.plan import Plan
from trainer.experiment.request.verbs import Measure, MixtureRequest
from trainer.model.feature_extractor.extractor import read_extractor
from trainer.observe.metrics import read_metrics
from trainer.sampling.flow import FlowParts
from trainer.sampling.trained import compared_with, opened
from trainer.training.guard import RunFailed
from trainer.training.validation import LOSS

KEPT = "pilot.json"
TOGETHER = 250
"""Samples that are drawn at once."""
TITLES: dict[Measure, str] = {
    "class_accuracy": "class accuracy of samples",
    "frechet_distance": "Fréchet distance of samples",
    "held_out_loss": "held-out loss",
}


def logarithm(measure: Measure, values: Values, num: int) -> Values:
    """Returns the values to fit: logarithms of a loss or an error, so that no accuracy is projected above 1.

    The least error is half a wrong sample of `num`, so that every error has a logarithm.
    """
    if measure == "class_accuracy":
        return np.log(np.maximum(1 - values, 0.5 / num))
    if (values <= 0).any():
        problem = f"{measure} is {values.min():.4g} of a pilot, and only figures above 0 have a logarithm"
        raise ValueError(f"--measure: {problem}; use another")
    return np.log(values)


def figure(measure: Measure, logarithms: Values) -> Values:
    """Returns the measure from its logarithms; no accuracy is below 0."""
    return np.maximum(1 - np.exp(logarithms), 0) if measure == "class_accuracy" else np.exp(logarithms)


class Judge:
    """Measures runs on examples of the wanted source, or on the data of all sources if none is wanted."""

    def __init__(self, request: MixtureRequest, plan: Plan) -> None:
        self._request = request
        self._data = plan.data if request.wanted is None else plan.data.sources[request.wanted]
        self._key = LOSS if request.wanted is None else f"{LOSS}_{request.wanted}"
        self._real: Values | None = None
        self._classes: ClassJudge | None = None
        if request.measure != "held_out_loss":
            self._read(plan.config)

    def _read(self, config: RunConfig) -> None:
        compared = compared_with(config, self._data)
        real, labels = real_examples(compared, FlowParts(compared).space)
        self._real = real.numpy().astype(np.float64)
        if self._request.measure == "class_accuracy":
            assert labels is not None
            self._classes = ClassJudge(self._real, labels.numpy())

    def measured(self, run_dir: Path, seed: int) -> float:
        """The measure of a finished run, computed once for a checkpoint and a request."""
        identity = {"checkpoint": newest_checkpoint(run_dir).name, "measure": self._request.measure}
        identity |= {"wanted": self._request.wanted, "num": self._request.num, "seed": seed}
        path = run_dir / KEPT
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if kept.get("asked") == identity:
            return kept["value"]
        value = self._loss(run_dir) if self._real is None else self._drawn(run_dir, seed)
        if not math.isfinite(value):
            raise RunFailed(f"{run_dir}: its {self._request.measure} is {value}; lower optim.lr and delete the folder")
        write_json(path, {"asked": identity, "value": value}, indent=None)
        return value

    def _loss(self, run_dir: Path) -> float:
        losses = [
            record.values[self._key] for record in read_metrics(run_dir / "metrics.jsonl") if self._key in record.values
        ]
        if not losses:
            raise ValueError(f"--measure: {run_dir} has no {self._key} in its metrics; use another measure")
        return losses[-1]

    def _drawn(self, run_dir: Path, seed: int) -> float:
        assert self._real is not None
        with opened(run_dir, self._data) as flow:
            conditioning = flow.conditioning(self._request.num, seed=seed)
            scale = 1.0 if self._classes is None else flow.sample.guidance
            ends = [
                flow.follow(conditioning.condition, own, flow.sample.sampler, guidance=scale, seed=seed).final
                for own in torch.arange(len(conditioning.labels)).split(TOGETHER)
            ]
            states = torch.cat([flow.parts.data_of(end).cpu() for end in ends])
            samples = flow.decode(states, conditioning).numpy()
        if self._classes is None:
            return frechet_distance(samples, self._real)
        return self._classes.accuracy(samples, conditioning.labels.numpy())


MOST = 1_000
"""Examples of each side that are compared; an exact plan takes a fraction of a second."""


@dataclass(frozen=True)
class Points:
    """Features [N, F] of examples, and their labels int64 [N]; None without labels."""

    features: Tensor
    labels: Tensor | None

    def first(self, num: int) -> Points:
        """Returns the first `num` points."""
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
        """Returns some held-out examples, chosen by a fixed shuffle."""
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
    """Returns the first points of each source, in the ratio of a mixture of `size` examples, at most `MOST` in all."""
    counts = counts_of(shares, min(size, MOST))
    return joined([source.first(count) for source, count in zip(sources, counts, strict=True)])


def transport_distance(points: Points, wanted: Points) -> float:
    """Least mean cost of moving points to the wanted ones.

    The cost is the squared distance of features, scaled to a mean of 1 between two wanted examples, plus 1 if labels
    differ: classes weigh as much as features. Kang et al., arXiv 2307.02460, with the label distance of Alvarez-Melis
    and Fusi, arXiv 2002.02923, replaced by this step.
    """
    wanted = wanted.first(MOST)
    scale = 2 * wanted.features.double().var(dim=0, correction=0).sum()
    cost = squared_euclidean(points.features.double(), wanted.features.double()) / scale.clamp(min=1e-12)
    if points.labels is not None and wanted.labels is not None:
        cost = cost + (points.labels[:, None] != wanted.labels)
    rows, columns = (cost.new_full((num,), 1 / num) for num in cost.shape)
    return float(exact(cost, rows, columns).value)
