"""Pictures: names in folders, reading, shapes of a batch, flips and crops."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform
from netsim.foundation.picture_file import opened_picture
from netsim.foundation.settings import Section
from trainer.data.files import found_once

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def sub_folders(path: Path) -> tuple[str, ...]:
    """Sorted names of the visible folders in a folder; raises ValueError if it cannot be read."""
    try:
        return tuple(sorted(inner.name for inner in path.iterdir() if inner.is_dir() and inner.name[0] != "."))
    except OSError as error:
        remedy = "give a folder with a sub-folder of pictures for each class, or with pictures"
        raise ValueError(f"path: {path} cannot be read ({error.strerror}); {remedy}") from error


def picture_names(path: Path, classes: list[str] | tuple[str, ...]) -> list[str]:
    """Sorted paths of the pictures below a folder, or below `classes` in it; raises ValueError without any."""
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes: {', '.join(classes)} name a folder twice; give each once")
    for name in classes or ("",):
        if len(Path(name).parts) != bool(name) or name in ("..", "/"):
            raise ValueError(f"classes: {name} is not a name of a sub-folder; give names without slashes")
    return found_once(f"{path}: pictures of {'/'.join(classes)}", lambda: _listed(path, classes or ("",)), path)


def _listed(path: Path, classes: list[str] | tuple[str, ...]) -> list[str]:
    names: list[str] = []
    for name in classes:
        if not (path / name).is_dir():
            raise ValueError(f"classes: {path / name} is not a folder; correct data.path or data.classes")
        files = sorted(_below(path / name, f"{name}/" if name else ""))
        if not files:
            kinds = ", ".join(sorted(ENDINGS))
            raise ValueError(f"path: {path / name} contains no pictures; give a folder of files that end in {kinds}")
        names += files
    return names


def _below(folder: Path | str, prefix: str) -> Iterator[str]:
    """Yields paths, after `prefix`, of pictures in and below a folder; the listing shows which entries are folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{name}/")
            elif f".{entry.name.rpartition('.')[2].lower()}" in ENDINGS and entry.name[0] != "." and entry.is_file():
                yield name


def names_digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def scaled(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Stacks uint8 images, or other uint8 values, as float32 scaled to [-1, 1]."""
    return torch.from_numpy(np.stack(images)).float().div(127.5).sub(1)


THREADS = 8
"""Threads that read the sizes of pictures; they mostly wait for files."""
WIDEST = 2.0
"""Proportion of the widest shape that is proposed, and inverse of that of the tallest."""
ORIENTATION, UPRIGHT = 0x0112, 4
"""The tag of a photograph's orientation, and the last of its values that keep the sides."""

Opening = Path | Callable[[], Path | IO[bytes]]
Shape = tuple[PositiveInt, PositiveInt]
Buckets = Annotated[tuple[Shape, ...] | None, Field(exclude_if=lambda buckets: buckets is None)]
"""Height and width of each shape; omitted if None, so that earlier runs keep their identity."""


def buckets_around(num: int, size: int) -> tuple[tuple[int, int], ...]:
    """Returns at most `num` shapes (height, width), the tallest first, 2 : 1 to 1 : 2, of at most `size`^2 pixels.

    Sides are multiples of an eighth of `size`.
    """
    unit = max(1, size // 8)
    spread = [0.0] if num == 1 else [1 - 2 * number / (num - 1) for number in range(num)]
    buckets: dict[float, tuple[int, int]] = {}
    for one in spread:
        longer = max(unit, round(size * WIDEST ** abs(one / 2) / unit) * unit)
        shorter = max(unit, size * size // longer // unit * unit)
        height, width = (longer, shorter) if one > 0 else (shorter, longer)
        buckets.setdefault(height / width, (height, width))
    return tuple(buckets.values())


def check_buckets_differ(buckets: Sequence[tuple[int, int]]) -> None:
    """Refuses, with a ValueError, an empty list of shapes, and two shapes of the same proportions."""
    if not buckets:
        raise ValueError("buckets: there are none; give shapes such as [[32, 32], [24, 40]], or leave them out")
    proportions: dict[tuple[int, int], tuple[int, int]] = {}
    for height, width in buckets:
        common = math.gcd(height, width)
        other = proportions.setdefault((height // common, width // common), (height, width))
        if other != (height, width) or list(buckets).count(other) > 1:
            problem = f"{list(other)} and {[height, width]} have the same proportions"
            raise ValueError(f"buckets: {problem}; give each proportion once")


def side_of(buckets: Sequence[object]) -> int | None:
    """Returns the side, in pixels, of a square as large as the largest shape; None if the user's input has no shape."""
    areas = [
        math.prod(one)
        for one in buckets
        if isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(side, int) and side > 0 for side in one)
    ]
    return math.isqrt(max(areas)) if areas else None


def nearest_buckets(files: Sequence[Opening], buckets: Sequence[tuple[int, int]]) -> list[int]:
    """Returns for each picture the index of the shape nearest in proportions; reads headers; bad files are squares."""
    with ThreadPoolExecutor(THREADS) as threads:
        proportions = np.array(list(threads.map(_log_proportion, files)))
    wanted = np.log([height / width for height, width in buckets])
    return np.abs(np.nan_to_num(proportions)[:, None] - wanted).argmin(axis=1).tolist()


def _log_proportion(file: Opening) -> float:
    """Logarithm of height by width, as the picture stands upright."""
    try:
        with opened_picture(file() if callable(file) else file) as picture:
            width, height = picture.size
            if picture.getexif().get(ORIENTATION, 1) > UPRIGHT:
                width, height = height, width
        return math.log(height / width)
    except ValueError:
        return math.nan


class AugmentConfig(Section):
    """Changes of an image before it is trained on; held-out images stay unchanged."""

    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability that an image is mirrored left to right. 0.5 where left and right mean nothing; 0 for digits and
    text."""
    crop: NonNegativeInt = 0
    """Pixels by which an image is shifted at most, up or down and left or right; its reflection fills the empty
    border."""


Augment = Annotated[AugmentConfig | None, Field(exclude_if=lambda augment: augment is None)]
"""Omitted if None, so that earlier runs keep their identity."""


def check_augment(augment: AugmentConfig | None, shape: tuple[int, ...]) -> None:
    """Refuses, with a ValueError, crops that an example's shape is too small for, and examples that are no images."""
    if augment is None:
        return
    if len(shape) != 3:
        raise ValueError(f"augment: is for images, and these examples have shape {list(shape)}; leave it out")
    side = min(shape[1:])
    if augment.crop >= side:
        problem = f"{augment.crop} pixels are too large a shift for an image of {side}"
        raise ValueError(f"augment.crop: {problem}; use {side // 8} to {side - 1}")


def augmented(augment: AugmentConfig, images: Tensor, ids: Tensor, positions: Tensor, *, seed: int) -> Tensor:
    """Flips and crops images [B, C, H, W]; draws depend on seed, id and position alone, not on batch or rank."""
    keys = fold_in(fold_in(torch.tensor(derive_seed(seed, "augment")), ids), positions)
    flipped, down, right = (uniform(fold_in(keys, number))[:, None] for number in range(3))
    return moved(images, _shift(down, augment.crop), _shift(right, augment.crop), flipped < augment.flip)


def moved(images: Tensor, down: Tensor, right: Tensor, flipped: Tensor) -> Tensor:
    """Shifts each of the images [B, C, H, W] by its own pixels, int64 [B, 1], then mirrors those that are `flipped`."""
    rows, columns = _reflected(down, images.shape[2]), _reflected(right, images.shape[3])
    columns = torch.where(flipped, columns.flip(1), columns)
    taken = images.gather(2, rows[:, None, :, None].expand_as(images))
    return taken.gather(3, columns[:, None, None].expand_as(images))


def _shift(drawn: Tensor, most: int) -> Tensor:
    return (drawn * (2 * most + 1)).long() - most


def _reflected(shift: Tensor, length: int) -> Tensor:
    """Returns the pixel to take at each place, [B, length], after `shift` [B, 1] pixels and mirroring at the border."""
    places = (torch.arange(length, device=shift.device) + shift).abs()
    return length - 1 - (length - 1 - places).abs()
