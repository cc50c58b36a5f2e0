"""All distances between samples and real examples, and between two sets of real examples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.ot.divergence import sliced_wasserstein
from netsim.foundation.digests import file_digest
from netsim.foundation.files import replacing
from trainer.checkpoint.contents import identity_digest
from trainer.distributed.groups import Launch
from trainer.evaluation.accuracy import class_accuracy
from trainer.evaluation.discrepancy import energy_distance, maximum_mean_discrepancy
from trainer.evaluation.feature_judge import feature_distance, read_statistics
from trainer.evaluation.fidelity.statistics_file import Statistics
from trainer.evaluation.frechet import frechet_distance
from trainer.evaluation.points import as_pair
from trainer.evaluation.real import real_examples
from trainer.model.feature_extractor.extractor import BATCH, check_extractor, read_extractor
from trainer.sampling.sample import Drawing
from trainer.sampling.trained import restored_flow

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


def floor(real: NDArray[np.floating], num: int, *, seed: int) -> dict[str, float]:
    """The distances between two disjoint sets of real examples [M, ...], M >= 4: those of perfect samples.

    The first set has as many examples as there are samples, at most half of all.
    """
    return distances(*parted(real, num, seed=seed), seed=seed)


def judge(samples: NDArray[np.floating], real: NDArray[np.floating], *, seed: int) -> dict[str, float]:
    """The distances of samples that were drawn without guidance (``_unguided``), and their floor (``_floor``)."""
    found = {
        "unguided": distances(samples, real, seed=seed),
        "floor": floor(real, len(samples), seed=seed),
    }
    return {f"{name}_{of}": value for of, figures in found.items() for name, value in figures.items()}


def judge_features(
    samples: NDArray[np.floating], real: NDArray[np.floating], *, seed: int, statistics: Statistics | None = None
) -> dict[str, float]:
    """Distances of features of samples [N, F], drawn without guidance, to those of real examples [M, F], and their
    floor.

    ``frechet_distance_on_features``, ``precision_on_features`` and ``recall_on_features``, each with ``_unguided`` and
    with ``_floor``; precision and recall where every set has neighbours enough. `statistics` take the place of those of
    `real`. Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
    2017, equation 6. The figure known as FID uses the features of one particular Inception network.
    """
    as_samples, others = parted(real, len(samples), seed=seed)
    found = {
        "unguided": feature_distance(samples, real, statistics),
        "floor": feature_distance(as_samples, others),
    }
    return {f"{name}_on_features_{of}": value for of, figures in found.items() for name, value in figures.items()}


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
    """Judges drawn examples [N, *shape], None but on the writing rank, by the run's data; writes JSON, prints;
    collective.
    """
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
        labels = drawing.conditioning.labels
        figures["class_accuracy"] = class_accuracy(examples.numpy(), labels.numpy(), real.numpy(), real_labels.numpy())
    if features is not None:
        extractor = read_extractor(features, Launch.from_environment().device)
        of_samples, of_real = (
            np.concatenate([extractor.features(part) for part in images.split(BATCH)]) for images in (unguided, real)
        )
        against = None if statistics is None else read_statistics(statistics, features)
        figures |= judge_features(of_samples, of_real, seed=drawing.seed, statistics=against)
        figures["features_sha256"] = file_digest(features)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {_in_words(figures)}")


def _in_words(figures: dict[str, Any]) -> str:
    judged = f"{figures['class_accuracy']:.1%} are the class asked for; " if "class_accuracy" in figures else ""
    kind = "_on_features" if "frechet_distance_on_features_unguided" in figures else ""
    distance, least = figures[f"frechet_distance{kind}_unguided"], figures[f"frechet_distance{kind}_floor"]
    where = kind.replace("_", " ")
    return f"{judged}Fréchet distance{where} without guidance {distance:.3f}, of real examples {least:.3f}"
