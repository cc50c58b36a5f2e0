"""Paths whose coefficients are read from a table, between whose times a spline goes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from netsim.foundation.digests import file_digest
from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.flow.path.affine import Affine, UniformSpline, without_noise
from trainer.flow.path.protocol import Coefficients
from trainer.flow.path.protocol import Path as FlowPath

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
    """The first 16 hexadecimal digits of the SHA-256 of a file; a Refusal if it cannot be read."""
    try:
        return file_digest(path)[:16]
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


class TabulatedConfig(Section):
    """A path that the fit-path verb fitted to data."""

    kind: Literal["tabulated"] = "tabulated"
    path: Path
    """The file of the path."""
    digest: str
    """Digest of the file, so that a run continues on the same path; computed from the file if left out."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        """The section with what it leaves out taken from the file; whatever else is wrong is left for its validation.

        Raises:
            ValueError: the file is missing or is no table.
        """
        if not isinstance(document.get("path"), str | Path) or "digest" in document:
            return document
        try:
            read_table(Path(document["path"]))
            return {**document, "digest": digest(Path(document["path"]))}
        except Refusal as error:
            raise ValueError(f"path: {error}") from error

    def build(self) -> FlowPath:
        """The path of the file.

        Raises:
            Refusal: the file is no table, or its digest is not the configured one.
        """
        table, current = read_table(self.path), digest(self.path)
        if current != self.digest:
            problem = f"is {self.digest} but the file has {current}"
            raise Refusal(self.path, "digest", problem, "bring the file back, or leave the field out for another run")
        return Affine(Tabulated(table))


class Tabulated:
    """The schedule of a table: its values and slopes at the times k / K, cubic polynomials in between."""

    def __init__(self, table: PathTable) -> None:
        self._weights = UniformSpline(table.weights, table.slopes)

    def __call__(self, t: Tensor) -> Coefficients:
        (a, b), (da, db) = (values.unbind(1) for values in self._weights(t))
        return without_noise(a, b, da=da, db=db)
