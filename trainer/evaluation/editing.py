"""The edit verb: pictures of other classes, their distance from the pictures, and how often they are of their class."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from netsim.foundation.digests import file_digest
from netsim.foundation.terminal import Terminal
from trainer.config.run import RunConfig
from trainer.distributed.process.signals import end_with_launcher
from trainer.evaluation.judgement import real_examples
from trainer.evaluation.quality import ClassJudge
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
from trainer.flow.context import Space
from trainer.observe.measurement import figures_table
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.edit_request import EditPlan, EditRequest, planned
from trainer.sampling.edits import EDITED, Calls, Editor, PictureEdits, padded, write_pictures
from trainer.sampling.requested_pictures import HeldOutPictures
from trainer.sampling.results_folder import ResultsFolder
from trainer.sampling.trained import SharedFlow, restored_flow

FORMAT = "flowfabric.edits/1"
REQUEST_FORMAT = "flowfabric.edit/1"
ALIKE = 4
"""Batches hold a multiple of so many pictures: a processor's kernels treat what is left over by other instructions,
which round otherwise."""
SHOWN = 6
"""Pictures whose edits the page shows."""
RANGE = 2.0
"""Between black, -1, and white, 1."""
Arrays = NDArray[np.float64]


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
        from trainer.evaluation.editing_page import edits_page  # matplotlib takes a second to import

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


@dataclass(frozen=True)
class Point:
    """A place on the plane of error and editability.

    Attributes:
        error: mean squared difference to the picture, over edits and values.
        editability: share of the edits that a classifier of real examples takes for the target class; None: the run
            has fewer than two classes.
    """

    error: float
    editability: float | None

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the error in dB; infinite where there is none."""
        return psnr(self.error)

    def to_dict(self) -> dict[str, float | None]:
        """As it is written to JSON."""
        return {**_decibels(self.error), "editability": self.editability}


@dataclass(frozen=True)
class Level:
    """The edits of one strength, or after one number of corrections.

    Attributes:
        classes: means over the edits to each class; None: no edit to that class is counted.
        held_error: error over what a mask holds, each pixel by how much it is held; None without a mask.
        calls: of the network for one edit, from the noise of its picture.
    """

    level: float
    all: Point
    classes: tuple[Point | None, ...]
    held_error: float | None
    calls: int


@dataclass(frozen=True)
class EditFigures:
    """Figures of the edits of N pictures.

    An edit to the picture's own class is not counted, unless no others are requested.

    Attributes:
        source: the pictures themselves in place of the edits.
        fresh: draws of the classes from fresh noise in their place.
        reconstruction: error of what a picture's own class draws from its noise.
        decoder: error of what the decoder makes of a picture's states; 0 where states are pixels.
        judged: share of the pictures that the classifier takes for their own class; None if unknown.
        inversion_errors: mean squared distance of states, of each iterate of the inversion; None if it has none.
        edit_errors: the same of each corrected noise under the classes; None if noises are not corrected.
        calls: of the network for one picture.
    """

    num: int
    levels: tuple[Level, ...]
    source: Point
    fresh: Point
    reconstruction: float
    decoder: float
    judged: float | None
    inversion_errors: tuple[float, ...] | None
    edit_errors: tuple[float, ...] | None
    calls: Calls


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of values from -1 to 1; infinite at 0."""
    return math.inf if error == 0 else 10 * math.log10(RANGE**2 / error)


def judge_of(config: RunConfig, space: Space) -> ClassJudge | None:
    """A classifier of the real examples of a run; None where the run has not two classes."""
    if config.data.num_classes < 2:
        return None
    real, labels = real_examples(config, space)
    if labels is None or len(labels.unique()) < 2:
        return None
    return ClassJudge(real.numpy(), labels.numpy())


@dataclass
class _Sums:
    """Of all pictures so far; rows are levels, then the pictures themselves, then fresh draws; columns classes."""

    errors: list[Arrays] = field(default_factory=list)
    hits: list[Arrays] = field(default_factory=list)
    counted: list[Arrays] = field(default_factory=list)
    held: list[Arrays] = field(default_factory=list)


def figures_of(
    edits: Iterable[PictureEdits], labels: Sequence[int | None], plan: EditPlan, judge: ClassJudge | None
) -> EditFigures:
    """Measures edits, one picture after the other."""
    sums, others, right, last = _Sums(), list[tuple[float, float]](), list[bool](), None
    inverted, corrected = list[Tensor](), list[Tensor]()
    for one, label in zip(edits, labels, strict=True):
        _add(sums, one, label, plan, judge)
        others.append((_squared(one.reconstructed, one.picture), _squared(one.coded, one.picture)))
        if judge is not None and label is not None:
            right.append(bool(judge.classes_of(one.picture[None].numpy())[0] == label))
        inverted += [] if one.inversion_errors is None else [one.inversion_errors]
        corrected += [] if one.edit_errors is None else [one.edit_errors.mean(0)]
        last = one
    assert last is not None
    errors, hits, counted = (np.stack(part) for part in (sums.errors, sums.hits, sums.counted))
    if not counted.any():
        counted = np.ones_like(counted)
    held = np.stack(sums.held) if sums.held else None
    points = [_point(errors[:, row], hits[:, row], counted, judge) for row in range(errors.shape[1])]
    levels = tuple(
        Level(
            level,
            points[row],
            tuple(_of_class(errors[:, row], hits[:, row], counted, judge, k) for k in range(len(plan.targets))),
            None if held is None else _mean(held[:, row], counted),
            calls,
        )
        for row, (level, calls) in enumerate(zip(plan.levels, last.calls.levels, strict=True))
    )
    reconstruction, decoder = np.mean(others, axis=0).tolist()
    return EditFigures(
        num=len(errors),
        levels=levels,
        source=points[-2],
        fresh=points[-1],
        reconstruction=reconstruction,
        decoder=decoder,
        judged=float(np.mean(right)) if right else None,
        inversion_errors=_means(inverted),
        edit_errors=_means(corrected),
        calls=last.calls,
    )


def _add(sums: _Sums, one: PictureEdits, label: int | None, plan: EditPlan, judge: ClassJudge | None) -> None:
    count = len(plan.targets)
    same = one.picture.expand(1, count, *one.picture.shape)
    images = np.concatenate([part.numpy() for part in (one.edited, same, one.fresh[None])])
    squared = (images.astype(np.float64) - one.picture.numpy()) ** 2
    sums.errors.append(squared.mean(axis=(2, 3, 4)))
    sums.counted.append(np.array([target != label for target in plan.targets], dtype=np.float64))
    if judge is None:
        sums.hits.append(np.zeros(images.shape[:2]))
    else:
        found = judge.classes_of(images.reshape(-1, *images.shape[2:])).reshape(images.shape[:2])
        sums.hits.append((found == np.array(plan.targets)).astype(np.float64))
    if plan.held is not None:
        weight = plan.held[0].double().numpy()
        whole = weight.sum() * images.shape[2]
        sums.held.append((squared * weight).sum(axis=(2, 3, 4)) / whole if whole else np.zeros(images.shape[:2]))


def _point(errors: Arrays, hits: Arrays, counted: Arrays, judge: ClassJudge | None) -> Point:
    return Point(_mean(errors, counted), None if judge is None else _mean(hits, counted))


def _of_class(errors: Arrays, hits: Arrays, counted: Arrays, judge: ClassJudge | None, k: int) -> Point | None:
    """The place of one class, whose edits are a column of [N, K]."""
    if not counted[:, k].any():
        return None
    return _point(errors[:, k], hits[:, k], counted[:, k], judge)


def _mean(values: Arrays, counted: Arrays) -> float:
    return float((values * counted).sum() / counted.sum())


def _means(rows: Sequence[Tensor]) -> tuple[float, ...] | None:
    if not rows:
        return None
    return tuple(np.mean([row.double().numpy() for row in rows], axis=0).tolist())


def _squared(images: Tensor, picture: Tensor) -> float:
    return float((images - picture).double().square().mean())


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
            "reconstruction": _decibels(figures.reconstruction),
            "decoder": _decibels(figures.decoder),
            "judge_accuracy": figures.judged,
        },
        "inversion": {"errors": figures.inversion_errors},
        "corrections": {"errors": figures.edit_errors},
        "calls": asdict(figures.calls) | {"levels": list(figures.calls.levels)},
    }


def _decibels(error: float) -> dict[str, float | None]:
    ratio = psnr(error)
    return {"error": error, "psnr_db": None if math.isinf(ratio) else ratio}


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
