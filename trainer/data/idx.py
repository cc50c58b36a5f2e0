"""Grey images in the IDX format of MNIST, Fashion-MNIST and sets that took it over."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.derived import Imbalance, check_imbalance, kept
from trainer.data.files import DataFiles, found_once
from trainer.data.picture import Augment, check_augment
from trainer.data.protocol import Batch, Listed
from trainer.data.shard.index import ClassNames, check_class_names

UNSIGNED_BYTES = 8
"""Type code in the third byte of the magic number; the fourth byte is the number of dimensions."""
SHUFFLE_SEED = 28
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
REMEDY = "fetch the file again"


class IdxConfig(Section):
    """Grey images and their classes in a folder of IDX files, the format of MNIST, scaled to [-1, 1]."""

    kind: Literal["idx"]
    path: Path
    """Folder with NAME-images-idx3-ubyte and NAME-labels-idx1-ubyte, each as it is or with .gz."""
    train: str = "train"
    """NAME of the images that are trained on."""
    test: str = "t10k"
    """NAME of the images that are held out."""
    num_examples: PositiveInt | None = None
    """Images to train on, the first of a fixed shuffle, so that a larger number contains a smaller one; null: all."""
    held_out: PositiveInt
    """Images that are kept out of training, the first of their file."""
    pad: NonNegativeInt = 0
    """Black pixels added on each side, such as 2 to make 32 of 28."""
    augment: Augment = None
    """Flips and crops of the images that are trained on; null: none."""
    imbalance: Imbalance = None
    """Fewer training images of later classes, among the `num_examples`; null: all of these."""
    class_names: ClassNames = ()
    """Names of the classes 0, 1, ...; empty: their numbers."""
    shape: tuple[Literal[1], PositiveInt, PositiveInt]
    """Shape (1, H, W) of an image, padding included; left out: as the files say."""
    num_classes: PositiveInt
    """Number of classes; left out: one more than the largest label of the files."""

    @model_validator(mode="after")
    def _can_be_augmented(self) -> Self:
        check_augment(self.augment, self.shape)
        check_class_names(self.class_names, self.num_classes)
        check_imbalance(self.imbalance, self.num_classes)
        return self

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        path, pad = document.get("path"), document.get("pad", 0)
        if not isinstance(path, str | Path) or not isinstance(pad, int):
            return document
        parts = {field: str(document.get(field, default)) for field, default in (("train", "train"), ("test", "t10k"))}
        facts = found_once(f"{path}: {parts}", lambda: _examined(Path(path), *parts.values()), Path(path))
        for field, part in (("num_examples", "train"), ("held_out", "test")):
            number, most = document.get(field), facts[part]
            if isinstance(number, int) and number > most:
                raise ValueError(
                    f"{field}: {number} is more than the {most} images of {parts[part]}; use {most} or less"
                )
        height, width = facts["size"]
        filled = {"shape": (1, height + 2 * pad, width + 2 * pad), "num_classes": facts["num_classes"]}
        return {**filled, **document}

    def open(self) -> "Idx":
        return Idx(self)


class Idx(Listed):
    """Images of two pairs of IDX files, held in memory as bytes; ids of held-out images follow the training images."""

    def __init__(self, config: IdxConfig) -> None:
        self.shape, self.num_classes, self.augment = config.shape, config.num_classes, config.augment
        self._pad = config.pad
        names = (config.train, config.test)
        files = [(_file(config.path, name, IMAGES), _file(config.path, name, LABELS)) for name in names]
        parts = [(read_idx(images, 3), read_idx(labels, 1)) for images, labels in files]
        expected = (config.shape[1] - 2 * config.pad, config.shape[2] - 2 * config.pad)
        for (images, labels), (path, _) in zip(parts, files, strict=True):
            if images.shape != (len(labels), *expected) or labels.max() >= config.num_classes:
                held = f"holds {len(images)} images of {images.shape[1:]} with {len(labels)} labels to {labels.max()}"
                problem = f"{held}, where the run has {config.num_classes} classes of images of {expected}"
                raise Refusal(path, "data", problem, "bring the files back that the run began with")
        self.files = (DataFiles(config.path, [file.name for pair in files for file in pair]),)
        self._images = torch.from_numpy(np.concatenate([images for images, _ in parts]))
        self._labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]).astype(np.int64))
        train, test = (len(labels) for _, labels in parts)
        shuffled = torch.randperm(train, generator=torch.Generator().manual_seed(SHUFFLE_SEED))[: config.num_examples]
        self.splits = {
            "train": kept(config.imbalance, shuffled, self._labels[shuffled], self.num_classes),
            "held_out": torch.arange(train, train + min(config.held_out, test)),
        }

    def get(self, indices: Tensor) -> Batch:
        images = self._images[indices][:, None].float().div(127.5).sub(1)
        padded = torch.nn.functional.pad(images, (self._pad,) * 4, value=-1.0)
        return Batch(padded, self._labels[indices], indices)


def read_sizes(path: Path, dimensions: int) -> tuple[int, ...]:
    """Returns the sizes in the header of an IDX file of unsigned bytes; refuses another type or dimensionality."""
    header = _read(path, 4 * (dimensions + 1))
    if len(header) < 4 * (dimensions + 1) or header[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        begins = f"it begins {header[:4].hex(' ')}" if header else "it is empty"
        problem = f"is no IDX file of unsigned bytes in {dimensions} dimensions ({begins})"
        raise Refusal(path, "file", problem, "give files such as train-images-idx3-ubyte.gz")
    sizes = tuple(np.frombuffer(header, ">u4", offset=4).tolist())
    if not all(sizes):
        raise Refusal(path, "file", f"holds nothing ({' x '.join(map(str, sizes))})", "give another set")
    return sizes


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Returns the values of an IDX file of unsigned bytes, gzipped if its name ends in .gz; refuses a wrong length."""
    sizes = read_sizes(path, dimensions)
    offset, wanted = 4 * (dimensions + 1), math.prod(sizes)
    content = _read(path, offset + wanted + 1)  # no more, whatever a damaged archive unpacks to
    if len(content) - offset != wanted:
        held = "more" if len(content) - offset > wanted else f"{len(content) - offset:,} bytes"
        problem = f"holds {held}, not the {' x '.join(map(str, sizes))} bytes of its header"
        raise Refusal(path, "file", problem, REMEDY)
    return np.frombuffer(content, np.uint8, offset=offset).reshape(sizes)


def _read(path: Path, most: int) -> bytes:
    """The first bytes of a file, unpacked if its name ends in .gz."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        raise Refusal(path, "file", "does not exist", "correct data.path, data.train or data.test") from None
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal(path, "file", f"cannot be read ({error})", REMEDY) from None


def _examined(folder: Path, train: str, test: str) -> dict[str, Any]:
    sizes = [read_sizes(_file(folder, name, IMAGES), 3) for name in (train, test)]
    labels = [read_idx(_file(folder, name, LABELS), 1) for name in (train, test)]
    for name, (images, *_), classes in zip((train, test), sizes, labels, strict=True):
        if images != len(classes):
            problem = f"holds {len(classes)} labels for {images} images"
            raise Refusal(_file(folder, name, LABELS), "file", problem, REMEDY)
    if sizes[0][1:] != sizes[1][1:]:
        problem = f"holds images of {sizes[1][1:]}, those of {train} have {sizes[0][1:]}"
        raise Refusal(_file(folder, test, IMAGES), "file", problem, "give images of one size")
    most = max(int(classes.max()) for classes in labels)
    return {"train": len(labels[0]), "test": len(labels[1]), "size": sizes[0][1:], "num_classes": most + 1}


def _file(folder: Path, name: str, content: str) -> Path:
    plain = folder / f"{name}-{content}"
    return plain if plain.exists() else plain.with_name(f"{plain.name}.gz")
