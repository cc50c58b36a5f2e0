"""Writes a feature extractor from published weights of a vision transformer or of Inception v3."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from netsim.foundation.refusal import Refusal
from trainer.model.feature_extractor.extractor import write_extractor
from trainer.model.feature_extractor.inception import FEATURES, SIDE, Inception
from trainer.model.feature_extractor.published import INCEPTIONS, LAYOUTS, PublishedLayout, TokensTaken
from trainer.model.feature_extractor.published_weights import PublishedWeights
from trainer.model.feature_extractor.transformer import AttentionBlock, FirstToken, PatchMap, PatchTokens

HEAD_WIDTH = 64
"""Values of a head in nearly every published vision transformer."""


def import_extractor(
    weights: Path,
    layout: str,
    out: Path,
    *,
    image_size: Sequence[int] | None = None,
    tokens: TokensTaken = "patches",
    num_heads: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Writes a vision transformer, or Inception v3 up to its pooled features, as a feature extractor.

    The settings after `out` are for transformers. Where the image size gives another grid of patches, position
    embeddings are interpolated as in the published code: bicubically, with antialiasing only if there are registers.

    Args:
        layout: a key of ``LAYOUTS`` or ``INCEPTIONS`` in :mod:`trainer.model.feature_extractor.published`.
        image_size: height and width, or one number, in pixels, multiples of the patch size; None: as trained.
        tokens: what becomes the features.
        num_heads: heads of attention, which no tensor shows; None: width / 64.
        mean: of images from 0 to 1, one for all channels or one for each, as `std`; None: that of the layout.
    """
    if layout not in (*LAYOUTS, *INCEPTIONS):
        raise ValueError(f"--layout: {layout} is unknown; use {', '.join((*LAYOUTS, *INCEPTIONS))}")
    if out.resolve() == weights.resolve():
        raise ValueError(f"--out: {out} is the file of the weights; give another")
    if layout in INCEPTIONS:
        given = {"--image-size": image_size, "--num-heads": num_heads, "--mean": mean, "--std": std}
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"{option}: {layout} has settings of its own; leave it out")
        _import_inception(weights, layout, out)
        return
    names = LAYOUTS[layout]
    with PublishedWeights.opened(weights, layout) as published:
        network, shape = _network(published, names, image_size, tokens, num_heads)
        published.check_all_are_used(names.unused)
    mean = _of_channels("--mean", names.mean if mean is None else mean, shape[0])
    std = _of_channels("--std", names.std if std is None else std, shape[0])
    if min(std) <= 0:
        raise ValueError(f"--std: {min(std)} is not a standard deviation; give numbers above 0")
    write_extractor(network, out, shape, mean=[2 * value - 1 for value in mean], std=[2 * value for value in std])


def _import_inception(path: Path, layout: str, out: Path) -> None:
    names = INCEPTIONS[layout]
    with torch.device("meta"):
        inception = Inception(names.pools)
    with PublishedWeights.opened(path, layout) as weights:
        inception.fill(weights)
        classifier = weights.optional("fc.weight", (None, FEATURES))
        if classifier is not None and len(classifier) != names.num_classes:
            problem = f"names {len(classifier)} classes, and the network of layout {layout} names {names.num_classes}"
            fitting = [other for other, published in INCEPTIONS.items() if published.num_classes == len(classifier)]
            remedy = f"use --layout {' or '.join(fitting)}" if fitting else "give the weights as published"
            raise Refusal(path, "fc.weight", problem, remedy)
        weights.check_all_are_used(names.unused)
    write_extractor(
        inception.network,
        out,
        (3, SIDE, SIDE),
        mean=[names.mean],
        std=[names.std],
        resize=names.resize,
        eight_bits=True,
    )


def resized_positions(positions: Tensor, rows: int, columns: int, *, offset: float, antialias: bool) -> Tensor:
    """Position embeddings [patches, D] on another grid, bicubically: [D, rows, columns].

    `offset` is added to rows and columns before the scale is computed, as in DINOv2; `antialias` where the grid
    shrinks.
    """
    side = math.isqrt(len(positions))
    if side * side != len(positions) or (rows, columns) == (side, side):
        return positions.T.unflatten(1, (rows, columns)).contiguous()
    square = positions.T.unflatten(1, (side, side))[None]
    size: dict[str, Any] = {"size": (rows, columns)}
    if offset:
        size = {"scale_factor": ((rows + offset) / side, (columns + offset) / side)}
    return interpolate(square, mode="bicubic", antialias=antialias, **size)[0]


def _network(
    weights: PublishedWeights,
    names: PublishedLayout,
    image_size: Sequence[int] | None,
    tokens: TokensTaken,
    num_heads: int | None,
) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """The network and the shape [C, H, W] of the images that it takes."""
    embedding, bias = weights.pair(names.patches, (None, None, None, None))
    width, channels, *patch = embedding.shape
    num_heads = _num_heads(num_heads, width)
    class_token = weights.take(names.class_token, (1, 1, width))
    registers = weights.optional(names.registers, (1, None, width))
    positions = weights.take(names.positions, (1, None, width))[0]
    rows, columns = _grid(weights.path, names, image_size, patch, len(positions) - 1)
    leading = class_token[0] + positions[:1]
    offset = names.position_offset
    if registers is not None:
        leading, offset = torch.cat([leading, registers[0]]), 0.0
    places = resized_positions(positions[1:], rows, columns, offset=offset, antialias=registers is not None)
    blocks = [_block(weights, names, 0, width, None)]
    hidden = len(blocks[0]["expansion.bias"])
    blocks += [_block(weights, names, number, width, hidden) for number in range(1, weights.num_blocks(names.block))]
    norm = dict(zip(("weight", "bias"), weights.pair(names.norm, (width,)), strict=True))
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(channels, width, (patch[0], patch[1]), (patch[0], patch[1])),
            PatchTokens(width, rows, columns, len(leading)),
            *(AttentionBlock(width, num_heads, hidden, names.eps) for _ in blocks),
            nn.LayerNorm(width, names.eps),
            *_taken(tokens, rows, columns),
        )
    tables = [{"weight": embedding, "bias": bias}, {"leading": leading, "positions": places}, *blocks, norm]
    state = {f"{place}.{name}": value for place, table in enumerate(tables) for name, value in table.items()}
    network.load_state_dict(state, assign=True)
    return network, (channels, rows * patch[0], columns * patch[1])


def _block(
    weights: PublishedWeights, names: PublishedLayout, number: int, width: int, hidden: int | None
) -> dict[str, Tensor]:
    """The tensors of one block by their names in an ``AttentionBlock``; `hidden` None: it is read from the block."""
    start = names.block.format(number)
    tensors: dict[str, Tensor] = {}
    for part, modules in names.modules.items():
        if part == "contraction":
            hidden = len(tensors["expansion.bias"])
        shapes: dict[str, tuple[int | None, ...]] = {
            "norm_1": (width,),
            "query_key_value": (3 * width // len(modules), width),
            "projection": (width, width),
            "norm_2": (width,),
            "expansion": (hidden, width),
            "contraction": (width, hidden),
        }
        pairs = [weights.pair(start + module, shapes[part]) for module in modules]
        tensors[f"{part}.weight"], tensors[f"{part}.bias"] = (torch.cat(values) for values in zip(*pairs, strict=True))
    scaled = weights.has_any_ending(tuple(names.scales.values()))
    for scale in ("scale_1", "scale_2"):
        tensors[scale] = weights.take(start + names.scales[scale], (width,)) if scaled else torch.ones(width)
    return tensors


def _of_channels(option: str, values: Sequence[float], channels: int) -> Sequence[float]:
    """Checks that values are finite, and are one for all channels or one for each."""
    if len(values) not in (1, channels):
        raise ValueError(f"{option}: {len(values)} values for {channels} channels; give 1 or {channels}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{option}: {list(values)} are not all finite; give finite numbers")
    return values


def _num_heads(num_heads: int | None, width: int) -> int:
    if num_heads is None:
        if width % HEAD_WIDTH:
            raise ValueError(
                f"--num-heads: is needed because the width {width} is not a multiple of {HEAD_WIDTH}; give the number "
                "of heads that the weights were trained with"
            )
        return width // HEAD_WIDTH
    if num_heads < 1 or width % num_heads:
        raise ValueError(
            f"--num-heads: {num_heads} heads do not divide the width {width}; give the number of heads that the "
            "weights were trained with"
        )
    return num_heads


def _grid(
    path: Path, names: PublishedLayout, image_size: Sequence[int] | None, patch: Sequence[int], num_positions: int
) -> tuple[int, int]:
    side = math.isqrt(max(num_positions, 0))
    square = side > 0 and side * side == num_positions
    if image_size is None:
        if not square:
            problem = f"has positions of {num_positions} patches, which form no square"
            raise Refusal(path, names.positions, problem, "give --image-size HEIGHT WIDTH of the weights")
        return side, side
    if len(image_size) not in (1, 2):
        raise ValueError(f"--image-size: {len(image_size)} numbers are not a height and a width; give 1 or 2")
    height, width = image_size if len(image_size) == 2 else (image_size[0], image_size[0])
    for pixels, size in ((height, patch[0]), (width, patch[1])):
        if pixels < 1 or pixels % size:
            near = max(size, round(pixels / size) * size)
            raise ValueError(f"--image-size: {pixels} is not a multiple of the {size} pixels of a patch; use {near}")
    rows, columns = height // patch[0], width // patch[1]
    if not square and rows * columns != num_positions:
        problem = f"has positions of {num_positions} patches, which form no square that could be interpolated"
        raise Refusal(path, names.positions, problem, "give the --image-size of the weights")
    return rows, columns


def _taken(tokens: TokensTaken, rows: int, columns: int) -> list[nn.Module]:
    if tokens == "class":
        return [FirstToken()]
    places: list[nn.Module] = [PatchMap(rows, columns)]
    return places if tokens == "patches" else [*places, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()]
