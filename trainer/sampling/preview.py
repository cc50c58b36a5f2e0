"""Pictures of what a network draws, and files of clips, sequences and transition states beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from netsim.foundation.files import replacing
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
from trainer.data.reactions import Reactions, write_reactions
from trainer.data.sequences import texts
from trainer.model.autoencoder import Autoencoder
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts, source_examples
from trainer.sampling.pictures import image_grid, pixels, scatter_plot


def preview(flow: TrainedFlow, path: Path, *, seed: int) -> None:
    """Draws the section ``sample``: a grid with a column a class, one for each shape, a scatter plot, clips, logos
    or reactions; collective."""
    for _, height, width in several_shapes(flow.config):
        config = with_shape(flow.config, height, width)
        shaped = replace(flow, config=config, parts=FlowParts(config, flow.parts.space))
        _preview(shaped, path.with_stem(f"{path.stem}_{height}x{width}"), seed=seed)
    if not several_shapes(flow.config):
        _preview(flow, path, seed=seed)


def _preview(flow: TrainedFlow, path: Path, *, seed: int) -> None:
    sample, config = flow.sample, flow.config
    columns = (config.data.num_classes or sample.per_class) if isinstance(sample, ImageSample) else 0
    num = columns * sample.per_class if isinstance(sample, ImageSample) else sample.num
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
    """Writes drawn examples [N, *shape] in the form of their kind; `columns` and `headings` are for images."""
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
    """Reconstructs the number of images of the section ``sample``; rank 0 writes the grid; collective."""
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


MILLISECONDS = 250
"""Duration of a frame."""
LEAST_SIDE = 96
"""Pixels to which small frames of a GIF are enlarged."""
MOST_ACROSS = 8
"""Clips side by side in a GIF."""


def show_clips(config: RunConfig, clips: Tensor, conditioning: Conditioning, path: Path) -> None:
    """Writes clips [N, T C, H, W]: a sheet with a row a clip to `path`, a PNG, and a GIF of all of them beside it.

    A row begins with the frame that the network reads, where it reads one, and has the frames behind it.
    """
    channels = config.frame_channels
    frames = clips.unflatten(1, (-1, channels))
    shown = frames
    if conditioning.seen is not None:
        first = conditioning.seen.picture[:, None, :channels]
        shown = np.concatenate([first, frames], axis=1)
    columns = shown.shape[1]
    numbers = [f"frame {number}" for number in range(1, frames.shape[1] + 1)]
    headings = tuple(["read"] * (columns - len(numbers)) + numbers)
    image_grid(np.asarray(shown).reshape(-1, *shown.shape[2:]), columns, path, headings)
    _animate(np.asarray(frames), path.with_suffix(".gif"))


def _animate(clips: np.ndarray, path: Path) -> None:
    """Writes clips [N, T, C, H, W] beside each other, with a line between them."""
    from PIL import Image

    number, length, _, height, width = clips.shape
    across, larger = min(number, MOST_ACROSS), max(1, LEAST_SIDE // max(height, width))
    down = -(-number // across)
    cells = pixels(clips).repeat(larger, axis=2).repeat(larger, axis=3)
    high, wide = height * larger + 1, width * larger + 1
    pictures = []
    for frame in range(length):
        canvas = np.full((down * high - 1, across * wide - 1, *cells.shape[4:]), 255, np.uint8)
        for place in range(number):
            top, left = place // across * high, place % across * wide
            canvas[top : top + high - 1, left : left + wide - 1] = cells[place, frame]
        pictures.append(Image.fromarray(canvas))
    with replacing(path) as temporary:
        options = {"save_all": True, "append_images": pictures[1:], "duration": MILLISECONDS, "loop": 0}
        pictures[0].save(temporary, format="GIF", **options)


NUCLEOTIDES = {"A": "#009e73", "C": "#0072b2", "G": "#e69f00", "T": "#d55e00", "U": "#d55e00"}
OTHERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5b6875", "#e69f00", "#56b4e9")
LEAST_BITS = 0.01
"""Letters of less height in bits are omitted."""
PLACE_INCHES, LOGO_INCHES = 0.28, 2.0


def show_sequences(config: RunConfig, drawn: Tensor, labels: Tensor, path: Path) -> None:
    """Writes one-hot sequences [N, V, 1, L] as FASTA beside `path`, which gets logos of the data and of them."""
    dataset = trainer.data.build(config.data)
    real = dataset.get(trainer.data.first_data_points(dataset, "train", len(drawn))).x_1
    logos({"data": _shares(real), "drawn": _shares(drawn)}, config.alphabet, path)
    names = config.data.class_names
    with replacing(path.with_suffix(".fasta")) as temporary:
        lines = (
            f">{number}{f' {names[label]}' if names else ''}\n{text}\n"
            for number, (text, label) in enumerate(
                zip(texts(drawn, config.alphabet, getattr(config.data, "pad", None)), labels.tolist(), strict=True), 1
            )
        )
        temporary.write_text("".join(lines), encoding="utf-8")


def _shares(sequences: Tensor) -> NDArray[np.floating]:
    return sequences.double().mean(0).reshape(sequences.shape[1], -1).T.numpy()


def information(shares: NDArray[np.floating]) -> NDArray[np.floating]:
    """Heights in bits [L, V] of letters with shares [L, V]: share x (largest entropy - entropy of the place)."""
    entropy = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(1, keepdims=True)
    return shares * (math.log2(shares.shape[1]) - entropy)


def logos(panels: Mapping[str, NDArray[np.floating]], alphabet: str, path: Path) -> None:
    """Writes a logo for each title from shares of letters [L, V], one below the other, as one PNG."""
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    font = FontProperties(family="DejaVu Sans Mono", weight="bold")
    outlines = {letter: TextPath((0, 0), letter, size=1, prop=font) for letter in alphabet}
    colours = dict(zip(alphabet, OTHERS * (len(alphabet) // len(OTHERS) + 1), strict=False))
    if set(alphabet) <= {*NUCLEOTIDES, "-", "N"}:
        colours |= NUCLEOTIDES
    length = max(len(shares) for shares in panels.values())
    size = 1.2 + PLACE_INCHES * max(length, 24), LOGO_INCHES * len(panels)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    for axes, (title, shares) in zip(figure.subplots(len(panels), squeeze=False).flat, panels.items(), strict=True):
        for place, bits in enumerate(information(shares)):
            bottom = 0.0
            for letter in np.argsort(bits):
                height, outline = float(bits[letter]), outlines[alphabet[letter]]
                box = outline.get_extents()
                if height < LEAST_BITS or not box.width or not box.height:
                    continue
                moved = Affine2D().translate(-box.x0, -box.y0).scale(0.9 / box.width, height / box.height)
                shape = outline.transformed(moved.translate(place + 0.55, bottom))
                axes.add_patch(PathPatch(shape, color=colours[alphabet[letter]], linewidth=0))
                bottom += height
        axes.set(xlim=(0.4, length + 0.6), ylim=(0, math.log2(len(alphabet))), title=title, ylabel="bits")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


MOST_SHOWN = 16
"""Reactions of a picture."""
PANEL_INCHES = 2.2
COLOURS = {"reactant": "#0072b2", "drawn": "#d55e00", "product": "#009e73"}


def reactions_of(drawn: Tensor, context: Tensor, species: tuple[int, ...]) -> Reactions:
    """Triples of transition states [M, 3, 1, N] and the ends in their contexts [M, 7 + S, 1, N]."""
    flat = context[:, :, 0].transpose(1, 2).double().cpu().numpy()
    states = drawn[:, :, 0].transpose(1, 2).double().cpu().numpy()
    one_hot = flat[..., 6:-1]
    numbers = np.where(one_hot.any(-1), np.array(species)[one_hot.argmax(-1)], 0)
    positions = np.stack([flat[..., :3], states, flat[..., 3:6]], axis=1)
    return Reactions(positions.astype(np.float32), numbers, flat[..., -1] > 0)


def show_reactions(config: RunConfig, drawn: Tensor, conditioning: Conditioning, path: Path) -> None:
    """Writes transition states [N, 3, 1, A] as extended XYZ beside `path`, which gets a picture of the first ones."""
    context = conditioning.condition.context
    assert context is not None
    triples = reactions_of(drawn, context, config.species)
    write_reactions(path.with_suffix(".xyz"), triples)
    _picture(triples, path)


def _picture(triples: Reactions, path: Path) -> None:
    """Draws free atoms of reactant, drawn state and product in their plane of most movement, over grey fixed atoms."""
    from matplotlib.figure import Figure

    number = min(len(triples.positions), MOST_SHOWN)
    across = math.isqrt(number - 1) + 1
    down = -(-number // across)
    panels = [_flat(triples, place) for place in range(number)]
    half = np.max([np.ptp(np.concatenate([still, *moving]), axis=0) for still, moving in panels], axis=0) / 2 + 0.8
    size = PANEL_INCHES * across, PANEL_INCHES * down * half[1] / half[0] + 0.4
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = [*figure.subplots(down, across, squeeze=False).flat]
    for axes in grid:
        axes.set(xticks=[], yticks=[], aspect="equal", xlim=(-half[0], half[0]), ylim=(-half[1], half[1]))
        axes.spines[:].set(color="#e3e6e8", visible=False)
    for place, ((still, moving), axes) in enumerate(zip(panels, grid, strict=False)):
        axes.spines[:].set_visible(True)
        axes.scatter(*still.T, s=60, color="#d5d8db", linewidths=0)
        axes.plot(*moving.transpose(2, 0, 1), color="#9aa3ab", linewidth=0.8)
        for (name, colour), points in zip(COLOURS.items(), moving, strict=True):
            axes.scatter(*points.T, s=26, color=colour, label=name if place == 0 else None, linewidths=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _flat(triples: Reactions, place: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Plane coordinates of fixed atoms [F, 2] and moving ones [3 places, M, 2] of a reaction, centred."""
    positions, free = triples.positions[place], triples.free[place]
    moving = positions[:, free]
    plane = _plane(moving)
    still, flat = positions[0, ~free & (triples.numbers[place] > 0)] @ plane, moving @ plane
    together = np.concatenate([still, *flat])
    middle = (together.min(0) + together.max(0)) / 2
    above = len(still) and still[:, 1].mean() > flat[..., 1].mean()
    upright = np.array([1, -1 if above else 1], np.float32)
    return (still - middle) * upright, (flat - middle) * upright


def _plane(positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two directions [3, 2] along which atoms [3 places, F, 3] move most."""
    moves = (positions - positions[:1]).reshape(-1, 3)
    return np.linalg.svd(moves, full_matrices=True)[2][:2].T
