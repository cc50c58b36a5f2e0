"""What examples are taken from, and what a person asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.refusal import Refusal


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
    """Examples by their numbers.

    Attributes:
        shapes: of the examples; one or more.
        dtype: float32, float16 or uint8.
        num_classes: 0 without labels.
        class_names: empty if the classes have none.
        shape_numbers: int64 [num_examples], of the shape that each example has.
        identity: the same for the same examples, wherever they are.
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
    """Names in words, of many the first."""
    shown = ", ".join(names[:10]) or "none"
    return f"{shown}, ..." if len(names) > 10 else shown
