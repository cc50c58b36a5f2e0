"""Distances of edits from their pictures, and how often they are of the target class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.run import RunConfig
from trainer.evaluation.judgement import real_examples
from trainer.evaluation.quality import ClassJudge
from trainer.flow.context import Space
from trainer.sampling.edit_request import EditPlan
from trainer.sampling.edits import Calls, PictureEdits

RANGE = 2.0
"""Difference between black, -1, and white, 1."""
Arrays = NDArray[np.float64]


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
        """The figures as JSON has them."""
        return {**decibels(self.error), "editability": self.editability}


@dataclass(frozen=True)
class Level:
    """The edits of one strength, or after one number of corrections.

    Attributes:
        classes: means over the edits to each class; None: no edit to that class is counted.
        held_error: error over the pixels that a mask holds, weighted by how much it holds each; None without a mask.
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
        source: figures of the pictures themselves in place of edits.
        fresh: figures of draws of the classes from fresh noise in place of edits.
        reconstruction: error of pictures drawn from their own noises under their own classes.
        decoder: error of pictures encoded and decoded again; 0 where states are pixels.
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
    """Arrays of each picture so far; rows: levels, then the picture itself, then fresh draws; columns: classes."""

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
        classes = judge.classes_of(images.reshape(-1, *images.shape[2:])).reshape(images.shape[:2])
        sums.hits.append((classes == np.array(plan.targets)).astype(np.float64))
    if plan.held is not None:
        weight = plan.held[0].double().numpy()
        whole = weight.sum() * images.shape[2]
        sums.held.append((squared * weight).sum(axis=(2, 3, 4)) / whole if whole else np.zeros(images.shape[:2]))


def _point(errors: Arrays, hits: Arrays, counted: Arrays, judge: ClassJudge | None) -> Point:
    return Point(_mean(errors, counted), None if judge is None else _mean(hits, counted))


def _of_class(errors: Arrays, hits: Arrays, counted: Arrays, judge: ClassJudge | None, k: int) -> Point | None:
    """Returns the point of the class in column k of edits [N, K]; None if no edit to it is counted."""
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


def decibels(error: float) -> dict[str, float | None]:
    """An error and its PSNR as they are written to JSON."""
    ratio = psnr(error)
    return {"error": error, "psnr_db": None if math.isinf(ratio) else ratio}
