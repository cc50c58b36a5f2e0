"""The file of a path that is tabulated at many times."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

FORMAT = "flowfabric.path/1"
HEADER = "header"
REMEDY = "fit it again (python -m trainer fit-path)"
ENDS = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


@dataclass(frozen=True)
class PathTable:
    """Weights of source and data at the times k / K.

    Attributes:
        weights: float64 [K + 1, 2] of the source, 1 at t = 0 and 0 at t = 1, and of the data, 0 and 1.
        slopes: float64 [K + 1, 2] their time derivatives.
        made_by: the settings and data that determine the values, for display.
    """

    weights: Tensor
    slopes: Tensor
    made_by: dict[str, Any]

    def write(self, path: Path) -> None:
        """Writes the table; equal tables have equal bytes."""
        header = json.dumps({"format": FORMAT, "made_by": self.made_by}, sort_keys=True)
        arrays = {"weights": self.weights.contiguous(), "slopes": self.slopes.contiguous()}
        with replacing(path) as temporary:
            save_file(arrays, temporary, metadata={HEADER: header})


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file.

    Raises:
        Refusal: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise _unreadable(path, error) from error


def read_table(path: Path) -> PathTable:
    """Reads a table that the fit-path verb wrote.

    Raises:
        Refusal: the file is missing, damaged or of another format, or its values are no path from source to data.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            arrays = {name: file.get_tensor(name) for name in names & {"weights", "slopes"}}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    try:
        header = parse_json(metadata.get(HEADER, "{}"))
    except ValueError as error:
        raise Refusal(path, HEADER, f"is not JSON ({error})", REMEDY) from error
    file_format = header.get("format") if isinstance(header, dict) else None
    if file_format != FORMAT:
        raise Refusal(path, "format", f"is {file_format} where a table of a path has {FORMAT}", REMEDY)
    for name in ("weights", "slopes"):
        if name not in arrays:
            raise Refusal(path, name, f"is missing (there are {', '.join(sorted(names)) or 'none'})", REMEDY)
        shape, dtype = tuple(arrays[name].shape), arrays[name].dtype
        if dtype != torch.float64 or len(shape) != 2 or shape[1] != 2 or shape[0] < 2:
            raise Refusal(path, name, f"is {dtype} of shape {list(shape)}, not float64 [K + 1, 2]", REMEDY)
        if not bool(arrays[name].isfinite().all()):
            raise Refusal(path, name, "contains values that are not finite", REMEDY)
    table = PathTable(arrays["weights"], arrays["slopes"], header.get("made_by") or {})
    if table.weights.shape != table.slopes.shape:
        lengths = f"{len(table.slopes)} times where weights has {len(table.weights)}"
        raise Refusal(path, "slopes", f"has {lengths}", REMEDY)
    if not torch.equal(table.weights[[0, -1]], ENDS):
        raise Refusal(path, "weights", f"begins and ends at {table.weights[[0, -1]].tolist()}", REMEDY)
    (a, b), (da, db) = table.weights.unbind(1), table.slopes.unbind(1)
    if not bool((a * db - da * b > 0).all()):
        raise Refusal(path, "weights", "turns back between source and data", REMEDY)
    return table


def _unreadable(path: Path, error: Exception) -> Refusal:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return Refusal(path, "table", f"cannot be read ({reason})", REMEDY)
