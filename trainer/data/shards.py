"""Examples in a folder of safetensors or npz files, read row by row; latents among them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.derived import Imbalance, check_imbalance, kept
from trainer.data.files import DataFiles, found_once
from trainer.data.picture import Augment, check_augment, scaled
from trainer.data.protocol import Batch, Listed, OfShapes, check_left, read_each, shuffled_splits
from trainer.data.sequences import one_hot
from trainer.data.shard.file import Array, NumberedFiles, arrays_of, open_shard
from trainer.data.shard.index import (
    REMEDY,
    Alphabet,
    ClassNames,
    LatentsEntry,
    PairIndex,
    ShardIndex,
    check_class_names,
    check_held_out,
    completed,
)

Row = TypeVar("Row")


class RowsOfShards(Listed):
    """Examples in the rows of shards; `check` refuses shards that differ from the index."""

    def __init__(self, folder: Path, index: ShardIndex | PairIndex, held_out: int, check: Callable[[], None]) -> None:
        found_once(f"{folder}: shards of {index.digest}", check, folder)
        self.shape, self.num_classes = index.shape, index.num_classes
        self.files = (DataFiles(folder, [entry.file for entry in index.shards]),)
        check_left(folder, index.num_examples, held_out)
        self._paths = paths = [folder / entry.file for entry in index.shards]
        self._shards = NumberedFiles((entry.num_examples for entry in index.shards), lambda one: open_shard(paths[one]))
        self.splits = shuffled_splits(index.num_examples, held_out)

    def rows(self, indices: Tensor, row_of: Callable[[Mapping[str, Array], int], Row]) -> list[Row]:
        """Reads rows in the order of `indices`, int64 [B]; raises BadExamples with the place of each bad one.

        `row_of` reads a row from the arrays of its shard by its number there; it raises ValueError on a bad row.
        """

        def read(number: int) -> Row:
            shard, row = self._shards.place(number)
            return row_of(self._shards.open(shard), row)

        def place(number: int) -> str:
            shard, row = self._shards.place(number)
            return f"{self._paths[shard]}:{row}"

        return read_each(indices, read, place)


def check_same(folder: Path, index: object, config: object, names: tuple[str, ...]) -> None:
    """Refuses an index that differs, in one of `names`, from the section that a run began with."""
    for name in names:
        present, wanted = getattr(index, name), getattr(config, name)
        if present != wanted:
            remedy = "bring the folder back, or leave the field out to start another run"
            raise Refusal(folder, f"data.{name}", f"is {wanted} but the index says {present}", remedy)


class LatentsConfig(Section):
    """States are latents of images: drawn anew at each step from what an autoencoder, frozen, makes of an image.

    The data are images, or the latents of the same folder (data.kind: shards).
    """

    path: Path
    """A folder that the encode verb wrote."""
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Shape (Z, h, w) of the latents of an image; left out: what the index says."""
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Shape (C, H, W) of an image; left out: what the index says."""
    digest: str
    """Digest of the index, so that a run resumes with the latents it began with; left out: taken from it."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        index = ShardIndex.at_path(document, ("shape", "image_shape", "digest"))
        if index is None:
            return document
        if index.latents is None:
            raise ValueError(f"path: {_no_latents(Path(document['path']))}")
        said = {"shape": latent_shape(index), "image_shape": index.latents.image_shape, "digest": index.digest}
        return completed(document, said)


def read_latents(folder: Path) -> tuple[ShardIndex, LatentsEntry]:
    """Reads the index of a folder that the encode verb wrote; refuses shards that are no latents."""
    index = ShardIndex.read(folder)
    if index.latents is None:
        raise _no_latents(folder)
    return index, index.latents


def _no_latents(folder: Path) -> Refusal:
    return Refusal(folder, "index", "belongs to shards that are not latents", "give what the encode verb wrote")


def latent_shape(index: ShardIndex) -> tuple[int, int, int]:
    """(Z, h, w) of the latents that the examples of an index are Gaussians over."""
    channels, height, width = index.shape
    return channels // 2, height, width


def latents_of(data: Any) -> dict[str, Any] | None:
    """Returns ``{"path": folder}`` where a user's section ``data`` names a folder of latents; otherwise None."""
    if not isinstance(data, dict) or data.get("kind") != "shards" or not isinstance(data.get("path"), str | Path):
        return None
    try:
        index = ShardIndex.read(Path(data["path"]))
    except Refusal:
        return None
    return {"path": data["path"]} if index.latents is not None else None


class ShardsConfig(Section):
    """A folder that `trainer.data.write_shards` or the encode verb wrote; only headers are read at start."""

    kind: Literal["shards"]
    path: Path
    """The folder, with its index.json."""
    held_out: PositiveInt
    """Examples that are kept out of training."""
    shape: tuple[PositiveInt, ...]
    """Shape of an example; left out: what the index says."""
    shapes: Annotated[
        tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...], Field(exclude_if=lambda one: not one)
    ] = ()
    """Shapes of the images, if they have several; left out: what the index says."""
    num_classes: NonNegativeInt
    """Number of classes; left out: what the index says."""
    class_names: ClassNames = ()
    """Names of the classes 0, 1, ...; left out: what the index says."""
    context_shape: Annotated[
        tuple[PositiveInt, PositiveInt, PositiveInt] | None, Field(exclude_if=lambda one: one is None)
    ] = None
    """Shape (C, H, W) of the context that belongs to each example and is not drawn, such as a mask; left out: what the
    index says."""
    alphabet: Alphabet = ""
    """Letters of the sequences, which are read one-hot; left out: what the index says."""
    augment: Augment = None
    """Flips and crops of the images that are trained on; null: none."""
    imbalance: Imbalance = None
    """Fewer training examples of later classes; null: all."""
    digest: str
    """Digest of the index, so that a run resumes with the data it began with; left out: taken from it."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        index = ShardIndex.at_path(document, ("shape", "num_classes", "digest"))
        if index is None:
            return document
        check_held_out(document, index.num_examples)
        if index.latents is not None and document.get("augment") is not None:
            raise ValueError(f"augment: {'; '.join(_no_images(document['path']))}")
        names = ("shape", "num_classes", "class_names", "digest")
        optional: dict[str, Any] = {"shapes": index.shapes} if len(index.shapes) > 1 else {}
        if index.context is not None:
            optional["context_shape"] = index.context.shape
        if index.alphabet:
            optional["alphabet"] = index.alphabet
        return completed(document, {name: getattr(index, name) for name in names} | optional)

    def of_shape(self, shape: tuple[int, ...]) -> "ShardsConfig":
        return self.model_copy(update={"shape": shape, "shapes": ()})

    @model_validator(mode="after")
    def _fits_the_examples(self) -> Self:
        check_class_names(self.class_names, self.num_classes)
        check_imbalance(self.imbalance, self.num_classes)
        for shape in (self.shape, *self.shapes):
            check_augment(self.augment, shape)
        if self.alphabet and self.augment is not None:
            raise ValueError("augment: is for images, and these examples are letters; leave it out")
        if self.context_shape is not None and self.augment is not None:
            raise ValueError("augment: would move images and leave their contexts where they are; leave it out")
        return self

    def open(self) -> "Shards":
        return Shards(self)


class Shards(RowsOfShards, OfShapes):
    """Examples in the rows of shards."""

    def __init__(self, config: ShardsConfig) -> None:
        index = ShardIndex.read(config.path)
        check_same(config.path, index, config, ("digest", "shape", "num_classes", "context_shape", "alphabet"))
        super().__init__(config.path, index, config.held_out, lambda: _check_shards(config.path, index))
        self.shapes = index.shapes
        of_shards = [self.shapes.index(entry.shape or index.shape) for entry in index.shards]
        lengths = torch.tensor([entry.num_examples for entry in index.shards])
        self.shape_of = torch.tensor(of_shards).repeat_interleave(lengths)
        if config.imbalance is not None:
            train = self.splits["train"]
            labels = torch.from_numpy(np.concatenate([open_shard(file)["labels"].whole() for file in self._paths]))
            self.splits = {**self.splits, "train": kept(config.imbalance, train, labels[train], self.num_classes)}
        if index.latents is not None and config.augment is not None:
            raise Refusal(config.path, "data.augment", *_no_images(config.path))
        self._dtype, self.augment, self._context = index.dtype, config.augment, index.context
        self._num_letters = len(index.alphabet)
        by_channel = -1, *[1] * (len(index.shape) - 1)
        self._shift, self._scale = (
            None if values is None else torch.tensor(values).reshape(by_channel)
            for values in (index.shift, index.scale)
        )

    def get(self, indices: Tensor) -> Batch:
        values, labels, contexts = zip(*self.rows(indices, self._row), strict=True)
        if self._num_letters:
            x_1 = one_hot(torch.from_numpy(np.stack(values)), self._num_letters)
        else:
            x_1 = _as_read(values, self._dtype)
        if self._shift is not None:
            x_1 = x_1 - self._shift
        if self._scale is not None:
            x_1 = x_1 / self._scale
        context = None if self._context is None else _as_read(contexts, self._context.dtype)
        return Batch(x_1, torch.tensor(labels) if self.num_classes else None, indices, context=context)

    def _row(self, arrays: Mapping[str, Array], row: int) -> tuple[NDArray[Any], int, NDArray[Any] | None]:
        values = arrays["data"].row(row)
        context = None if self._context is None else arrays["context"].row(row)
        for name, read in (("data", values), ("context", context)):
            if read is not None and not np.isfinite(read).all():
                raise ValueError(f"{name}: contains values that are not finite")
        if self._num_letters and values.max() >= self._num_letters:
            raise ValueError(f"data: {values.max()} is no number of the {self._num_letters} letters")
        label = int(arrays["labels"].row(row)) if self.num_classes else 0
        if label not in range(max(1, self.num_classes)):
            raise ValueError(f"labels: {label} is not one of the {self.num_classes} classes")
        return values, label, context


def _as_read(rows: Sequence[NDArray[Any]], dtype: str) -> Tensor:
    return scaled(rows) if dtype == "uint8" else torch.from_numpy(np.stack(rows)).float()


def _no_images(folder: str | Path) -> tuple[str, str]:
    """Returns the problem of flips and crops of latents, and the remedy, for an error message."""
    problem = "is for images, and these examples are latents, which no flip or crop of an image commutes with"
    return problem, f"leave it out, or learn from the images with flow.latent.path={folder}"


def _check_shards(folder: Path, index: ShardIndex) -> None:
    """Refuses shards that are not what the index says, without reading their rows."""
    for entry in index.shards:
        path = folder / entry.file
        rows = {"data": (entry.shape or index.stored_shape, index.dtype)}
        if index.context is not None:
            rows["context"] = index.context.shape, index.context.dtype
        arrays = arrays_of(path, [*rows, *(("labels",) if index.num_classes else ())], REMEDY)
        for key, (of_row, dtype) in rows.items():
            shape, wanted = arrays[key].shape, (entry.num_examples, *of_row)
            if shape != wanted:
                raise Refusal(path, key, f"has shape {shape} but the index says {wanted}", REMEDY)
            if arrays[key].dtype != dtype:
                raise Refusal(path, key, f"is {arrays[key].dtype} but the index says {dtype}", REMEDY)
        if index.num_classes:
            labels = arrays["labels"]
            if labels.shape != (entry.num_examples,):
                raise Refusal(path, "labels", f"has shape {labels.shape}, not {(entry.num_examples,)}", REMEDY)
            if "int" not in labels.dtype:
                raise Refusal(path, "labels", f"is {labels.dtype}, which cannot be a count", f"use int64: {REMEDY}")
