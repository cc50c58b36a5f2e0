"""A folder of pictures, one sub-folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from moe.files import FileError
from moe.random.seed import derive_seed
from moe.validation.section import Section
from trainer.data.augmentation import Augment, check_augment
from trainer.data.found_once import found_once
from trainer.data.picture import read_picture
from trainer.data.picture_names import names_digest, picture_names, sub_folders
from trainer.data.probe import probes
from trainer.data.protocol import BadExamples, Batch, Dataset, Split


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
    augment: Augment = None
    """Flips and crops of the pictures that are trained on; null: none."""
    digest: str
    """Of the names of the pictures, so that a run goes on with the data it began with; left out: taken from them."""

    @model_validator(mode="after")
    def _can_be_augmented(self) -> ImageFolderConfig:
        check_augment(self.augment, self.shape)
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known before the data set is loaded."""
        return self.channels, self.size, self.size

    @property
    def num_classes(self) -> int:
        """The classes of the folder."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes 0, 1, ...: those of their sub-folders."""
        return self.classes

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
            classes = found_once(f"{path}: classes", lambda: sub_folders(path), path)
        if document.get("digest") is not None or not isinstance(classes, list | tuple):
            return {**document, "classes": classes}
        names = picture_names(path, [str(name) for name in classes])
        held_out = document.get("held_out")
        if isinstance(held_out, int) and held_out >= len(names):
            raise ValueError(f"held_out: {held_out} of {len(names)} pictures leave none to train on; hold out fewer")
        return {**document, "classes": classes, "digest": names_digest(names)}


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
        self.augment, self._folder = config.augment, config.path
        try:
            self._names = picture_names(config.path, config.classes)
        except ValueError as error:
            raise FileError(config.path, "pictures", str(error), "bring them back") from error
        if names_digest(self._names) != config.digest:
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
                images.append(read_picture(path, *self.shape))
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                reasons[number] = f"{path}: {' '.join(str(error).split()) or type(error).__name__}"
        if reasons:
            raise BadExamples(reasons)
        pixels = torch.from_numpy(np.stack(images)).float().div(127.5).sub(1)
        return Batch(pixels, self._labels[indices] if self.num_classes else None, indices)
