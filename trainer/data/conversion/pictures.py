"""Examples that are pictures: files in folders, or whatever else holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.refusal import Refusal
from trainer.data.buckets import Opening, buckets_around, check_buckets_differ, nearest_buckets
from trainer.data.conversion.source import Reading, Source, Unreadable
from trainer.data.picture import BadPicture, opened_picture, read_picture
from trainer.data.picture_names import names_digest, picture_names, sub_folders


class PictureFolder(Source):
    """The pictures of a folder, whose sub-folders are the classes; without sub-folders there are none.

    Args:
        path: the folder.
        reading: how it is read; `size` must be given.

    Raises:
        ValueError: the folder or the reading cannot be used.
    """

    dtype = "uint8"

    def __init__(self, path: Path, reading: Reading) -> None:
        reading.check_only("a folder of pictures", path, "size", "buckets", "channels", "no_labels")
        try:
            found = sub_folders(path)
            self._names = picture_names(path, () if reading.no_labels else found)
        except ValueError as error:
            problem, _, remedy = str(error).partition(": ")[2].partition("; ")
            raise Refusal(path, "pictures", problem.removeprefix(f"{path} "), remedy) from error
        self.class_names = () if reading.no_labels else found
        self.num_classes, self.num_examples, self._folder = len(self.class_names), len(self._names), path
        self.shapes = picture_shapes(reading, path, lambda: path / self._names[0])
        self._numbers_of_shapes = nearest_shapes([path / name for name in self._names], self.shapes)
        self._numbers = {name: number for number, name in enumerate(self.class_names)}
        self.identity = names_digest(self._names)

    def shape_numbers(self) -> NDArray[np.int64]:
        """That of the nearest proportions."""
        return self._numbers_of_shapes

    def row(self, number: int) -> tuple[NDArray[Any], int]:
        path = self._folder / self._names[number]
        shape = self.shapes[self._numbers_of_shapes[number]]
        return picture_row(path, path, shape), self._numbers.get(self._names[number].partition("/")[0], 0)


def nearest_shapes(files: Sequence[Opening], shapes: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    """The number of the shape for each picture; with a single shape (C, H, W) no file is read."""
    if len(shapes) == 1:
        return np.zeros(len(files), np.int64)
    return np.array(nearest_buckets(files, [(height, width) for _, height, width in shapes]))


def picture_shapes(
    reading: Reading, source: Path, first: Callable[[], Path | IO[bytes]]
) -> tuple[tuple[int, ...], ...]:
    """(C, H, W) of pictures, one or several; without a size, that of the picture `first` is proposed in the refusal."""
    channels, buckets = reading.channels or 3, reading.buckets
    if isinstance(buckets, int) and reading.size is not None:
        buckets = buckets_around(buckets, math.isqrt(math.prod(reading.size)))
    if isinstance(buckets, tuple):
        try:
            check_buckets_differ(buckets)
        except ValueError as error:
            raise ValueError(f"--{error}") from error
        return tuple((channels, *bucket) for bucket in buckets)
    if reading.size is not None:
        return ((channels, *reading.size),)
    try:
        with opened_picture(first()) as picture:
            width, height = picture.size
        proposal = f"the first of {source} has {width} x {height} pixels, so for example --size {min(width, height)}"
    except ValueError:
        proposal = "for example --size 64"
    raise ValueError(f"--size: is missing, and pictures need one; {proposal}")


def picture_row(picture: Path | IO[bytes], name: object, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Reads a picture as uint8 [C, H, W]; raises Unreadable."""
    channels, height, width = shape
    try:
        return read_picture(picture, channels, height, width)
    except BadPicture as error:
        remedy = "; save it with 8 bits a colour" if "more than 8 bits" in str(error) else ""
        raise Unreadable(f"{name}: {error}{remedy}") from error
