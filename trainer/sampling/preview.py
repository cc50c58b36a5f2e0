"""Drawing images and text from a network."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from moe.files import replacing
from trainer.config.run import ImageSample, PointSample, ReconstructionSample, RunConfig, TextSample
from trainer.model.autoencoder import Autoencoder
from trainer.model.network import Network
from trainer.sampling.conditioning import given
from trainer.sampling.draw import draw_samples
from trainer.sampling.image_grid import image_grid
from trainer.sampling.scatter import scatter_plot
from trainer.sampling.source import starts
from trainer.sampling.text import continue_texts, readable
from trainer.task import FlowTask, Task

RULE = f"\n{'-' * 80}\n"


def write_sample(config: RunConfig, task: Task, model: Network, stem: Path) -> None:
    """Draws what the section ``sample`` asks for and writes it on rank 0; collective.

    Args:
        config: the run.
        task: what the network was trained for.
        model: the network, in evaluation mode.
        stem: the file without its ending: a grid or a scatter plot becomes a .png, texts become a .txt.
    """
    writes, seed = dist.get_rank() == 0, config.run.seed
    match config.sample:
        case ImageSample(per_class=per_class, guidance=guidance):
            assert isinstance(task, FlowTask)
            columns = config.data.num_classes or per_class
            wanted = given(config, task, columns * per_class, seed=seed)
            states = draw_samples(config, task, model, wanted.condition, guidance=guidance, seed=seed)
            if writes:
                images = wanted.completed(task.space.decode(states))
                image_grid(wanted.pictures(images, columns).numpy(), columns, stem.with_suffix(".png"))
        case PointSample(num=num, guidance=guidance):
            assert isinstance(task, FlowTask)
            wanted = given(config, task, num, seed=seed)
            points = draw_samples(config, task, model, wanted.condition, guidance=guidance, seed=seed)
            if writes:
                plot_points(config, points, wanted.labels, stem.with_suffix(".png"), seed=seed)
        case ReconstructionSample(num=num):
            assert isinstance(model, Autoencoder)
            images = reconstructions(config, model, num)  # on every rank: weights may be divided among them
            if writes:
                image_grid(images.numpy(), num, stem.with_suffix(".png"))
        case TextSample(prompts=prompts, num_bytes=num_bytes, temperature=temperature):
            starts = [prompt.encode() for prompt in prompts]
            texts = continue_texts(model, starts, num_bytes, temperature=temperature, seed=seed)
            if writes:
                with replacing(stem.with_suffix(".txt")) as temporary:
                    temporary.write_text(RULE.join(map(readable, texts)) + "\n", encoding="utf-8")


@torch.no_grad()
def reconstructions(config: RunConfig, model: Autoencoder, num: int) -> Tensor:
    """So many held-out images, then what an autoencoder makes of each, [2 num, C, H, W] (fewer if there are fewer)."""
    dataset = trainer.data.build(config.data)
    images = dataset.get(dataset.indices("held_out")[:num]).x_1
    mean, _ = model.encode(images.to(next(model.parameters()).device))
    return torch.cat([images, model.decode(mean).cpu()])


def plot_points(config: RunConfig, points: Tensor, labels: Tensor, path: Path, *, seed: int) -> None:
    """Plots drawn points beside as many of the data set's, those that were held out first, and those they started at.

    Args:
        config: the run.
        points: [N, D].
        labels: int64 [N], shown as colours where there are classes.
        path: PNG to write.
        seed: with which the points were drawn.
    """
    dataset = trainer.data.build(config.data)
    ids = torch.cat([dataset.data_points("held_out"), dataset.data_points("train")])
    real = dataset.get(ids[: len(points)])
    colours = None if real.labels is None else labels.numpy()
    panels = {
        "data": (real.x_1.numpy(), None if real.labels is None else real.labels.numpy()),
        "drawn": (points.numpy(), colours),
    }
    if config.starts_at is not None:
        panels = {"source": (starts(config, torch.arange(len(points)), seed=seed).numpy(), None), **panels}
    scatter_plot(panels, path, fitting=panels.keys() - {"drawn"})
