"""A path from a file, such as the kinetic-optimal path of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.flow.path.affine import without_noise
from trainer.flow.path.protocol import Coefficients
from trainer.flow.path.spline import UniformSpline
from trainer.flow.path.table import PathTable, digest, read_table


class TabulatedConfig(Section):
    """A path that the fit-path verb fitted to data."""

    kind: Literal["tabulated"] = "tabulated"
    path: Path
    """The file of the path."""
    digest: str
    """Digest of the file, so that a run continues on the same path; computed from the file if left out."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        """The section with what it leaves out taken from the file.

        Args:
            document: as it was written; whatever else is wrong with it is left for its validation.

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


class Tabulated:
    """The schedule of a table: its values and slopes at the times k / K, cubic polynomials in between.

    Args:
        table: weights and slopes of the path.
    """

    def __init__(self, table: PathTable) -> None:
        self._weights = UniformSpline(table.weights, table.slopes)

    def __call__(self, t: Tensor) -> Coefficients:
        """Returns the coefficients at times `t` [B]."""
        (a, b), (da, db) = (values.unbind(1) for values in self._weights(t))
        return without_noise(a, b, da=da, db=db)


def tabulated(config: TabulatedConfig) -> Tabulated:
    """The schedule of a configured file.

    Raises:
        Refusal: the file is no table, or its digest is not the configured one.
    """
    table, current = read_table(config.path), digest(config.path)
    if current != config.digest:
        problem = f"is {config.digest} but the file has {current}"
        raise Refusal(config.path, "digest", problem, "bring the file back, or leave the field out for another run")
    return Tabulated(table)
