"""The edit verb: pictures shared out over the ranks, then figures, a file, a table and a page."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from netsim.foundation.digests import file_digest
from netsim.foundation.terminal import Terminal
from trainer.checkpoint.manifest import Manifest
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch
from trainer.distributed.process.signals import end_with_launcher
from trainer.evaluation.editing.figures import EditFigures, Level, Point, figures_of, judge_of, psnr
from trainer.evaluation.editing.page import edits_page
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.edit_request import EditPlan, EditRequest, planned
from trainer.sampling.edits import EDITED, Editor, PictureEdits, padded, write_pictures
from trainer.sampling.flow import build_space, check_latents
from trainer.sampling.requested_pictures import HeldOutPictures, Pictures, open_pictures
from trainer.sampling.results_folder import ResultsFolder, work_through
from trainer.sampling.trained import restored_flow, shared

FORMAT = "flowfabric.edits/1"
RESULTS = "results.json"


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
        "levels": [_level(one, plan) for one in figures.levels],
        "floors": {
            "source": _point(figures.source),
            "fresh": _point(figures.fresh),
            "reconstruction": _error(figures.reconstruction),
            "decoder": _error(figures.decoder),
            "judge_accuracy": figures.judged,
        },
        "inversion": {"errors": figures.inversion_errors},
        "corrections": {"errors": figures.edit_errors},
        "calls": asdict(figures.calls) | {"levels": list(figures.calls.levels)},
    }


def _level(one: Level, plan: EditPlan) -> dict[str, Any]:
    classes = {
        name or "all": None if point is None else _point(point)
        for name, point in zip(plan.names, one.classes, strict=True)
    }
    return {"level": one.level, **_point(one.all), "held_error": one.held_error, "calls": one.calls, "classes": classes}


def _point(one: Point) -> dict[str, float | None]:
    return {**_error(one.error), "editability": one.editability}


def _error(error: float) -> dict[str, float | None]:
    ratio = psnr(error)
    return {"error": error, "psnr_db": None if math.isinf(ratio) else ratio}


def edits_table(figures: EditFigures, plan: EditPlan, config: RunConfig) -> Table:
    """A row for each level, and rows for the pictures themselves and for fresh draws."""
    judged = figures.source.editability is not None
    title = f"edits of {figures.num} pictures, guidance {plan.guidance:g}" + (
        f", to {len(plan.targets)} class{'es' * (len(plan.targets) > 1)}" if config.data.num_classes else ""
    )
    shown = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
    held = plan.held is not None
    columns = [plan.level_name, "error", "PSNR in dB", *(["error held"] if held else [])]
    columns += [*(["of the class"] if judged else []), "network calls"]
    for place, heading in enumerate(columns):
        shown.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)

    def row(name: str, point: Point, held_error: float | None, calls: int, *, last: bool = False) -> None:
        cells = [name, f"{point.error:.4f}", f"{point.psnr:.1f}"]
        cells += ["" if held_error is None else f"{held_error:.2g}"] if held else []
        cells += [f"{point.editability:.1%}"] if point.editability is not None else []
        shown.add_row(*cells, f"{calls:,}", end_section=last)

    for place, one in enumerate(figures.levels, start=1):
        calls = figures.calls.inversion + one.calls
        row(f"{one.level:g}", one.all, one.held_error, calls, last=place == len(figures.levels))
    row("the picture", figures.source, None, 0)
    row("a fresh draw", figures.fresh, None, figures.calls.drawing)
    return shown


PAGE = "index.html"
REQUEST_FORMAT = "flowfabric.edit/1"
WIDTH = 100
"""Of what is printed into a file, in characters."""
ALIKE = 4
"""Batches hold a multiple of so many pictures: a processor's kernels treat what is left over by other instructions,
which round otherwise."""
SHOWN = 6
"""Pictures whose edits the page shows."""


def run(run_dir: Path, request: EditRequest, out: Path) -> int:
    """Edits pictures with the averaged weights of a run; completes a folder that was not finished; 75 if stopped."""
    end_with_launcher()
    folder, config = restored_flow(run_dir)
    plan = planned(request, config, labelled=isinstance(request.pictures, HeldOutPictures))
    check_latents(config)
    device = Launch.from_environment().device
    pictures = open_pictures(request.pictures, config, build_space(config), device=device)
    pictures.check_some_readable("pictures.path")
    made_by = {"run": str(run_dir), "weights": Manifest.read(folder).weights_sha256()}
    results = ResultsFolder(out, {"format": REQUEST_FORMAT, **made_by, **_asked(request)})
    results.check()
    with shared(run_dir, plan.sampler) as ranks:
        flow, launch = ranks.flow, ranks.launch
        if flow.checkpoint != folder.name:
            raise ValueError(f"run_dir: {run_dir} has saved {flow.checkpoint} meanwhile; start again")
        if launch.rank == 0:
            results.begin()
        dist.barrier()
        together = -(-min(request.together, len(pictures)) // ALIKE) * ALIKE
        do = _work(flow, plan, pictures, results, together)
        code = work_through(
            pictures,
            results,
            do,
            together=together,
            model=flow.model,
            launch=launch,
            title=f"editing {len(pictures)} pictures",
        )
        if code:
            return code
        if launch.rank == 0:
            _conclude(flow, plan, pictures, results, made_by)
        dist.barrier()
    return 0


def _asked(request: EditRequest) -> dict[str, Any]:
    """What decides the edits of a picture: neither how many there are nor how many pass through the network at once."""
    document = request.model_dump(mode="json", exclude={"together": True, "pictures": {"num", "first"}})
    mask = None if request.mask is None else file_digest(request.mask)[:16]
    return {"request": document, "mask_sha256": mask}


def _work(
    flow: TrainedFlow, plan: EditPlan, pictures: Pictures, results: ResultsFolder, together: int
) -> Callable[[Tensor], Callable[[], None]]:
    """What edits a batch of pictures and returns what writes it."""
    editor, seed = Editor(flow, plan), plan.request.seed

    def do(rows: Tensor) -> Callable[[], None]:
        batch = padded(rows, together)
        images, reasons = pictures.readable(batch)
        labels = None if pictures.labels is None else pictures.labels[batch]
        keys = (pictures.keys(batch, purpose, seed=seed) for purpose in ("inversion", "fresh"))
        edits = editor.edits(images, plan.sources(labels, together), *keys)

        def write() -> None:
            for place, row in enumerate(rows.tolist()):
                name, mark, problem = pictures.names[row], pictures.marks[row], reasons.get(row, "")
                if problem:
                    results.write(name, {}, mark, problem=problem)
                    continue
                own = PictureEdits.of(images, edits, place)
                write_pictures(results.path, name, own, plan)
                results.write(name, own.arrays(), mark)

        return write

    return do


@torch.no_grad()
def _conclude(
    flow: TrainedFlow, plan: EditPlan, pictures: Pictures, results: ResultsFolder, made_by: dict[str, Any]
) -> None:
    """Measures the edits, writes the file and the page, and prints what there is."""
    left_out = {name: problem for name in pictures.names if (problem := results.problem(name))}
    rows = [row for row, name in enumerate(pictures.names) if name not in left_out]

    def edits(chosen: list[int]) -> Iterator[PictureEdits]:
        return (PictureEdits.from_arrays(results.read(pictures.names[row])) for row in chosen)

    labels = _labels(flow, plan, pictures)
    with Terminal(stderr=True, quiet=not sys.stderr.isatty()).status(f"{results.path}: measuring the edits"):
        judge = judge_of(flow.config, flow.parts.space)
        figures = figures_of(edits(rows), [labels[row] for row in rows], plan, judge)
    made_by = {**made_by, "checkpoint": flow.checkpoint, **results.record["request"]}
    results.write_json(RESULTS, results_document(figures, plan, made_by, left_out))
    step = max(1, len(rows) // SHOWN)
    shown = rows[::step][:SHOWN]
    named = [(pictures.names[row], labels[row]) for row in shown]
    page = edits_page(figures, plan, flow.config, list(zip(named, edits(shown), strict=True)), made_by)
    results.write_text(PAGE, page)
    Terminal(width=None if sys.stdout.isatty() else WIDTH).print(edits_table(figures, plan, flow.config))
    for problem in left_out.values():
        print(f"{results.path}: left out {problem}")
    count = len(rows) * len(plan.levels) * len(plan.targets)
    print(f"{results.path / EDITED}: {count:,} edits of {len(rows)} pictures by {flow.checkpoint}")
    print(f"{results.path / PAGE}: all of it as a page; {RESULTS} beside it holds the figures")


def _labels(flow: TrainedFlow, plan: EditPlan, pictures: Pictures) -> list[int | None]:
    """The class of each picture; None where it is not known."""
    classes = flow.config.data.num_classes
    numbers = torch.full((len(pictures),), plan.source or 0) if pictures.labels is None else pictures.labels
    known = classes > 0 and (pictures.labels is not None or plan.source not in (None, classes))
    return [number if known and number < classes else None for number in numbers.tolist()]
