"""Documents of other tools: JSON, and the `.pt` files of torch, of which nothing but plain values is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.arrays import UNREADABLE, quietly
from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal


def read_document(path: Path, remedy: str) -> Any:
    """Read a file by its name: `.pt` as `torch.save` wrote it, any other as JSON.

    Args:
        path: The file.
        remedy: What the user can do about a malformed one.

    Returns:
        Mappings, lists, values and, from a `.pt`, tensors.

    Raises:
        Refusal: The file cannot be read, or holds anything that would run code.
    """
    try:
        if path.suffix == ".pt":
            return _read_pt(path, remedy)
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror or error})", "check the path") from error
    except Refusal:
        raise
    except ValueError as error:
        raise Refusal(path, "document", f"is not JSON ({error})", remedy) from error


def whole_numbers(path: Path, field: str, value: Any, shape: tuple[str, ...], remedy: str) -> NDArray[np.int64]:
    """Take a rectangular array of whole numbers out of a document.

    Args:
        path: The file, for errors.
        field: Where the value stands in it.
        value: Nested lists or a tensor.
        shape: What each axis counts; the first may be `...` for any number of axes.
        remedy: What the user can do about another value.

    Returns:
        The array, int64, at least one entry.

    Raises:
        Refusal: It is ragged, empty, has other axes or other values.
    """
    wanted = f"whole numbers [{', '.join(shape)}]"
    try:
        array = value.numpy() if hasattr(value, "numpy") else np.array(value)
    except (*UNREADABLE, RecursionError) as error:
        raise Refusal(path, field, f"is not a rectangle of {wanted} ({_shown(value)})", remedy) from error
    fits = array.ndim >= len(shape) - 1 if shape[0] == "..." else array.ndim == len(shape)
    if not fits or not array.size or array.dtype.kind not in "iu" or array.dtype == np.uint64:
        raise Refusal(path, field, f"is not a rectangle of {wanted} ({_shown(value)})", remedy)
    return array.astype(np.int64)


def section(path: Path, field: str, value: Any, remedy: str) -> Mapping[str, Any]:
    """Take a mapping out of a document.

    Args:
        path: The file, for errors.
        field: Where the value stands in it.
        value: What stands there.
        remedy: What the user can do about another value.

    Raises:
        Refusal: It is no mapping.
    """
    if not isinstance(value, Mapping):
        raise Refusal(path, field, f"is not a mapping of names to values ({_shown(value)})", remedy)
    return value


def _read_pt(path: Path, remedy: str) -> Any:
    import torch

    with path.open("rb") as stream, quietly():
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the damage leads to
            problem = f"is not a complete file of tensors and plain values ({type(error).__name__})"
            raise Refusal(path, "document", problem, remedy) from error


def _shown(value: Any) -> str:
    """The start of a value, in one line; a long list is not written out for it."""
    if not isinstance(value, list | str | int | float | None):
        return type(value).__name__
    start = value[:4] if isinstance(value, list | str) else value
    return " ".join(str(start).split())[:60]
