"""Pictures of what a network draws: grids of images, scatter plots of points, reconstructions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from trainer.config.derived import several_shapes, with_shape
from trainer.config.run import RunConfig
from trainer.config.sample import (
    ClipSample,
    ExampleSample,
    ImageSample,
    ReactionSample,
    ReconstructionSample,
    SequenceSample,
)
from trainer.model.autoencoder import Autoencoder
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import source_examples
from trainer.sampling.pictures import image_grid, scatter_plot
from trainer.sampling.showing import show_clips, show_reactions, show_sequences


def preview(flow: TrainedFlow, path: Path, *, seed: int) -> None:
    """Draws the section ``sample``: a grid with a column a class, one for each shape, a scatter plot, clips, logos
    or reactions; collective."""
    for _, height, width in several_shapes(flow.config):
        config = with_shape(flow.config, height, width)
        _preview(replace(flow, config=config), path.with_stem(f"{path.stem}_{height}x{width}"), seed=seed)
    if not several_shapes(flow.config):
        _preview(flow, path, seed=seed)


def _preview(flow: TrainedFlow, path: Path, *, seed: int) -> None:
    sample, config = flow.sample, flow.config
    columns, num = 0, 0
    if isinstance(sample, ImageSample):
        columns = config.data.num_classes or sample.per_class
        num = columns * sample.per_class
    else:
        num = sample.num
    conditioning = flow.conditioning(num, seed=seed)
    states = flow.draw(conditioning.condition, guidance=sample.guidance, seed=seed)
    if dist.get_rank() > 0:
        return
    headings = conditioning.headings(config.data.class_names, columns) if columns else ()
    show(config, flow.decode(states, conditioning), conditioning, path, columns, headings, seed=seed)


def show(
    config: RunConfig,
    examples: Tensor,
    conditioning: Conditioning,
    path: Path,
    columns: int,
    headings: tuple[str, ...],
    *,
    seed: int,
) -> None:
    """Writes drawn examples [N, *shape] as their kind is shown; `columns` and `headings` are of images."""
    match config.sample:
        case ImageSample():
            image_grid(conditioning.pictures(examples, columns).numpy(), columns, path, headings)
        case ClipSample():
            show_clips(config, examples, conditioning, path)
        case ReactionSample():
            show_reactions(config, examples, conditioning, path)
        case SequenceSample():
            show_sequences(config, examples, conditioning.labels, path)
        case _:
            plot_points(config, examples, conditioning.labels, path, seed=seed)


def preview_reconstructions(config: RunConfig, model: Autoencoder, path: Path) -> None:
    """Reconstructs what the section ``sample`` asks for; rank 0 writes the grid; collective."""
    assert isinstance(config.sample, ReconstructionSample)
    images = reconstructions(config, model, config.sample.num)  # on every rank: weights may be divided among them
    if dist.get_rank() == 0:
        image_grid(images.numpy(), config.sample.num, path)


@torch.no_grad()
def reconstructions(config: RunConfig, model: Autoencoder, num: int) -> Tensor:
    """Held-out images above their reconstructions: [2 M, C, H, W] with M <= num."""
    dataset = trainer.data.build(config.data)
    images = dataset.get(dataset.indices("held_out")[:num]).x_1
    mean, _ = model.encode(images.to(next(model.parameters()).device))
    return torch.cat([images, model.decode(mean).cpu()])


def preview_groups(config: RunConfig, images: Tensor, groups: Tensor, headings: Sequence[str], path: Path) -> None:
    """Writes images [N, C, H, W] in columns by group, int64 [N], as many as `sample` says, blank where there are fewer.

    The numbers of groups are those of `headings`.
    """
    assert isinstance(config.sample, ExampleSample)
    rows, columns = config.sample.per_column, len(headings)
    grid = torch.ones(rows, columns, *images.shape[1:])
    for column in range(columns):
        own = images[groups == column][:rows].cpu()
        grid[: len(own), column] = own
    image_grid(grid.flatten(0, 1).numpy(), columns, path, headings)


def plot_points(config: RunConfig, points: Tensor, labels: Tensor, path: Path, *, seed: int) -> None:
    """Plots points [N, D] beside as many of the data, held-out ones first, and beside the source points, if any."""
    dataset = trainer.data.build(config.data)
    ids = torch.cat([dataset.data_points("held_out"), dataset.data_points("train")])
    real = dataset.get(ids[: len(points)])
    colours = None if real.labels is None else labels.numpy()
    panels = {
        "data": (real.x_1.numpy(), None if real.labels is None else real.labels.numpy()),
        "drawn": (points.numpy(), colours),
    }
    if config.source_data is not None:
        begun = source_examples(config, torch.arange(len(points)), seed=seed)
        panels = {"source": (begun.numpy(), None), **panels}
    scatter_plot(panels, path, fitting=panels.keys() - {"drawn"})
