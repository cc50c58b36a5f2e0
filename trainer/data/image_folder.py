"""A folder of pictures, one sub-folder a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from moe.files import FileError
from moe.random.seed import derive_seed
from moe.validation.section import Section
from trainer.data.found_once import found_once
from trainer.data.probe import probes
from trainer.data.protocol import BadExamples, Batch, Dataset, Split

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolderConfig(Section):
    """Pictures in a folder, cut to their middle square, made `size` pixels a side and scaled to [-1, 1]."""

    kind: Literal["image_folder"]
    path: Path
    """Folder with a sub-folder for each class, or with pictures and no classes."""
    size: PositiveInt
    """Pixels a side."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: red, green and blue."""
    held_out: PositiveInt
    """Pictures that are kept out of training."""
    classes: tuple[str, ...]
    """Sub-folders that are the classes 0, 1, ...; left out: all, in the order of their names. Empty: no labels."""
    digest: str
    """Of the names of the pictures, so that a run goes on with the data it began with; left out: taken from them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known before the data set is loaded."""
        return self.channels, self.size, self.size

    @property
    def num_classes(self) -> int:
        """The classes of the folder."""
        return len(self.classes)

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        """The section with what it leaves out taken from the names of the folder's pictures.

        Args:
            document: as it was written; whatever else is wrong with it is left for its validation.

        Raises:
            ValueError: the folder cannot be read, or all pictures are held out.
        """
        if not isinstance(document.get("path"), str | Path):
            return document
        path, classes = Path(document["path"]), document.get("classes")
        if classes is None:
            classes = found_once(f"{path}: classes", lambda: _sub_folders(path), path)
        if document.get("digest") is not None or not isinstance(classes, list | tuple):
            return {**document, "classes": classes}
        names = _pictures(path, [str(name) for name in classes])
        held_out = document.get("held_out")
        if isinstance(held_out, int) and held_out >= len(names):
            raise ValueError(f"held_out: {held_out} of {len(names)} pictures leave none to train on; hold out fewer")
        return {**document, "classes": classes, "digest": _digest(names)}


class ImageFolder(Dataset):
    """Pictures of a folder, read when they are needed.

    Transparent parts are white, and turned photographs stand upright. The held-out pictures are the first in an order
    that depends on nothing but their names, so that a larger `held_out` contains a smaller one. Files whose names do
    not end like those of pictures are none.

    Args:
        config: which folder.

    Raises:
        FileError: the folder is no longer what `config.digest` says, or holds too few pictures.
    """

    def __init__(self, config: ImageFolderConfig) -> None:
        self.shape, self.num_classes = config.shape, config.num_classes
        self._folder = config.path
        try:
            self._names = _pictures(config.path, config.classes)
        except ValueError as error:
            raise FileError(config.path, "pictures", str(error), "bring them back") from error
        if _digest(self._names) != config.digest:
            raise FileError(
                config.path,
                "data.digest",
                f"its {len(self._names)} pictures are not those of the run ({config.digest})",
                "bring them back, or leave data.digest out to start another run",
            )
        found_once(f"{config.path}: bytes of some pictures", lambda: probes(config.path, self._names), config.path)
        if config.held_out >= len(self._names):
            problem = f"leaves none of its {len(self._names)} pictures to train on ({config.held_out})"
            raise FileError(config.path, "data.held_out", problem, "hold out fewer")
        order = sorted(range(len(self._names)), key=lambda number: derive_seed("split", self._names[number]))
        held_out, train = torch.tensor(order).split([config.held_out, len(order) - config.held_out])
        self._splits: dict[Split, Tensor] = {"train": train, "held_out": held_out}
        numbers = {name: number for number, name in enumerate(config.classes)}
        self._labels = torch.tensor([numbers.get(name.partition("/")[0], 0) for name in self._names])

    def indices(self, split: Split) -> Tensor:
        """See `Dataset.indices`."""
        return self._splits[split]

    def get(self, indices: Tensor) -> Batch:
        """See `Dataset.get`."""
        images, reasons = [], {}
        for number in indices.tolist():
            path = self._folder / self._names[number]
            try:
                images.append(read_picture(path, self.shape[0], self.shape[1]))
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                reasons[number] = f"{path}: {' '.join(str(error).split()) or type(error).__name__}"
        if reasons:
            raise BadExamples(reasons)
        pixels = torch.from_numpy(np.stack(images)).float().div(127.5).sub(1)
        return Batch(pixels, self._labels[indices] if self.num_classes else None, indices)


def read_picture(path: Path, channels: int, size: int) -> NDArray[np.uint8]:
    """Reads a picture, cuts it to its middle square and resizes that (bicubic, filtered where it shrinks).

    Args:
        path: the file.
        channels: 1 for grey, 3 for red, green and blue.
        size: pixels a side.

    Returns:
        uint8 [channels, size, size].

    Raises:
        OSError: it cannot be read, is no picture, or is cut off.
        ValueError: its pixels are no 8-bit colours, or there are too many of them.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"has pixels of more than 8 bits ({opened.mode}), which have no agreed white")
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)


def _sub_folders(path: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(inner.name for inner in path.iterdir() if inner.is_dir() and inner.name[0] != "."))
    except OSError as error:
        raise ValueError(
            f"path: {path} cannot be read ({error.strerror}); give a folder with a sub-folder of pictures for each "
            "class, or with pictures"
        ) from error


def _pictures(path: Path, classes: list[str] | tuple[str, ...]) -> list[str]:
    """Paths of the pictures below a folder, or below its classes, in the order of their names."""
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes: {', '.join(classes)} name a folder twice; give each once")
    for name in classes or ("",):
        if len(Path(name).parts) != bool(name) or name in ("..", "/"):
            raise ValueError(f"classes: {name} is no name of a sub-folder; give names without slashes")
    return found_once(f"{path}: pictures of {'/'.join(classes)}", lambda: _listed(path, classes or ("",)), path)


def _listed(path: Path, classes: list[str] | tuple[str, ...]) -> list[str]:
    names: list[str] = []
    for name in classes:
        if not (path / name).is_dir():
            raise ValueError(f"classes: {path / name} is no folder; correct data.path or data.classes")
        found = sorted(_below(path / name, f"{name}/" if name else ""))
        if not found:
            kinds = ", ".join(sorted(ENDINGS))
            raise ValueError(f"path: {path / name} holds no pictures; give a folder of files that end in {kinds}")
        names += found
    return names


def _below(folder: Path | str, prefix: str) -> Iterator[str]:
    """Pictures in a folder and below it, by their paths from `prefix` on; a listing tells files from folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{name}/")
            elif f".{entry.name.rpartition('.')[2].lower()}" in ENDINGS and entry.name[0] != "." and entry.is_file():
                yield name


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
