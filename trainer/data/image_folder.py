"""A folder of pictures, one sub-folder a class."""

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator
from torch import Tensor

from moe.seeds import derive_seed
from netsim.foundation.picture_file import read_picture
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.derived import Imbalance, check_imbalance, kept
from trainer.data.files import DataFiles, found_once
from trainer.data.picture import (
    Augment,
    Buckets,
    buckets_around,
    check_augment,
    check_buckets_differ,
    names_digest,
    nearest_buckets,
    picture_names,
    scaled,
    side_of,
    sub_folders,
)
from trainer.data.protocol import Batch, OfShapes, check_left, read_each
from trainer.data.shard.index import check_held_out, largest


class ImageFolderConfig(Section):
    """Pictures in a folder, cut to their middle square, made `size` pixels a side and scaled to [-1, 1].

    With `buckets`, each is cut to the proportions of these that are nearest to its own, and no batch mixes shapes.
    """

    kind: Literal["image_folder"]
    path: Path
    """Folder with a sub-folder for each class, or with pictures and no classes."""
    size: PositiveInt
    """Pixels a side of a picture; left out beside a list of `buckets`: the side of a square with the area of the
    largest bucket."""
    buckets: Buckets = None
    """Height and width of each shape, such as [[32, 32], [24, 40]]; a number: so many shapes about as large as a square
    of `size`, from 2 : 1 to 1 : 2; null: squares of `size`."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: red, green and blue."""
    held_out: PositiveInt
    """Pictures that are kept out of training."""
    classes: tuple[str, ...]
    """Sub-folders that are the classes 0, 1, ...; left out: all, in the order of their names. Empty: no labels."""
    augment: Augment = None
    """Flips and crops of the pictures that are trained on; null: none."""
    imbalance: Imbalance = None
    """Fewer training pictures of later classes; null: all."""
    digest: str
    """Digest of the names of the pictures, so that a run resumes with the data it began with; left out: taken from
    them."""

    @model_validator(mode="before")
    @classmethod
    def _buckets_around_the_size(cls, document: Any) -> Any:
        if not isinstance(document, dict) or document.get("buckets") is None:
            return document
        buckets, size = document["buckets"], document.get("size")
        if isinstance(buckets, int) and not isinstance(buckets, bool) and isinstance(size, int) and size > 0:
            if buckets < 1:
                raise ValueError(f"buckets: {buckets} is below 1; give a number of shapes from 1, or shapes")
            return {**document, "buckets": buckets_around(buckets, size)}
        if size is None and isinstance(buckets, list | tuple):
            return {**document, "size": side_of(buckets)}
        return document

    @model_validator(mode="after")
    def _can_be_divided_and_augmented(self) -> Self:
        if self.buckets is not None:
            check_buckets_differ(self.buckets)
        for shape in self.shapes:
            check_augment(self.augment, shape)
        check_imbalance(self.imbalance, self.num_classes)
        return self

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        buckets = self.buckets or ((self.size, self.size),)
        return tuple((self.channels, *bucket) for bucket in buckets)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known before the data set is loaded; of several, the largest."""
        return largest(self.shapes)

    def of_shape(self, shape: tuple[int, ...]) -> "ImageFolderConfig":
        return self.model_copy(update={"buckets": (shape[1:],)})

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(document.get("path"), str | Path):
            return document
        path, classes = Path(document["path"]), document.get("classes")
        if classes is None:
            classes = found_once(f"{path}: classes", lambda: sub_folders(path), path)
        if document.get("digest") is not None or not isinstance(classes, list | tuple):
            return {**document, "classes": classes}
        names = picture_names(path, [str(name) for name in classes])
        check_held_out(document, len(names), "pictures")
        return {**document, "classes": classes, "digest": names_digest(names)}

    def open(self) -> "ImageFolder":
        return ImageFolder(self)


class ImageFolder(OfShapes):
    """Pictures of a folder, read when they are needed; raises Refusal if their names do not match `config.digest`.

    The held-out pictures are the first in an order of names alone, so that a larger `held_out` contains a smaller one.
    """

    def __init__(self, config: ImageFolderConfig) -> None:
        self.shape, self.num_classes = config.shape, config.num_classes
        self.augment, self._folder = config.augment, config.path
        try:
            self._names = picture_names(config.path, config.classes)
        except ValueError as error:
            raise Refusal(config.path, "pictures", str(error), "bring them back") from error
        if names_digest(self._names) != config.digest:
            problem = f"its {len(self._names)} pictures are not those of the run ({config.digest})"
            remedy = "bring them back, or leave data.digest out to start another run"
            raise Refusal(config.path, "data.digest", problem, remedy)
        self.files = (DataFiles(config.path, self._names),)
        check_left(config.path, len(self._names), config.held_out, "pictures")
        order = sorted(range(len(self._names)), key=lambda number: derive_seed("split", self._names[number]))
        held_out, train = torch.tensor(order).split([config.held_out, len(order) - config.held_out])
        numbers = {name: number for number, name in enumerate(config.classes)}
        self._labels = torch.tensor([numbers.get(name.partition("/")[0], 0) for name in self._names])
        train = kept(config.imbalance, train, self._labels[train], self.num_classes)
        self.splits = {"train": train, "held_out": held_out}
        self.shapes, self.shape_of = config.shapes, torch.zeros(len(self._names), dtype=torch.int64)
        if config.buckets is not None and len(config.buckets) > 1:
            paths, buckets = [*map(self._file, range(len(order)))], config.buckets
            key = f"{config.path}: buckets {buckets} of {config.digest}"
            self.shape_of = torch.tensor(found_once(key, lambda: nearest_buckets(paths, buckets)))

    def get(self, indices: Tensor) -> Batch:
        images = read_each(indices, self._image, self._file)
        if len(shapes := {image.shape for image in images}) > 1:
            raise ValueError(f"data.buckets: no batch holds shapes {sorted(shapes)} together; read them one by one")
        return Batch(scaled(images), self._labels[indices] if self.num_classes else None, indices)

    def _file(self, number: int) -> Path:
        return self._folder / self._names[number]

    def _image(self, number: int) -> NDArray[np.uint8]:
        return read_picture(self._file(number), *self.shapes[int(self.shape_of[number])])
