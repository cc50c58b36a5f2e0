"""What a pilot is worth: one measure, kept in the folder of its run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from netsim.foundation.files import replacing
from trainer.checkpoint.intact import newest_checkpoint
from trainer.config.run import RunConfig
from trainer.evaluation.judgement import real_examples
from trainer.evaluation.quality import ClassJudge, frechet_distance
from trainer.experiment.mixture.fit import Values
from trainer.experiment.mixture.plan import Measure, MixtureRequest, Plan
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
    """What is fitted: the logarithm of a loss or an error, so that no accuracy is projected above 1.

    Of `num` samples half a wrong one is the least error that is told from none.
    """
    if measure == "class_accuracy":
        return np.log(np.maximum(1 - values, 0.5 / num))
    if (values <= 0).any():
        problem = f"{measure} is {values.min():.4g} of a pilot, and only figures above 0 have a logarithm"
        raise ValueError(f"--measure: {problem}; use another")
    return np.log(values)


def figure(measure: Measure, logarithms: Values) -> Values:
    """The measure itself again, no accuracy below 0."""
    return np.maximum(1 - np.exp(logarithms), 0) if measure == "class_accuracy" else np.exp(logarithms)


class Judge:
    """Measures runs; examples are those of the wanted source, or of all sources as they are."""

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
        asked = {"checkpoint": newest_checkpoint(run_dir).name, "measure": self._request.measure}
        asked |= {"wanted": self._request.wanted, "num": self._request.num, "seed": seed}
        path = run_dir / KEPT
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if kept.get("asked") == asked:
            return kept["value"]
        value = self._loss(run_dir) if self._real is None else self._drawn(run_dir, seed)
        if not math.isfinite(value):
            raise RunFailed(f"{run_dir}: its {self._request.measure} is {value}; lower optim.lr and delete the folder")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"asked": asked, "value": value}) + "\n", encoding="utf-8")
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
