"""The restore verb: pictures from observations of them, their figures and costs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from netsim.foundation.terminal import Terminal
from trainer.distributed.process.signals import end_with_launcher
from trainer.evaluation.restoration_figures import VANISHED, Prior, RestorationFigures, power
from trainer.evaluation.restoration_page import restoration_page
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
from trainer.flow.sampler import Euler
from trainer.observe.measurement import figures_table
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.pictures import write_png
from trainer.sampling.restoration import CALIBRATION, EXAMPLES, Restoration, measured_errors, read_errors
from trainer.sampling.restore_request import RestorePlan, RestoreRequest, built, planned
from trainer.sampling.results_folder import ResultsFolder
from trainer.sampling.trained import SharedFlow, restored_flow

FORMAT = "flowfabric.restoration/1"
RESTORED = "restored"
"""Folder of the restored pictures."""
SHOWN = 8
"""Pictures that the page shows."""


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
        figures = RestorationFigures.of(self.pictures, self.results)
        prior = Prior.of(self.plan, self._solver, self._errors)
        shown = [self.results.read(name) for name in figures.names[:SHOWN]]
        name = self.run_dir.resolve().name
        page = restoration_page(self.plan, name, flow.checkpoint, prior, figures, shown)
        document = {"format": FORMAT, "made_by": self.results.record, **prior.to_dict(), **figures.to_dict()}
        return Findings(document, page, lambda: _show(self.results.path, self.plan, name, prior, figures))


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
