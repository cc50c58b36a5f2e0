"""The sample verb."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from moe.files import replacing
from trainer.config import ImageSample, PointSample, RunConfig
from trainer.decode import decoded_shape, decoder_of, images_of
from trainer.engine.groups import Launch, joined
from trainer.engine.protocol import Network
from trainer.layout import plan_layout
from trainer.legality.drawing import drawable
from trainer.observe.image_grid import image_grid
from trainer.quality.accuracy import class_accuracy
from trainer.quality.features.extractor import BATCH
from trainer.quality.features.file import check_extractor, read_extractor
from trainer.quality.judgement import judge, judge_features
from trainer.quality.real import real_examples
from trainer.restore import check_restorable, restore, restored_flow
from trainer.sampling import draw_samples, labels_in_turn, plot_points
from trainer.task import FlowTask


def run(
    run_dir: Path,
    num: int,
    out: Path,
    guidance: float | None,
    seed: int,
    quality: Path | None,
    features: Path | None,
) -> int:
    """Draws a grid of images or a scatter plot of points from a run on one process.

    Args:
        run_dir: folder of the run.
        num: images or points, a multiple of the number of classes.
        out: PNG to write.
        guidance: scale of classifier-free guidance; None: the run's own.
        seed: of the starting noise.
        quality: JSON to write the judgement to, or None.
        features: file of the network whose features are compared too, or None.

    Returns:
        0.

    Raises:
        ValueError: the run has no complete checkpoint, `num` or `guidance` is out of range, or the file of features
            does not fit the run.
    """
    folder, config = restored_flow(run_dir)
    assert isinstance(config.sample, ImageSample | PointSample)
    is_plot = isinstance(config.sample, PointSample)
    if not is_plot and not drawable(config):
        raise ValueError(f"run_dir: {run_dir} draws examples of {config.data.shape[0]} channels, which are no picture")
    classes = max(1, config.data.num_classes)
    if num < 1 or num % classes:
        raise ValueError(
            f"--num: {num} is no positive multiple of the {classes} classes; use {max(1, num // classes) * classes}"
        )
    guidance = config.sample.guidance if guidance is None else guidance
    if not 0 <= guidance < math.inf:
        raise ValueError(f"--guidance: {guidance} is no scale from 0; use 1 for none, 1.5 for sharper images")
    check_restorable(config, folder)
    if features is not None:
        if quality is None:
            raise ValueError(f"--features: {features} would be used for nothing; give --quality too")
        check_extractor(features, decoded_shape(config))
    labels = labels_in_turn(config, num)
    with joined(Launch.from_environment(), expert_parallel=1):
        task = FlowTask(config)
        model = restore(config, plan_layout(config, 1), folder)
        drawn = _drawn(config, task, model, labels, guidance, seed)
        if is_plot:
            plot_points(config, torch.from_numpy(drawn), labels, out)
        else:
            images = images_of(config, torch.from_numpy(drawn)).numpy()
            image_grid(images, classes if classes > 1 else math.isqrt(num - 1) + 1, out)
        print(f"{out}: {num} {'points' if is_plot else 'images'} of {folder.name}, guidance {guidance:g}")
        if quality is not None:
            unguided = _drawn(config, task, model, labels, 1.0, seed)
            figures = {
                "num": num,
                "guidance": guidance,
                **_judged(config, drawn, unguided, labels, seed, features),
            }
            with replacing(quality) as temporary:
                temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            print(f"{quality}: {_in_words(figures)}")
    return 0


def _drawn(
    config: RunConfig, task: FlowTask, model: Network, labels: torch.Tensor, guidance: float, seed: int
) -> NDArray[np.float32]:
    """Draws examples and tells a terminal how far it is."""
    with Console(stderr=True).status(f"drawing {len(labels)}") as status:

        def tell(evaluations: int) -> None:
            status.update(f"drawing {len(labels)}, guidance {guidance:g}: {evaluations} evaluations of the field")

        return draw_samples(config, task, model, labels, guidance=guidance, seed=seed, progress=tell).numpy()


def _judged(
    config: RunConfig,
    drawn: NDArray[np.float32],
    unguided: NDArray[np.float32],
    labels: torch.Tensor,
    seed: int,
    features: Path | None,
) -> dict[str, float | str]:
    """All figures about what was drawn, with guidance and without."""
    real, real_labels = real_examples(config)
    figures: dict[str, float | str] = {**judge(unguided, real.numpy(), seed=seed)}
    if real_labels is not None:
        figures["class_accuracy"] = class_accuracy(drawn, labels.numpy(), real.numpy(), real_labels.numpy())
    if features is not None:
        extractor, decode = read_extractor(features, Launch.from_environment().device), decoder_of(config)
        of_samples, of_real = (
            np.concatenate([extractor.features(decode(part)) for part in examples.split(BATCH)])
            for examples in (torch.from_numpy(unguided), real)
        )
        figures |= judge_features(of_samples, of_real, seed=seed)
        figures["features_sha256"] = hashlib.sha256(features.read_bytes()).hexdigest()
    return figures


def _in_words(figures: dict[str, float | str]) -> str:
    judged = f"{figures['class_accuracy']:.1%} are the class asked for; " if "class_accuracy" in figures else ""
    kind = "_on_features" if "frechet_distance_on_features_unguided" in figures else ""
    distance, least = figures[f"frechet_distance{kind}_unguided"], figures[f"frechet_distance{kind}_floor"]
    where = kind.replace("_", " ")
    return f"{judged}Fréchet distance{where} without guidance {distance:.3f}, of real examples {least:.3f}"
