"""The restore verb: pictures from observations of them, their figures, and what they cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.terminal import Terminal
from trainer.distributed.process.signals import end_with_launcher
from trainer.evaluation.study import (
    PAGE,
    RESULTS,
    Findings,
    Study,
    Work,
    carry_out,
    opened_pictures,
    print_table,
    weights_of,
)
from trainer.flow.inverse import Flair
from trainer.flow.sampler import Euler
from trainer.observe.measurement import figures_table
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.pictures import write_png
from trainer.sampling.requested_pictures import Pictures
from trainer.sampling.restoration import CALIBRATION, EXAMPLES, Restoration, measured_errors, read_errors
from trainer.sampling.restore_request import RestorePlan, RestoreRequest, built, planned, prior_weights
from trainer.sampling.results_folder import ResultsFolder
from trainer.sampling.trained import SharedFlow, restored_flow

FORMAT = "flowfabric.restoration/1"
RESTORED = "restored"
"""Folder of the restored pictures."""
SHOWN = 8
"""Pictures that the page shows."""
MOST_NAMED = 10
"""Pictures that cannot be read, in a line."""
ROUNDING = 1e-12
"""A mean square below it is what float32 makes of 0."""


def run(run_dir: Path, request: RestoreRequest, out: Path) -> int:
    """Restores pictures with the averaged weights of a run's newest intact checkpoint; 75 if stopped."""
    end_with_launcher()
    checkpoint, config = restored_flow(run_dir)
    plan = planned(request, config)
    pictures = opened_pictures(request.pictures, config, "pictures", plan.picture_shape)
    record = {
        "verb": "restore",
        "checkpoint": checkpoint.name,
        "weights": weights_of(checkpoint),
        "num_pictures": len(pictures),
        "request": request.model_dump(mode="json"),
    }
    return carry_out(
        RestorationStudy(
            run_dir=run_dir,
            checkpoint=checkpoint,
            sampler=Euler(),
            pictures=pictures,
            results=ResultsFolder(out, record),
            together=request.together,
            title=f"restoring {len(pictures)} pictures",
            plan=plan,
        )
    )


@dataclass(kw_only=True)
class RestorationStudy(Study):
    """Restorations of a run's pictures."""

    plan: RestorePlan

    def work(self, ranks: SharedFlow) -> Work:
        self._errors = self._calibrated(ranks)
        self._solver = built(self.plan.request.method, ranks.flow.parts.path, self._errors)
        restoration = Restoration(ranks.flow, self.plan, self.pictures, self._solver)
        kept = {} if self._errors is None else {CALIBRATION: {"examples": EXAMPLES, "errors": self._errors.tolist()}}
        return Work(partial(self._batch, restoration), kept)

    def _calibrated(self, ranks: SharedFlow) -> Tensor | None:
        """The errors that the weight is calibrated by, measured if no earlier start has; collective."""
        request, first = self.plan.request, ranks.launch.rank == 0
        if request.method.weight != "calibrated":
            return None
        kept = [read_errors(self.results.path) if first else None]
        dist.broadcast_object_list(kept)
        if kept[0] is not None:
            return kept[0]
        quiet = not first or not sys.stderr.isatty()
        with Terminal(stderr=True, quiet=quiet).status(f"calibrating the weight on {EXAMPLES} examples"):
            return measured_errors(
                ranks.flow,
                labelled=self.plan.labelled,
                guidance=self.plan.guidance,
                seed=request.seed,
                together=request.together * request.samples,
            )

    def _batch(self, restoration: Restoration, rows: Tensor) -> Callable[[], None]:
        restored = restoration.restored(rows)

        def write() -> None:
            for row, one in zip(rows.tolist(), restored, strict=True):
                name = self.pictures.names[row]
                for number, image in enumerate(one.arrays.get("restored", ()), start=1):
                    write_png(self.results.path / RESTORED / f"{name}.{number}.png", image.numpy())
                self.results.write(name, one.arrays, self.pictures.marks[row], problem=one.problem)

        return write

    def findings(self, flow: TrainedFlow) -> Findings:
        from trainer.evaluation.restoration_page import restoration_page  # matplotlib takes a second to import

        figures = RestorationFigures.of(self.pictures, self.results)
        prior = Prior.of(self.plan, self._solver, self._errors)
        shown = [self.results.read(name) for name in figures.names[:SHOWN]]
        name = self.run_dir.resolve().name
        page = restoration_page(self.plan, name, flow.checkpoint, prior, figures, shown)
        document = {"format": FORMAT, "made_by": self.results.record, **prior.to_dict(), **figures.to_dict()}
        return Findings(document, page, lambda: _show(self.results.path, self.plan, name, prior, figures))


class ByKind(NamedTuple):
    """A figure of the pseudo-inverse, of the samples on average, and of their mean."""

    pseudo_inverse: float
    restored: float
    mean_of_samples: float

    @classmethod
    def mean(cls, values: NDArray[np.float64]) -> ByKind:
        """Over pictures and samples of figures [N, S + 2]."""
        means = values.mean(0)
        return cls(float(means[0]), float(means[1:-1].mean()), float(means[-1]))

    def share(self, value: float) -> float:
        """A value in parts of that of the pseudo-inverse; 1 where that one is exact."""
        return value / self.pseudo_inverse if self.pseudo_inverse > 0 else 1.0


@dataclass(frozen=True)
class Prior:
    """How strongly the flow pulls at each noise level.

    Attributes:
        levels: noise levels, float64 [T].
        ratios: weights in parts of these, float64 [T].
        largest: of these parts, at a step.
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
        """As it is written to JSON."""
        ends = {"levels": self.levels.tolist(), "ratios": self.ratios.tolist()}
        weight = {"largest": self.largest, "vanished": self.vanished, **ends}
        return {"weight": weight, "calibration_evaluations": self.calibration}


VANISHED = (
    "The calibrated weight of the prior vanishes, because the states of the run vary as much as noise does, as latents "
    "of unit variance do. In its place every step goes the same share of the way, method.scale."
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
        found = [results.read(name, wanted) for name in names]

        def stacked(name: str) -> NDArray[np.float64] | None:
            return np.stack([one[name].numpy() for one in found]) if name in found[0] else None

        residuals, decoded = stacked("residuals"), stacked("decoded_residuals")
        assert residuals is not None
        return cls(
            names,
            residuals,
            stacked("errors"),
            np.array([float(one["spread"]) for one in found]),
            int(found[0]["evaluations"]),
            None if decoded is None else float(np.mean(decoded)),
            tuple(problem for problem in problems.values() if problem),
        )

    @property
    def samples(self) -> int:
        """Restored from each observation."""
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
        """Variance of the samples over the error of their mean, 1 where the truth could be one of them.

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
        found, listed = len(self.unreadable), ", ".join(self.unreadable[:MOST_NAMED])
        more = f", and {found - MOST_NAMED} more, see results.json" if found > MOST_NAMED else ""
        total = found + len(self.names)
        return f"{found} of {total} pictures cannot be read and are left out: {listed}{more}"

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
    """A small number for a person: 3.1e-05, 0, or less than what rounding makes of it."""
    if value == 0:
        return "0"
    return f"{value:.1e}" if value >= ROUNDING else f"< {ROUNDING:.0e}"


def _show(out: Path, plan: RestorePlan, name: str, prior: Prior, figures: RestorationFigures) -> None:
    """Prints the figures, and where everything is."""
    print(f"{plan.in_words}: {len(figures.names)} pictures, {figures.samples} samples of each, by {name}")
    error, residual = figures.mean_error, figures.mean_residual
    columns, rows = ["", "residual"], [[kind, power(residual[place])] for place, kind in enumerate(figures.kinds)]
    if error is not None:
        columns[1:1] = ["squared error", "of pseudo-inverse"]
        for place, row in enumerate(rows):
            row[1:1] = [f"{error[place]:.4f}", f"{error.share(error[place]):.3f}"]
    print_table(figures_table(columns, rows))
    print(f"largest weight of the prior: {prior.largest:.3f} of the noise level, which must be below 2")
    calibration = f", and {prior.calibration:,} of the calibration" if prior.calibration else ""
    print(
        f"network evaluations: {figures.evaluations:,} a picture, {figures.evaluations // figures.samples} a sample"
        f"{calibration}"
    )
    if figures.decoded_residual is not None:
        print(f"residual of the decoder, before what was observed is put back: {power(figures.decoded_residual)}")
    if prior.vanished:
        print(VANISHED)
    if figures.unreadable:
        print(figures.left_out, file=sys.stderr)
    print(f"{out / PAGE}: the pictures; {out / RESULTS}: the figures; {out / RESTORED}: a PNG for each sample")
