"""The edit verb: edits of pictures to other classes, their distance from the pictures, and the share that succeed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from netsim.foundation.files import file_digest
from netsim.foundation.terminal import Terminal
from trainer.config.run import RunConfig
from trainer.distributed.process.signals import end_with_launcher
from trainer.evaluation.editing_figures import EditFigures, Point, decibels, figures_of, judge_of
from trainer.evaluation.editing_page import edits_page
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
from trainer.observe.measurement import figures_table
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.edit_request import EditPlan, EditRequest, planned
from trainer.sampling.edits import EDITED, Editor, PictureEdits, padded, write_pictures
from trainer.sampling.requested_pictures import HeldOutPictures
from trainer.sampling.results_folder import ResultsFolder
from trainer.sampling.trained import SharedFlow, restored_flow

FORMAT = "flowfabric.edits/1"
REQUEST_FORMAT = "flowfabric.edit/1"
ALIKE = 4
"""Batches hold a multiple of this number of pictures: kernels compute a remainder by other instructions, which round
differently."""
SHOWN = 6
"""Pictures whose edits the page shows."""


def run(run_dir: Path, request: EditRequest, out: Path) -> int:
    """Edits pictures with the averaged weights of a run; completes a folder that was not finished; 75 if stopped."""
    end_with_launcher()
    checkpoint, config = restored_flow(run_dir)
    plan = planned(request, config, labelled=isinstance(request.pictures, HeldOutPictures))
    pictures = opened_pictures(request.pictures, config, "pictures.path")
    mask = None if request.mask is None else file_digest(request.mask)[:16]
    record = {
        "format": REQUEST_FORMAT,
        "run": str(run_dir),
        "weights": weights_of(checkpoint),
        # neither the number of pictures nor of those that pass through the network at once decides an edit
        "request": request.model_dump(mode="json", exclude={"together": True, "pictures": {"num", "first"}}),
        "mask_sha256": mask,
    }
    return carry_out(
        EditStudy(
            run_dir=run_dir,
            checkpoint=checkpoint,
            sampler=plan.sampler,
            pictures=pictures,
            results=ResultsFolder(out, record),
            together=-(-min(request.together, len(pictures)) // ALIKE) * ALIKE,
            title=f"editing {len(pictures)} pictures",
            plan=plan,
        )
    )


@dataclass(kw_only=True)
class EditStudy(Study):
    """Edits of a run's pictures."""

    plan: EditPlan

    def work(self, ranks: SharedFlow) -> Work:
        return Work(partial(self._batch, Editor(ranks.flow, self.plan)))

    def _batch(self, editor: Editor, rows: Tensor) -> Callable[[], None]:
        plan, pictures = self.plan, self.pictures
        batch = padded(rows, self.together)
        images, reasons = pictures.readable(batch)
        labels = None if pictures.labels is None else pictures.labels[batch]
        keys = (pictures.keys(batch, purpose, seed=plan.request.seed) for purpose in ("inversion", "fresh"))
        edits = editor.edits(images, plan.sources(labels, self.together), *keys)

        def write() -> None:
            for place, row in enumerate(rows.tolist()):
                name, mark = pictures.names[row], pictures.marks[row]
                if row in reasons:
                    self.results.write(name, {}, mark, problem=reasons[row])
                    continue
                edited = PictureEdits.of(images, edits, place)
                write_pictures(self.results.path, name, edited, plan)
                self.results.write(name, edited.arrays(), mark)

        return write

    @torch.no_grad()
    def findings(self, flow: TrainedFlow) -> Findings:
        plan, results, names = self.plan, self.results, self.pictures.names
        left_out = {name: problem for name in names if (problem := results.problem(name))}
        rows = [row for row, name in enumerate(names) if name not in left_out]

        def edits(chosen: list[int]) -> Iterator[PictureEdits]:
            return (PictureEdits.from_arrays(results.read(names[row])) for row in chosen)

        labels = self._labels(flow)
        with Terminal(stderr=True, quiet=not sys.stderr.isatty()).status(f"{results.path}: measuring the edits"):
            judge = judge_of(flow.config, flow.parts.space)
            figures = figures_of(edits(rows), [labels[row] for row in rows], plan, judge)
        record = results.record
        made_by = {"run": record["run"], "weights": record["weights"], "checkpoint": flow.checkpoint}
        document = results_document(figures, plan, {**made_by, **record["request"]}, left_out)
        shown = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
        named = [(names[row], labels[row]) for row in shown]
        run = self.run_dir.resolve().name
        page = edits_page(
            figures, plan, flow.config, list(zip(named, edits(shown), strict=True)), run=run, checkpoint=flow.checkpoint
        )

        def show() -> None:
            print_table(edits_table(figures, plan, flow.config))
            for problem in left_out.values():
                print(f"{results.path}: left out {problem}")
            count = len(rows) * len(plan.levels) * len(plan.targets)
            print(f"{results.path / EDITED}: {count:,} edits of {len(rows)} pictures by {flow.checkpoint}")
            print(f"{results.path / PAGE}: all of it as a page; {RESULTS} beside it holds the figures")

        return Findings(document, page, show)

    def _labels(self, flow: TrainedFlow) -> list[int | None]:
        """The class of each picture; None if unknown."""
        classes, labels, source = flow.config.data.num_classes, self.pictures.labels, self.plan.source
        numbers = torch.full((len(self.pictures),), source or 0) if labels is None else labels
        known = classes > 0 and (labels is not None or source not in (None, classes))
        return [number if known and number < classes else None for number in numbers.tolist()]


def results_document(
    figures: EditFigures, plan: EditPlan, made_by: dict[str, Any], left_out: dict[str, str]
) -> dict[str, Any]:
    """The figures as they are written to JSON; nothing in them depends on ranks or on time."""
    return {
        "format": FORMAT,
        "made_by": made_by,
        "pictures": figures.num,
        "left_out": left_out,
        "level": plan.level_name,
        "levels": [
            {
                "level": one.level,
                **one.all.to_dict(),
                "held_error": one.held_error,
                "calls": one.calls,
                "classes": {
                    name or "all": point and point.to_dict()
                    for name, point in zip(plan.names, one.classes, strict=True)
                },
            }
            for one in figures.levels
        ],
        "floors": {
            "source": figures.source.to_dict(),
            "fresh": figures.fresh.to_dict(),
            "reconstruction": decibels(figures.reconstruction),
            "decoder": decibels(figures.decoder),
            "judge_accuracy": figures.judged,
        },
        "inversion": {"errors": figures.inversion_errors},
        "corrections": {"errors": figures.edit_errors},
        "calls": asdict(figures.calls) | {"levels": list(figures.calls.levels)},
    }


def edits_table(figures: EditFigures, plan: EditPlan, config: RunConfig) -> Table:
    """A row for each level, and rows for the pictures themselves and for fresh draws."""
    judged, held = figures.source.editability is not None, plan.held is not None
    title = f"edits of {figures.num} pictures, guidance {plan.guidance:g}" + (
        f", to {len(plan.targets)} class{'es' * (len(plan.targets) > 1)}" if config.data.num_classes else ""
    )
    columns = [plan.level_name, "error", "PSNR in dB", *(["error held"] if held else [])]
    columns += [*(["of the class"] if judged else []), "network calls"]

    def row(name: str, point: Point, held_error: float | None, calls: int) -> list[str]:
        cells = [name, f"{point.error:.4f}", f"{point.psnr:.1f}"]
        cells += ["" if held_error is None else f"{held_error:.2g}"] if held else []
        cells += [f"{point.editability:.1%}"] if point.editability is not None else []
        return [*cells, f"{calls:,}"]

    rows = [
        row(f"{one.level:g}", one.all, one.held_error, figures.calls.inversion + one.calls) for one in figures.levels
    ]
    rows.append(row("the picture", figures.source, None, 0))
    rows.append(row("a fresh draw", figures.fresh, None, figures.calls.drawing))
    return figures_table(columns, rows, title=title, ends=[len(figures.levels) - 1])
