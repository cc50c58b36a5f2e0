"""Pictures as a source: a folder, or a column of a saved Hugging Face data set."""

import hashlib
import io
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.picture_file import BadPicture, opened_picture, read_picture
from netsim.foundation.refusal import Refusal, prefixed
from trainer.data.conversion.source import Reading, Source, Unreadable, classes_of, listed
from trainer.data.picture import (
    Opening,
    buckets_around,
    check_buckets_differ,
    names_digest,
    nearest_buckets,
    picture_names,
    sub_folders,
)


class PictureFolder(Source):
    """The pictures of a folder, whose sub-folders are the classes; `reading` must have a size."""

    dtype = "uint8"

    def __init__(self, path: Path, reading: Reading) -> None:
        reading.check_only("a folder of pictures", path, "size", "buckets", "channels", "no_labels")
        try:
            folders = sub_folders(path)
            self._names = picture_names(path, () if reading.no_labels else folders)
        except ValueError as error:
            problem, _, remedy = str(error).partition(": ")[2].partition("; ")
            raise Refusal(path, "pictures", problem.removeprefix(f"{path} "), remedy) from error
        self.class_names = () if reading.no_labels else folders
        self.num_classes, self.num_examples, self._folder = len(self.class_names), len(self._names), path
        self.shapes = picture_shapes(reading, path, lambda: path / self._names[0])
        self.shape_numbers = nearest_shapes([path / name for name in self._names], self.shapes)
        self._numbers = {name: number for number, name in enumerate(self.class_names)}
        self.identity = names_digest(self._names)

    def row(self, number: int) -> tuple[NDArray[Any], int]:
        path = self._folder / self._names[number]
        shape = self.shapes[self.shape_numbers[number]]
        return picture_row(path, path, shape), self._numbers.get(self._names[number].partition("/")[0], 0)


def nearest_shapes(files: Sequence[Opening], shapes: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    """Returns for each picture the index of the nearest shape (C, H, W); a single shape needs no file to be read."""
    if len(shapes) == 1:
        return np.zeros(len(files), np.int64)
    return np.array(nearest_buckets(files, [(height, width) for _, height, width in shapes]))


def picture_shapes(
    reading: Reading, source: Path, first: Callable[[], Path | IO[bytes]]
) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes (C, H, W) to write; a ValueError about a missing size proposes that of the picture `first`."""
    channels, buckets = reading.channels or 3, reading.buckets
    if isinstance(buckets, int) and reading.size is not None:
        buckets = buckets_around(buckets, math.isqrt(math.prod(reading.size)))
    if isinstance(buckets, tuple):
        with prefixed("--"):
            check_buckets_differ(buckets)
        return tuple((channels, *bucket) for bucket in buckets)
    if reading.size is not None:
        return ((channels, *reading.size),)
    proposal = "for example --size 64"
    with suppress(ValueError), opened_picture(first()) as picture:
        width, height = picture.size
        proposal = f"the first of {source} has {width} x {height} pixels, so for example --size {min(width, height)}"
    raise ValueError(f"--size: is missing, and pictures need one; {proposal}")


def picture_row(picture: Path | IO[bytes], name: object, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Reads a picture as uint8 [C, H, W]; raises Unreadable."""
    channels, height, width = shape
    try:
        return read_picture(picture, channels, height, width)
    except BadPicture as error:
        remedy = "; save it with 8 bits a colour" if "more than 8 bits" in str(error) else ""
        raise Unreadable(f"{name}: {error}{remedy}") from error


SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder looks like one that Hugging Face's ``save_to_disk`` wrote."""
    return any((path / name).is_file() for name in (SPLITS, STATE, INFO))


class SavedDataset(Source):
    """Pictures and classes in columns of a saved Hugging Face data set; only tables are read, and no code is run."""

    dtype = "uint8"

    def __init__(self, path: Path, reading: Reading) -> None:
        used = ("size", "buckets", "channels", "split", "image_column", "label_column", "no_labels")
        reading.check_only("a Hugging Face data set", path, *used)
        rows, folder = _opened(path, reading.split)
        self._path, self.num_examples = folder, len(rows)
        if self.num_examples == 0:
            raise Refusal(folder, "rows", "there are none", "give a data set with examples")
        self._image = _image_column(folder, rows, reading.image_column)
        self._label = None if reading.no_labels else _label_column(folder, rows, reading.label_column)
        self.num_classes, self.class_names, self._labels = 0, (), None
        if self._label is not None:
            self._labels = _labels(folder, rows, self._label)
            self.num_classes = classes_of(folder, self._label, self._labels, self.num_examples)
            names = getattr(rows.features[self._label], "names", None)
            if names is not None and len(names) >= self.num_classes:
                self.num_classes, self.class_names = len(names), tuple(names)
        import datasets

        self._rows = rows.select_columns([self._image]).cast_column(self._image, datasets.Image(decode=False))
        self.shapes = picture_shapes(reading, path, lambda: self._file(0))
        files = [partial(self._file, number) for number in range(self.num_examples)]
        self.shape_numbers = nearest_shapes(files, self.shapes)
        said = json.dumps([rows._fingerprint, self._image, self._label, self.num_examples])
        self.identity = hashlib.sha256(said.encode()).hexdigest()

    def row(self, number: int) -> tuple[NDArray[Any], int]:
        shape = self.shapes[self.shape_numbers[number]]
        pixels = picture_row(self._file(number), f"{self._path}: row {number}", shape)
        return pixels, 0 if self._labels is None else int(self._labels[number])

    def _file(self, number: int) -> Path | io.BytesIO:
        held = self._rows[number][self._image]
        if held is None:
            raise Unreadable(f"{self._path}: row {number}: {self._image} is empty")
        return io.BytesIO(held["bytes"]) if held["bytes"] is not None else Path(held["path"])


def _opened(path: Path, split: str | None) -> tuple[Any, Path]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{path}: needs the package datasets; pip install 'flowfabric[hf]'") from error
    folder = path
    if (path / SPLITS).is_file():
        try:
            splits = json.loads((path / SPLITS).read_text(encoding="utf-8"))["splits"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal(path / SPLITS, "splits", "cannot be read", "save the data set again") from error
        if split is None or split not in splits:
            chosen = "is missing" if split is None else f"is not a split of the data set ({split})"
            raise ValueError(f"--split: {chosen}; use one of {listed(splits)}")
        folder = path / split
    elif split is not None:
        raise ValueError(f"--split: {path} contains no splits; leave it out")
    try:
        return datasets.Dataset.load_from_disk(str(folder.resolve())), folder
    except Exception as error:  # of pyarrow and datasets, whose kinds are many
        problem = " ".join(str(error).split())[:200]
        raise Refusal(folder, "data set", f"cannot be read ({problem})", "save it again with save_to_disk") from error


def _image_column(folder: Path, rows: Any, wanted: str | None) -> str:
    import datasets

    pictures = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if wanted is not None and wanted not in rows.features:
        raise ValueError(f"--image-column: {wanted} is not a column of {folder}; use one of {listed(pictures)}")
    if wanted is not None and wanted not in pictures:
        kind = rows.features[wanted]
        raise ValueError(f"--image-column: {wanted} holds {kind}, not pictures; use one of {listed(pictures)}")
    if not pictures:
        remedy = "cast one to datasets.Image, or save its arrays with numpy and give the npz file"
        raise Refusal(folder, "columns", f"none holds pictures (there are {listed(list(rows.features))})", remedy)
    if wanted is None and len(pictures) > 1:
        problem = f"is missing where {len(pictures)} hold pictures"
        raise ValueError(f"--image-column: {problem}; use one of {listed(pictures)}")
    return wanted or pictures[0]


def _label_column(folder: Path, rows: Any, wanted: str | None) -> str | None:
    import datasets

    classes = [name for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    if wanted is not None and wanted not in rows.features:
        known = listed(classes or list(rows.features))
        raise ValueError(f"--label-column: {wanted} is not a column of {folder}; use one of {known}")
    if wanted is None and len(classes) > 1:
        problem = f"is missing where {len(classes)} hold classes"
        raise ValueError(f"--label-column: {problem}; use one of {listed(classes)}, or --no-labels")
    return wanted or next(iter(classes), "label" if "label" in rows.features else None)


def _labels(folder: Path, rows: Any, column: str) -> NDArray[Any]:
    values = rows.data.column(column).to_numpy()
    if values.dtype.kind == "O":
        remedy = f"make them classes (dataset.class_encode_column({column!r})), or give --no-labels"
        raise Refusal(folder, column, f"holds {rows.features[column]}, and classes are integers", remedy)
    if rows._indices is not None:
        values = values[rows._indices.column(0).to_numpy()]
    return np.asarray(values)
