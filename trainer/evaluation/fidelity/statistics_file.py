"""Statistics of real examples in a file, so that they are computed once.

An npz file without Python objects:

    mu          float64 [F], mean of the features
    sigma       float64 [F, F], their covariance
    features    float32 [M, F], those of the first M examples, for precision and recall
    flowfabric  JSON: {"format": "flowfabric.statistics/1", "num": examples, "data": digest of the data,
                "extractor": SHA-256 of the file of the network}

The files that pytorch-fid and guided-diffusion publish have ``mu`` and ``sigma`` alone. They are read too; their
network and their number of examples are then unknown.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, ValidationError

from netsim.foundation.arrays import oversize
from netsim.foundation.complaint import first_complaint
from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.evaluation.fidelity.gaussian import Gaussian

FORMAT = "flowfabric.statistics/1"
HEADER = "flowfabric"
REMEDY = "name a file that is not there yet to have it written, or one with mu and sigma"

ANEW = "delete it to have it computed anew, or name another file"


class _Header(Section):
    format: str
    num: PositiveInt
    data: str
    extractor: str


@dataclass(frozen=True, eq=False)
class Statistics:
    """Known statistics of the features of a set of examples.

    Attributes:
        gaussian: fitted to all of them.
        num: number of these examples; None if unknown.
        features: float32 [M, F], features of the first M examples; None if absent.
        data: digest of the data; None if unknown.
        extractor: SHA-256 of the file of the network; None if unknown.
    """

    gaussian: Gaussian
    num: int | None
    features: NDArray[np.float32] | None
    data: str | None
    extractor: str | None

    def write(self, path: Path) -> None:
        """Writes the statistics to a file, with the digests of data and network."""
        header = {"format": FORMAT, "num": self.num, "data": self.data, "extractor": self.extractor}
        arrays: dict[str, Any] = {"mu": self.gaussian.mean, "sigma": self.gaussian.covariance}
        if self.features is not None:
            arrays["features"] = self.features
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **{HEADER: np.array(json.dumps(header))})

    @classmethod
    def read(cls, path: Path, *, num_features: int, extractor: str) -> Statistics:
        """Reads a file; refuses one of another network than the extractor with this SHA-256."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if (problem := oversize(arrays.zip)) is not None:
                    raise ValueError(problem)
                stored = {name: arrays[name] for name in ("mu", "sigma", "features", HEADER) if name in arrays.files}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())
            raise Refusal(path, "statistics", f"cannot be read ({reason})", REMEDY) from error
        features = stored.get("features")
        for name, shape in (("mu", (num_features,)), ("sigma", (num_features,) * 2), ("features", None)):
            if name not in stored:
                if name == "features":
                    continue
                raise Refusal(path, name, "is missing", REMEDY)
            values = stored[name]
            if not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all():
                raise Refusal(path, name, "contains values that are not finite", REMEDY)
            wanted = (len(values), num_features) if shape is None else shape
            if values.shape != wanted:
                problem = f"has shape {values.shape} but the network gives {num_features} features"
                raise Refusal(path, name, problem, "give statistics of the same network")
        header = None if HEADER not in stored else _header(path, stored[HEADER])
        gaussian = Gaussian(stored["mu"].astype(np.float64), stored["sigma"].astype(np.float64))
        if header is None:
            return cls(gaussian, None, features, None, None)
        if header.extractor != extractor:
            raise Refusal(path, "extractor", f"is another network's ({header.extractor[:12]})", ANEW)
        return cls(gaussian, header.num, features, header.data, header.extractor)

    def check_made_of(self, path: Path, *, data: str, num: int) -> None:
        """Refuses statistics of other real examples than those with this digest and number."""
        if self.data is not None and self.data != data:
            raise Refusal(path, "data", f"are other real examples ({self.data[:12]})", ANEW)
        if self.num is not None and self.num != num:
            raise Refusal(path, "num", f"is {self.num} where {num} real examples are meant", ANEW)


def _header(path: Path, array: NDArray[Any]) -> _Header:
    try:
        document = parse_json(str(array))
    except ValueError as error:
        raise Refusal(path, HEADER, f"is not JSON ({error})", REMEDY) from error
    try:
        header = _Header.model_validate(document)
    except ValidationError as error:
        complaint = first_complaint(error, document)
        raise Refusal(path, f"{HEADER}.{complaint.field}", complaint.problem, REMEDY) from error
    if header.format != FORMAT:
        raise Refusal(path, f"{HEADER}.format", f"is {header.format}, and this version reads {FORMAT}", REMEDY)
    return header
