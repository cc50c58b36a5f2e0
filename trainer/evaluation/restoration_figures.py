"""Figures of restored pictures, one by one and on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer.flow.inverse import Flair
from trainer.sampling.requested_pictures import Pictures
from trainer.sampling.restoration import EXAMPLES
from trainer.sampling.restore_request import RestorePlan, prior_weights
from trainer.sampling.results_folder import ResultsFolder

MOST_NAMED = 10
"""Pictures that cannot be read, in a line."""
ROUNDING = 1e-12
"""Mean squares below it are rounding errors of float32."""


class ByKind(NamedTuple):
    """A figure of the pseudo-inverse, of the samples (on average), and of the mean of the samples."""

    pseudo_inverse: float
    restored: float
    mean_of_samples: float

    @classmethod
    def mean(cls, values: NDArray[np.float64]) -> ByKind:
        """Averages figures [N, S + 2] over pictures and samples."""
        means = values.mean(0)
        return cls(float(means[0]), float(means[1:-1].mean()), float(means[-1]))

    def share(self, value: float) -> float:
        """Returns a value relative to that of the pseudo-inverse; 1 where the pseudo-inverse is exact."""
        return value / self.pseudo_inverse if self.pseudo_inverse > 0 else 1.0


@dataclass(frozen=True)
class Prior:
    """Strength of the prior at each noise level.

    Attributes:
        levels: noise levels, float64 [T].
        ratios: weights relative to the noise levels, float64 [T].
        largest: largest of these ratios at a step.
        vanished: whether the calibrated weight vanishes, so that the request's scale takes its place.
        calibration: evaluations of the network that the calibration took; 0 without one.
    """

    levels: NDArray[np.float64]
    ratios: NDArray[np.float64]
    largest: float
    vanished: bool
    calibration: int

    @classmethod
    def of(cls, plan: RestorePlan, solver: Flair, errors: Tensor | None) -> Prior:
        levels, ratios = prior_weights(plan.request.method, errors)
        calibration = 0 if errors is None else len(errors) * EXAMPLES
        return cls(levels, ratios, solver.largest_ratio, solver.vanished, calibration)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        ends = {"levels": self.levels.tolist(), "ratios": self.ratios.tolist()}
        weight = {"largest": self.largest, "vanished": self.vanished, **ends}
        return {"weight": weight, "calibration_evaluations": self.calibration}


VANISHED = (
    "The calibrated weight of the prior vanishes, because the states of the run vary as much as noise does, as latents "
    "of unit variance do. In its place every step goes the same share of the path, method.scale."
)


@dataclass(frozen=True)
class RestorationFigures:
    """Figures of N pictures, each restored S times.

    Attributes:
        residuals: float64 [N, S + 2] mean over the observed values of |A x - y|^2: of the pseudo-inverse, of each
            sample, and of the mean of the samples.
        errors: float64 [N, S + 2] mean over the values of |x - truth|^2, in the same order; None if the truth is
            unknown.
        spreads: float64 [N] unbiased variance of the samples of a picture, on average over its values; 0 of one sample.
        evaluations: of the network for all samples of one picture.
        decoded_residual: mean squared residual of the samples as a decoder makes them, before they are brought into
            agreement; None where states are images.
        unreadable: pictures that could not be read, each with the reason.
    """

    names: tuple[str, ...]
    residuals: NDArray[np.float64]
    errors: NDArray[np.float64] | None
    spreads: NDArray[np.float64]
    evaluations: int
    decoded_residual: float | None
    unreadable: tuple[str, ...]

    @classmethod
    def of(cls, pictures: Pictures, results: ResultsFolder) -> RestorationFigures:
        """Reads the figures of a finished folder."""
        problems = {name: results.problem(name) for name in pictures.names}
        names = tuple(name for name, problem in problems.items() if not problem)
        wanted = ("residuals", "errors", "spread", "evaluations", "decoded_residuals")
        figures = [results.read(name, wanted) for name in names]

        def stacked(name: str) -> NDArray[np.float64] | None:
            return np.stack([one[name].numpy() for one in figures]) if name in figures[0] else None

        residuals, decoded = stacked("residuals"), stacked("decoded_residuals")
        assert residuals is not None
        return cls(
            names,
            residuals,
            stacked("errors"),
            np.array([float(one["spread"]) for one in figures]),
            int(figures[0]["evaluations"]),
            None if decoded is None else float(np.mean(decoded)),
            tuple(problem for problem in problems.values() if problem),
        )

    @property
    def samples(self) -> int:
        """Number of samples restored from each observation."""
        return self.residuals.shape[1] - 2

    @cached_property
    def mean_error(self) -> ByKind | None:
        """Mean squared error over all pictures; None if the truth is unknown."""
        return None if self.errors is None else ByKind.mean(self.errors)

    @cached_property
    def mean_residual(self) -> ByKind:
        """Mean squared residual over all pictures."""
        return ByKind.mean(self.residuals)

    @property
    def variance_share(self) -> float | None:
        """Variance of the samples over the error of their mean; 1 if the truth behaves like another sample.

        None with one sample of each, or without a truth.
        """
        if self.errors is None or self.samples == 1 or not (error := float(self.errors[:, -1].mean())):
            return None
        return (1 + 1 / self.samples) * float(self.spreads.mean()) / error

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the rows of a table; the mean of one sample is that sample."""
        names = ("pseudo-inverse", "a sample", "mean of the samples")
        return names if self.samples > 1 else names[:2]

    @property
    def left_out(self) -> str:
        """A line about the pictures that could not be read."""
        count, listed = len(self.unreadable), ", ".join(self.unreadable[:MOST_NAMED])
        more = f", and {count - MOST_NAMED} more, see results.json" if count > MOST_NAMED else ""
        total = count + len(self.names)
        return f"{count} of {total} pictures cannot be read and are left out: {listed}{more}"

    def to_dict(self) -> dict[str, Any]:
        """The figures as they are written to JSON."""
        pictures = [
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
            "pictures": pictures,
            "unreadable": list(self.unreadable),
        }


def _listed(values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    return {
        "pseudo_inverse": float(values[0]),
        "restored": [float(value) for value in values[1:-1]],
        "mean_of_samples": float(values[-1]),
    }


def power(value: float) -> str:
    """A small number as text, such as 3.1e-05, 0, or less than `ROUNDING`."""
    if value == 0:
        return "0"
    return f"{value:.1e}" if value >= ROUNDING else f"< {ROUNDING:.0e}"
