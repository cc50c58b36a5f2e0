"""Sources that examples are converted from, and the options of reading them."""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.refusal import Refusal
from trainer.data.shard.file import mapped_array, member_array, reading_arrays


@dataclass(frozen=True)
class Reading:
    """Options of reading a source; None if not given.

    `labels` is an npy file, `class_names` a text with a name a line; sizes are (height, width), buckets or their
    number.
    """

    data_key: str | None = None
    labels_key: str | None = None
    no_labels: bool | None = None
    labels: Path | None = None
    channels_last: bool | None = None
    class_names: Path | None = None
    size: tuple[int, int] | None = None
    buckets: tuple[tuple[int, int], ...] | int | None = None
    channels: int | None = None
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None

    def check_only(self, kind: str, path: Path, *used: str) -> None:
        """Refuses options other than `used`, which have no effect on a kind of source."""
        for field in fields(self):
            if field.name not in used and getattr(self, field.name) is not None:
                option = f"--{field.name.replace('_', '-')}"
                raise ValueError(f"{option}: has no effect on {path}, which is {kind}; leave it out")


class Unreadable(ValueError):  # noqa: N818  it is what was found
    """One example that cannot be read; the others can be written without it."""


class Source(Protocol):
    """Examples to convert, which are read by their numbers.

    Attributes:
        shapes: of the examples; one or more.
        dtype: float32, float16 or uint8.
        num_classes: 0 without labels.
        class_names: empty if the classes have none.
        shape_numbers: int64 [num_examples], index in `shapes` of the shape that each example has.
        identity: a text that is equal for equal examples, wherever their files are.
        caution: a warning about input that is allowed but probably not meant; None if absent.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    num_examples: int
    num_classes: int
    class_names: tuple[str, ...]
    shape_numbers: NDArray[np.int64]
    identity: str
    caution: str | None = None

    def row(self, number: int) -> tuple[NDArray[Any], int]:
        """Reads an example [*shape] and its class, 0 without labels, from several threads.

        Raises Unreadable if this one cannot be read, a Refusal if the source as a whole cannot be used.
        """
        ...


def classes_of(path: Path, field: str, labels: NDArray[Any], num_examples: int) -> int:
    """Number of classes; refuses labels that are not one integer from 0 on for each example."""
    if labels.shape != (num_examples,):
        remedy = "give one integer for each example"
        raise Refusal(path, field, f"has shape {list(labels.shape)} for {num_examples} examples", remedy)
    if labels.dtype.kind not in "iu":
        remedy = "save integers of 0 or more (labels.astype(int)), or leave them out with --no-labels"
        raise Refusal(path, field, f"is {labels.dtype}, and classes are integers", remedy)
    lowest = int(labels.min())
    if lowest < 0:
        first, negative = int(np.argmax(labels < 0)), int((labels < 0).sum())
        problem = f"{negative} of {num_examples} labels are negative, the first at {first} ({int(labels[first])})"
        raise Refusal(path, field, problem, "number classes from 0 and leave out examples without one")
    classes = int(labels.max()) + 1
    if classes > max(1000, num_examples):
        remedy = "number the classes 0, 1, 2, ... without gaps"
        raise Refusal(path, field, f"has a label {classes - 1} among {num_examples} examples", remedy)
    return classes


def names_in(path: Path | None, num_classes: int) -> tuple[str, ...]:
    """Names of classes from a text file, one a line; refuses a file that does not name each class."""
    if path is None:
        return ()
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise Refusal(path, "class names", f"cannot be read ({reason})", "give a text with a name a line") from error
    if len(names) != num_classes:
        problem = f"{len(names)} names do not fit {num_classes} classes"
        raise Refusal(path, "class names", problem, "write the name of class 0, 1, ... in a line each")
    return names


def listed(names: Sequence[str]) -> str:
    """Joins names by commas; of many, only the first ten."""
    shown = ", ".join(names[:10]) or "none"
    return f"{shown}, ..." if len(names) > 10 else shown


SAMPLED = 64
"""Rows whose values enter the identity of a file."""
FAR = 10.0
"""Absolute value above which values are no images scaled for a network."""
WRITTEN_AS = {"float64": "float32", "float32": "float32", "float16": "float16", "uint8": "uint8"}
LAYOUTS = "[N, D] vectors, [N, H, W] grey images or [N, C, H, W] images"


class ArraySource(Source):
    """Rows of an npz or npy array, and their labels; compressed arrays are unpacked to temporary files in `scratch`."""

    def __init__(self, path: Path, reading: Reading, scratch: Path) -> None:
        if path.suffix == ".npz":
            used = ("data_key", "labels_key", "no_labels", "channels_last", "class_names")
            reading.check_only("an npz file", path, *used)
            values, labels, self._field = _of_npz(path, reading, scratch)
        else:
            reading.check_only("an npy file", path, "labels", "no_labels", "channels_last", "class_names")
            values, self._field = _array(path, "array"), "array"
            labels = None if reading.labels is None or reading.no_labels else _array(reading.labels, "labels")
        self._path = path
        if len(values.shape) == 0 or len(values) == 0:
            raise Refusal(path, self._field, f"has shape {list(values.shape)}, which contains no examples", "give some")
        if values.dtype.name not in WRITTEN_AS:
            remedy = "save float32 (or float16, float64), or uint8 for pixels from 0 to 255"
            raise Refusal(path, self._field, f"is {values.dtype}, which is not read", remedy)
        self._values = _in_layout(path, self._field, values, last=bool(reading.channels_last))
        self.shapes, self.dtype = (self._values.shape[1:],), WRITTEN_AS[values.dtype.name]
        self.num_examples, self.shape_numbers = len(values), np.zeros(len(values), np.int64)
        self._labels = None if labels is None else np.asarray(labels)
        self.num_classes = 0
        if self._labels is not None:
            said = reading.labels_key or "labels"
            self.num_classes = classes_of(reading.labels or path, said, self._labels, len(values))
        self.class_names = names_in(reading.class_names, self.num_classes)
        self.identity = self._identity()
        reach = float(np.abs(self._values[:SAMPLED].astype(np.float64)).max())
        if self.dtype != "uint8" and self._values.ndim == 4 and reach > FAR:
            self.caution = (
                f"{path}: {self._field}: has values as far as {reach:g} from 0, which runs see as they are; give "
                "pixels as uint8, scale them to [-1, 1], or add --standardise"
            )

    def row(self, number: int) -> tuple[NDArray[Any], int]:
        """Reads an example and its class; refuses the whole file on a value that is not finite, for it is a mistake."""
        with np.errstate(over="ignore"):  # what is beyond float32 is found below
            values = np.ascontiguousarray(self._values[number]).astype(self.dtype)
        if not np.isfinite(values).all():
            remedy = "mend or leave out such examples (numpy.isfinite)"
            raise Refusal(self._path, self._field, f"example {number} contains values that are not finite", remedy)
        return values, 0 if self._labels is None else int(self._labels[number])

    def _identity(self) -> str:
        sample = np.linspace(0, self.num_examples - 1, min(SAMPLED, self.num_examples)).astype(int)
        said = hashlib.sha256(f"{self._values.shape} {self._values.dtype.str}".encode())
        for number in sample.tolist():
            said.update(np.ascontiguousarray(self._values[number]).tobytes())
        if self._labels is not None:
            said.update(self._labels.astype(np.int64).tobytes())
        return said.hexdigest()


def _in_layout(path: Path, field: str, values: NDArray[Any], *, last: bool) -> NDArray[Any]:
    shape = list(values.shape)
    if last:
        if values.ndim != 4:
            raise Refusal(path, field, f"has shape {shape}, not [N, H, W, C]", "leave --channels-last out")
        return values.transpose(0, 3, 1, 2)
    if values.ndim == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        remedy = "add --channels-last, or save [N, C, H, W]"
        raise Refusal(path, field, f"has shape {shape}, whose last axis looks like channels", remedy)
    if values.ndim == 3:
        return values[:, None]
    if values.ndim not in (2, 4) or min(shape) == 0:
        raise Refusal(path, field, f"has shape {shape}, which is not a shape of examples", f"save {LAYOUTS}")
    return values


def _of_npz(path: Path, reading: Reading, scratch: Path) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    key = reading.data_key or "data"
    with _blamed(path, "npz file"), zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        names = list(members)
        if key not in members:
            raise Refusal(path, key, f"is missing (there are {listed(names)})", "name the array with --data-key")
        values = _member(path, archive, members[key], scratch)
        labels_key = reading.labels_key or "labels"
        if reading.no_labels:
            return values, None, key
        if labels_key not in members:
            others = [name for name in names if name != key]
            if reading.labels_key is None and not others:
                return values, None, key
            problem = f"is missing (there are {listed(names)})"
            raise Refusal(path, labels_key, problem, "name it with --labels-key, or give --no-labels")
        return values, _member(path, archive, members[labels_key], scratch), key


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, scratch: Path) -> NDArray[Any]:
    """Maps an array of an npz file into memory; a compressed one is first unpacked to a temporary file."""
    with _blamed(path, member.filename.removesuffix(".npy")):
        if member.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                return member_array(file, member, path.name)
        free = shutil.disk_usage(scratch).free
        if member.file_size > free:
            raise ValueError(f"unpacks to {member.file_size / 1e9:,.1f} GB, and {scratch} has {free / 1e9:,.1f} GB")
        with tempfile.TemporaryFile(dir=scratch) as unpacked:  # the array keeps it
            with archive.open(member) as packed:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            unpacked.seek(0)
            return mapped_array(unpacked, path.name)


def _array(path: Path, field: str) -> NDArray[Any]:
    with _blamed(path, field), path.open("rb") as file:
        return mapped_array(file, path.name)


def _blamed(path: Path, field: str) -> AbstractContextManager[None]:
    again = "save it again with numpy.savez or numpy.save"
    return reading_arrays(path, field, absent="give a file that can be read", damaged=again)
