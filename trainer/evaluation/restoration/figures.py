"""What restored pictures are worth, picture by picture and on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.sampling.requested_pictures import Pictures
from trainer.sampling.results_folder import ResultsFolder

FORMAT = "flowfabric.restoration/1"
MOST_NAMED = 10
"""Pictures that cannot be read, in a line."""
ROUNDING = 1e-12
"""A mean square below it is what float32 makes of 0."""


class Kinds(NamedTuple):
    """One figure of the pseudo-inverse, of the samples on average, and of their mean."""

    pseudo_inverse: float
    restored: float
    mean_of_samples: float


@dataclass(frozen=True)
class Figures:
    """Figures of N pictures, each restored S times.

    Attributes:
        residuals: float64 [N, S + 2] mean over the observed values of |A x - y|^2: of the pseudo-inverse, of each
            sample, and of the mean of the samples.
        errors: float64 [N, S + 2] mean over the values of |x - truth|^2, in the same order; None: nobody knows the
            truth.
        spreads: float64 [N] unbiased variance of the samples of a picture, on average over its values; 0 of one sample.
        evaluations: of the network for all samples of one picture.
        decoded_residual: mean squared residual of the samples as a decoder makes them, before they are brought into
            agreement; None: states are images.
        unreadable: pictures that could not be read, each with the reason.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    residuals: NDArray[np.float64]
    errors: NDArray[np.float64] | None
    spreads: NDArray[np.float64]
    evaluations: int
    decoded_residual: float | None
    unreadable: tuple[str, ...]

    @classmethod
    def of(cls, pictures: Pictures, results: ResultsFolder) -> Figures:
        """Reads the figures of a finished folder."""
        problems = [results.problem(name) for name in pictures.names]
        rows = tuple(row for row, problem in enumerate(problems) if not problem)
        names = tuple(pictures.names[row] for row in rows)
        wanted = ("residuals", "errors", "spread", "evaluations", "decoded_residuals")
        found = [results.read(name, wanted) for name in names]
        errors = np.stack([one["errors"].numpy() for one in found]) if "errors" in found[0] else None
        return cls(
            names,
            rows,
            np.stack([one["residuals"].numpy() for one in found]),
            errors,
            np.array([float(one["spread"]) for one in found]),
            int(found[0]["evaluations"]),
            float(np.mean([one["decoded_residuals"].numpy() for one in found]))
            if "decoded_residuals" in found[0]
            else None,
            tuple(problem for problem in problems if problem),
        )

    @property
    def samples(self) -> int:
        """Restored from each observation."""
        return self.residuals.shape[1] - 2

    @property
    def mean_error(self) -> Kinds | None:
        """Mean squared error over all pictures; None: nobody knows the truth."""
        return None if self.errors is None else kinds(self.errors)

    @property
    def mean_residual(self) -> Kinds:
        """Mean squared residual over all pictures."""
        return kinds(self.residuals)

    @property
    def variance_share(self) -> float | None:
        """Variance of the samples over the error of their mean, 1 where the truth could be one of them.

        None: there is one sample of each, or no truth.
        """
        if self.errors is None or self.samples == 1 or not (error := float(self.errors[:, -1].mean())):
            return None
        return (1 + 1 / self.samples) * float(self.spreads.mean()) / error

    @property
    def rows_told(self) -> tuple[str, ...]:
        """What the rows of a table are called; the mean of one sample is that sample."""
        names = ("pseudo-inverse", "a sample", "mean of the samples")
        return names if self.samples > 1 else names[:2]

    @property
    def left_out(self) -> str:
        """A line about the pictures that could not be read."""
        found, listed = len(self.unreadable), ", ".join(self.unreadable[:MOST_NAMED])
        more = f", and {found - MOST_NAMED} more, see results.json" if found > MOST_NAMED else ""
        total = found + len(self.names)
        return f"{found} of {total} pictures cannot be read and are left out: {listed}{more}"

    def to_dict(self) -> dict[str, Any]:
        """The figures as they are written to JSON."""
        own = [
            {
                "name": name,
                "residual": _listed(self.residuals[place]),
                **({} if self.errors is None else {"error": _listed(self.errors[place])}),
                "variance_of_samples": float(self.spreads[place]),
            }
            for place, name in enumerate(self.names)
        ]
        error = self.mean_error
        return {
            "means": {
                "residual": self.mean_residual._asdict(),
                **({} if error is None else {"error": error._asdict()}),
                "variance_of_samples": float(self.spreads.mean()),
                **({} if (share := self.variance_share) is None else {"variance_share": share}),
                **({} if self.decoded_residual is None else {"decoded_residual": self.decoded_residual}),
            },
            "evaluations": {"of_a_picture": self.evaluations, "of_a_sample": self.evaluations // self.samples},
            "pictures": own,
            "unreadable": list(self.unreadable),
        }


def kinds(values: NDArray[np.float64]) -> Kinds:
    """The means of figures [N, S + 2] over pictures and samples."""
    means = values.mean(0)
    return Kinds(float(means[0]), float(means[1:-1].mean()), float(means[-1]))


def _listed(values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    return {
        "pseudo_inverse": float(values[0]),
        "restored": [float(value) for value in values[1:-1]],
        "mean_of_samples": float(values[-1]),
    }


def power(value: float) -> str:
    """A small number for a person: 3.1e-05, 0, or less than what rounding makes of it."""
    if value == 0:
        return "0"
    return f"{value:.1e}" if value >= ROUNDING else f"< {ROUNDING:.0e}"
