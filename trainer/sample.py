"""The sample verb."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

import trainer.data
from moe.files import replacing
from trainer.config import ImageSample, RunConfig
from trainer.engine.groups import Launch, joined
from trainer.engine.protocol import Network
from trainer.layout import plan_layout
from trainer.observe.quality import class_accuracy, frechet_distance, image_grid
from trainer.restore import check_restorable, newest_checkpoint, restore, restored_config
from trainer.sampling import draw_samples
from trainer.task import FlowTask


def run(run_dir: Path, num: int, out: Path, guidance: float | None, seed: int, quality: Path | None) -> int:
    """Draws a grid from a run on one process.

    Args:
        run_dir: folder of the run.
        num: images, a multiple of the number of classes.
        out: PNG to write.
        guidance: scale of classifier-free guidance; None: the run's own.
        seed: of the starting noise.
        quality: JSON to write the judgement to, or None.

    Returns:
        0.

    Raises:
        ValueError: the run has no complete checkpoint, or `num` or `guidance` is out of range.
    """
    folder = newest_checkpoint(run_dir)
    config = restored_config(folder, world_size=1)
    if not isinstance(config.sample, ImageSample):
        raise ValueError(
            f"run_dir: {run_dir} holds a {config.model.kind} model, which draws no images; use the generate verb"
        )
    classes = config.data.num_classes
    if num < 1 or num % classes:
        raise ValueError(
            f"--num: {num} is no positive multiple of the {classes} classes; use {max(1, num // classes) * classes}"
        )
    guidance = config.sample.guidance if guidance is None else guidance
    if not 0 <= guidance < math.inf:
        raise ValueError(f"--guidance: {guidance} is no scale from 0; use 1 for none, 1.5 for sharper images")
    check_restorable(config, folder)
    labels = torch.arange(classes).repeat(num // classes)
    with joined(Launch.from_environment(), expert_parallel=1):
        task = FlowTask(config)
        model = restore(config, plan_layout(config, 1), folder)
        images = _drawn(config, task, model, labels, guidance, seed)
        image_grid(images, classes, out)
        print(f"{out}: {num} images of {folder.name}, guidance {guidance:g}")
        if quality is not None:
            unguided = _drawn(config, task, model, labels, 1.0, seed)
            dataset = trainer.data.build(config.data)
            real, real_labels = dataset.get(dataset.indices("train"))
            assert real_labels is not None
            figures = {
                "num": num,
                "guidance": guidance,
                "class_accuracy": class_accuracy(images, labels.numpy(), real.numpy(), real_labels.numpy()),
                "frechet_distance_unguided": frechet_distance(unguided, real.numpy()),
            }
            with replacing(quality) as temporary:
                temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            print(
                f"{quality}: {figures['class_accuracy']:.1%} are the class asked for; "
                f"Fréchet distance without guidance {figures['frechet_distance_unguided']:.3f}"
            )
    return 0


def _drawn(
    config: RunConfig, task: FlowTask, model: Network, labels: torch.Tensor, guidance: float, seed: int
) -> NDArray[np.float32]:
    """Draws images and tells a terminal how far it is."""
    with Console(stderr=True).status(f"drawing {len(labels)} images") as status:

        def tell(evaluations: int) -> None:
            status.update(
                f"drawing {len(labels)} images, guidance {guidance:g}: {evaluations} evaluations of the field"
            )

        return draw_samples(config, task, model, labels, guidance=guidance, seed=seed, progress=tell).numpy()
