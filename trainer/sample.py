"""The sample verb."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

import trainer.data
from moe.files import FileError, replacing
from trainer.checkpoint.directory import complete_steps, step_folder
from trainer.checkpoint.weights import check_weights, initialise_from
from trainer.config import Parallel, RunConfig, load_config
from trainer.engine.groups import Launch, joined
from trainer.layout import plan_layout
from trainer.model.dit import DiT
from trainer.network import build_model, parameter_shapes
from trainer.observe.quality import class_accuracy, frechet_distance, image_grid
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
    folder = _newest(run_dir)
    config = _alone(load_config(folder / "config.yaml"))
    classes = config.data.num_classes
    if num < 1 or num % classes:
        raise ValueError(
            f"--num: {num} is no positive multiple of the {classes} classes; use {max(1, num // classes) * classes}"
        )
    guidance = config.sample.guidance if guidance is None else guidance
    if not 0 <= guidance < math.inf:
        raise ValueError(f"--guidance: {guidance} is no scale from 0; use 1 for none, 1.5 for sharper images")
    check_weights(folder / "ema.safetensors", parameter_shapes(config))
    labels = torch.arange(classes).repeat(num // classes)
    with joined(Launch.from_environment(), expert_parallel=1):
        task = FlowTask(config)
        model = build_model(config, plan_layout(config, 1)).eval()
        initialise_from(model, folder / "ema.safetensors")
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
    config: RunConfig, task: FlowTask, model: DiT, labels: torch.Tensor, guidance: float, seed: int
) -> NDArray[np.float32]:
    """Draws images and tells a terminal how far it is."""
    with Console(stderr=True).status(f"drawing {len(labels)} images") as status:

        def tell(evaluations: int) -> None:
            status.update(
                f"drawing {len(labels)} images, guidance {guidance:g}: {evaluations} evaluations of the field"
            )

        return draw_samples(config, task, model, labels, guidance=guidance, seed=seed, progress=tell).numpy()


def _newest(run_dir: Path) -> Path:
    root = run_dir / "checkpoints"
    steps = complete_steps(root)
    if not steps:
        raise FileError(root, "checkpoint", "there is no complete one", "give the run.dir of a run that has saved one")
    return step_folder(root, steps[-1])


def _alone(config: RunConfig) -> RunConfig:
    """The same network on one process, its experts in order."""
    moe = config.moe and config.moe.model_copy(update={"placement": None})
    return config.model_copy(update={"moe": moe, "parallel": Parallel()})
