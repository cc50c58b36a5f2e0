"""The sample verb."""

import json
import math
from pathlib import Path

from rich.console import Console
from torch import Tensor

from moe.files import replacing
from trainer.config.constraints.drawing import drawable
from trainer.config.layout import Layout
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.distributed.groups import Launch, joined
from trainer.evaluation.judgement import _in_words, _judged
from trainer.model.feature_extractor.file import check_extractor
from trainer.model.network import Network
from trainer.model.pretrained import check_restorable, restore
from trainer.sampling.conditioning import Given, given
from trainer.sampling.draw import draw_samples
from trainer.sampling.image_grid import image_grid
from trainer.sampling.preview import plot_points
from trainer.sampling.trained import restored_flow
from trainer.task import FlowTask
from trainer.task.latent_space import check_latents


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
        ValueError: the run has no complete checkpoint, `num`, `guidance` or `seed` is out of range, or the file of
            features does not fit the run.
    """
    folder, config = restored_flow(run_dir)
    assert isinstance(config.sample, ImageSample | PointSample)
    is_plot = isinstance(config.sample, PointSample)
    if not is_plot and not drawable(config):
        raise ValueError(
            f"run_dir: {run_dir} draws examples of {config.decoded_shape[0]} channels, which are no picture"
        )
    classes = max(1, config.data.num_classes)
    if num < 1 and classes == 1:
        raise ValueError(f"--num: {num} is below 1; use 1 or more")
    if num < 1 or num % classes:
        raise ValueError(
            f"--num: {num} is no positive multiple of the {classes} classes; use {max(1, num // classes) * classes}"
        )
    guidance = config.sample.guidance if guidance is None else guidance
    if not 0 <= guidance < math.inf:
        raise ValueError(f"--guidance: {guidance} is no scale from 0; use 1 for none, 1.5 for sharper images")
    if seed < 0:
        raise ValueError(f"--seed: {seed} is below 0; use 0 or more")
    check_restorable(config, folder)
    check_latents(config)
    if features is not None:
        if quality is None:
            raise ValueError(f"--features: {features} would be used for nothing; give --quality too")
        check_extractor(features, config.decoded_shape)
    with joined(Launch.from_environment(), expert_parallel=1):
        task = FlowTask(config)
        model = restore(config, Layout.single(config), folder)
        wanted = given(config, task, num, seed=seed)
        drawn = _drawn(config, task, model, wanted, guidance, seed)
        if is_plot:
            plot_points(config, drawn, wanted.labels, out, seed=seed)
        else:
            columns = classes if classes > 1 else math.isqrt(num - 1) + 1
            image_grid(wanted.pictures(drawn, columns).numpy(), columns, out)
        print(f"{out}: {len(drawn)} {'points' if is_plot else 'images'} of {folder.name}, guidance {guidance:g}")
        if quality is not None:
            unguided = _drawn(config, task, model, wanted, 1.0, seed)
            figures = {
                "num": len(drawn),
                "guidance": guidance,
                **_judged(config, task, drawn, unguided, wanted.labels, seed, features),
            }
            with replacing(quality) as temporary:
                temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            print(f"{quality}: {_in_words(figures)}")
    return 0


def _drawn(config: RunConfig, task: FlowTask, model: Network, wanted: Given, guidance: float, seed: int) -> Tensor:
    """Draws images or points and tells a terminal how far it is."""
    num = len(wanted.labels)
    with Console(stderr=True).status(f"drawing {num}") as status:

        def tell(evaluations: int) -> None:
            status.update(f"drawing {num}, guidance {guidance:g}: {evaluations} evaluations of the field")

        states = draw_samples(config, task, model, wanted.condition, guidance=guidance, seed=seed, progress=tell)
        return wanted.completed(task.space.decode(states))
