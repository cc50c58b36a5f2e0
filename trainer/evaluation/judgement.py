"""All distances between samples and real examples, and between two sets of real examples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from moe.ot.divergence import sliced_wasserstein
from moe.seeds import derive_seed
from netsim.foundation.documents import read_json
from netsim.foundation.files import file_digest, write_json
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.contents import identity_digest
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch
from trainer.evaluation.fidelity.gaussian import Gaussian, gaussian_distance
from trainer.evaluation.fidelity.precision_recall import NEIGHBOURS, precision_recall
from trainer.evaluation.fidelity.statistics_file import Statistics
from trainer.evaluation.quality import (
    ClassJudge,
    as_pair,
    as_points,
    energy_distance,
    frechet_distance,
    maximum_mean_discrepancy,
)
from trainer.flow.context import Space
from trainer.model.feature_extractor.extractor import check_extractor, feature_shape, read_extractor
from trainer.sampling.sample import Drawing
from trainer.sampling.trained import restored_flow

JUDGED = 10_000
"""Largest number of real examples that samples are compared with."""
COLUMNS = {
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "frechet_distance": "Fréchet",
    "wasserstein_2": "W2",
    "sliced_wasserstein": "sliced",
    "energy_distance": "energy",
    "mmd": "MMD",
    "class_accuracy": "accuracy",
    "reward": "reward",
}
"""Figures in the order of a table, with their headings."""
PANELS = {"wasserstein_2": "2-Wasserstein distance to the data", "frechet_distance": "Fréchet distance to the data"}
"""Distances that a chart shows, and its titles."""


def real_examples(config: RunConfig, space: Space) -> tuple[Tensor, Tensor | None]:
    """Reads at most 10,000 first training examples, decoded: [M, *shape], and their labels int64 [M] or None."""
    dataset = trainer.data.build(config.data)
    batch = dataset.get(trainer.data.first_data_points(dataset, "train", JUDGED))
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "shown"))
    return space.shown(batch.x_1, generator=generator), batch.labels


def read_statistics(path: Path, features: Path) -> Statistics:
    """Reads statistics of real examples on the features of a network; refuses those of another network."""
    return Statistics.read(path, num_features=math.prod(feature_shape(features)), extractor=file_digest(features))


def feature_distance(
    samples: NDArray[np.floating], real: NDArray[np.floating], statistics: Statistics | None = None
) -> dict[str, float]:
    """Compares features of samples [N, F] with those of real examples [M, F]: ``frechet_distance``, ``precision``,
    ``recall``.

    Precision and recall need enough neighbours in both sets. `statistics` take the place of those of `real`.
    """
    samples, real = as_points("samples", samples), as_points("real", real)
    against = Gaussian.of(real) if statistics is None else statistics.gaussian
    figures = {"frechet_distance": gaussian_distance(Gaussian.of(samples), against)}
    near = real if statistics is None or statistics.features is None else statistics.features
    if min(len(samples), len(near)) > NEIGHBOURS:
        figures |= precision_recall(torch.from_numpy(near).double(), torch.from_numpy(samples))._asdict()
    return figures


class FeatureJudge:
    """Compares sets of samples with the same real examples, on the features of a network."""

    def __init__(
        self, features: Path, real: NDArray[np.floating], device: torch.device, statistics: Path | None = None
    ) -> None:
        self._extractor = read_extractor(features, device)
        self.real = self._extractor.features(torch.from_numpy(real))
        self._statistics = None if statistics is None else read_statistics(statistics, features)

    def figures(self, samples: NDArray[np.floating]) -> dict[str, float]:
        """``fid``, ``precision`` and ``recall`` of samples [N, *shape]."""
        result = feature_distance(self._extractor.features(torch.from_numpy(samples)), self.real, self._statistics)
        return {"fid": result.pop("frechet_distance"), **result}

    def floor(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> dict[str, float]:
        """Returns the same figures between two sets of features of real examples."""
        result = feature_distance(one, other)
        return {"fid": result.pop("frechet_distance"), **result}


DISTANCES = {
    "sliced_wasserstein": "sliced Wasserstein",
    "mmd": "squared maximum mean discrepancy",
    "energy_distance": "energy distance",
    "frechet_distance": "Fréchet distance on values",
    "frechet_distance_on_features": "Fréchet distance on features",
    "precision_on_features": "precision on features",
    "recall_on_features": "recall on features",
}


def read_judgement(path: Path, run_sha256: str | None = None) -> dict[str, float]:
    """Reads the figures of ``sample --quality`` by name; refuses those of another run, where both are known."""
    remedy = "write it with sample --quality"
    figures = read_json(path, remedy)
    accuracy, distance = (
        figures.get(name, default) if isinstance(figures, dict) else None
        for name, default in (("class_accuracy", 0.0), ("frechet_distance_unguided", None))  # data may have no classes
    )
    if not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
        raise Refusal(path, "class_accuracy", f"is not between 0 and 1 ({accuracy})", remedy)
    if not isinstance(distance, int | float) or not 0 <= distance < math.inf:
        raise Refusal(path, "frechet_distance_unguided", f"is not a number of 0 or more ({distance})", remedy)
    assert isinstance(figures, dict)
    figures.pop("features_sha256", None)  # identifies the extractor; it is no figure
    judged = figures.pop("run_sha256", None)
    if None not in (judged, run_sha256) and judged != run_sha256:
        raise Refusal(path, "run_sha256", f"is of another run's samples ({judged!s:.12})", remedy)
    for name, value in figures.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise Refusal(path, name, f"is not a number ({value})", remedy)
    return figures


def headline(figures: dict[str, float]) -> tuple[str, float]:
    """Name and value of the distance that a summary shows: on features if there are any, otherwise on values."""
    name = "frechet_distance_on_features" if "frechet_distance_on_features_unguided" in figures else "frechet_distance"
    return DISTANCES[name], figures[f"{name}_unguided"]


def compared(figures: dict[str, float]) -> list[tuple[str, str, str]]:
    """Returns name, value for samples and floor of each distance of which `figures` has both values."""
    floors = {name.removesuffix("_floor"): value for name, value in figures.items() if name.endswith("_floor")}
    return [
        (DISTANCES.get(name, name), f"{figures[f'{name}_unguided']:.4f}", f"{floor:.4f}")
        for name, floor in floors.items()
        if f"{name}_unguided" in figures
    ]


NUM_SLICES = 256
COMPARED = 2_000
"""Points of each set that enter the distances which compare all pairs of points."""


def distances(x: NDArray[np.floating], y: NDArray[np.floating], *, seed: int) -> dict[str, float]:
    """Distances between two sets of points [N, ...] and [M, ...]; N, M >= 2.

    ``sliced_wasserstein`` (order 2, in units of the points), ``mmd`` (squared), ``energy_distance`` and
    ``frechet_distance`` (squared units). ``mmd`` and ``energy_distance`` use the first 2,000 points of each set.
    """
    x, y = as_pair(x, y)
    generator = torch.Generator().manual_seed(seed)
    sliced = sliced_wasserstein(torch.from_numpy(x), torch.from_numpy(y), num_slices=NUM_SLICES, generator=generator)
    return {
        "sliced_wasserstein": float(sliced.sqrt()),
        "mmd": maximum_mean_discrepancy(x[:COMPARED], y[:COMPARED]),
        "energy_distance": energy_distance(x[:COMPARED], y[:COMPARED]),
        "frechet_distance": frechet_distance(x, y),
    }


def judge(samples: NDArray[np.floating], real: NDArray[np.floating], *, seed: int) -> dict[str, float]:
    """The distances of samples that were drawn without guidance (``_unguided``), and their floor (``_floor``).

    The floor is between two disjoint sets of real examples [M, ...], M >= 4, as perfect samples would have it.
    """
    parts = parted(real, len(samples), seed=seed)
    return _beside_floor(distances(samples, real, seed=seed), distances(*parts, seed=seed))


def _beside_floor(figures: dict[str, float], floor: dict[str, float], kind: str = "") -> dict[str, float]:
    named = {f"{name}{kind}_unguided": value for name, value in figures.items()}
    return named | {f"{name}{kind}_floor": value for name, value in floor.items()}


def judge_features(
    samples: NDArray[np.floating], real: NDArray[np.floating], *, seed: int, statistics: Statistics | None = None
) -> dict[str, float]:
    """Distances of features of samples [N, F], drawn without guidance, to those of real examples [M, F], and their
    floor.

    ``frechet_distance_on_features``, ``precision_on_features`` and ``recall_on_features``, each with ``_unguided`` and
    with ``_floor``; precision and recall are left out where a set is too small. `statistics` take the place of those of
    `real`. Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
    2017, equation 6. The figure known as FID uses the features of one particular Inception network.
    """
    parts = parted(real, len(samples), seed=seed)
    return _beside_floor(feature_distance(samples, real, statistics), feature_distance(*parts), "_on_features")


def parted(real: NDArray[np.floating], num: int, *, seed: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Splits real examples at random; the first part has `num`, or half of all if these are fewer than twice that."""
    order = np.random.default_rng(seed).permutation(len(real))
    num = min(num, len(real) // 2)
    return real[order[:num]], real[order[num:]]


def check_features(path: Path, run_dir: Path, statistics: Path | None = None) -> None:
    """Refuses a feature extractor that does not take what a run draws, and statistics of other features."""
    check_extractor(path, restored_flow(run_dir)[1].decoded_shape)
    if statistics is not None:
        read_statistics(statistics, path)


def write_judgement(
    drawing: Drawing, examples: Tensor | None, features: Path | None, out: Path, statistics: Path | None = None
) -> None:
    """Judges examples [N, *shape] (None but on the writing rank) by the run's data; writes, prints; collective."""
    unguided = drawing.examples(1.0)
    if examples is None or unguided is None:
        return
    real, real_labels = real_examples(drawing.flow.config, drawing.flow.parts.space)
    controls = [one.model_dump(mode="json") for one in drawing.controls]
    figures: dict[str, Any] = {
        "num": len(examples),
        "guidance": drawing.guidance,
        "run_sha256": identity_digest(drawing.flow.config),
        **({"controls": controls} if controls else {}),
        **judge(unguided.numpy(), real.numpy(), seed=drawing.seed),
    }
    if real_labels is not None:
        known = ClassJudge(real.numpy(), real_labels.numpy())
        figures["class_accuracy"] = known.accuracy(examples.numpy(), drawing.conditioning.labels.numpy())
    if features is not None:
        extractor = read_extractor(features, Launch.from_environment().device)
        of_samples, of_real = extractor.features(unguided), extractor.features(real)
        against = None if statistics is None else read_statistics(statistics, features)
        figures |= judge_features(of_samples, of_real, seed=drawing.seed, statistics=against)
        figures["features_sha256"] = file_digest(features)
    write_json(out, figures)
    print(f"{out}: {_in_words(figures)}")


def _in_words(figures: dict[str, Any]) -> str:
    judged = f"{figures['class_accuracy']:.1%} are the requested class; " if "class_accuracy" in figures else ""
    kind = "_on_features" if "frechet_distance_on_features_unguided" in figures else ""
    distance, least = figures[f"frechet_distance{kind}_unguided"], figures[f"frechet_distance{kind}_floor"]
    where = kind.replace("_", " ")
    return f"{judged}Fréchet distance{where} without guidance {distance:.3f}, of real examples {least:.3f}"
