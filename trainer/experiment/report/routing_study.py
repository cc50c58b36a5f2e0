"""A study of routing that knows distances: what it saves between ranks and what that costs in loss.

``python -m tests.benchmarks.placement_aware_routing`` writes the file.
"""

from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moe.files import FileError
from moe.report.page import Block, Facts, Figure, Section, Table
from moe.validation.complaint import first_complaint
from moe.validation.document import parse_json
from trainer.experiment.report.routing_study_figure import Curve, Panel, Point, routing_study_figure

_REMEDY = "write it with `python -m tests.benchmarks.placement_aware_routing --out DIR`"
_Name = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(gt=0, strict=True)]
_Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
BYTES_PER_MB = 1e6


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudiedRun(_Record):
    """One training.

    Attributes:
        strength: hop cost of the sparse-OT router in standard deviations of the logits; None: the rival router.
        placed: whether the experts were placed; False: contiguous.
        seed: of the run.
        held_out_loss: after the last step, with the averaged weights.
        cross_rank_bytes: bytes that left their rank for experts and routers in a step, mean of the recorded steps.
    """

    strength: _NotNegative | None
    placed: bool
    seed: Annotated[int, Field(ge=0, strict=True)]
    held_out_loss: _Finite
    cross_rank_bytes: _NotNegative


class Experiment(_Record):
    """All trainings on one data set.

    Attributes:
        name: of the data set.
        config: configuration that the runs began from.
        dispatch: dispatch mode of the runs.
        steps: optimiser steps of a run.
        ranks: that share the experts.
        rival: what the rival router is.
        runs: every strength, and the rival, with every seed, placed and not.
    """

    name: _Name
    config: _Name
    dispatch: Literal["home", "copies", "coherent", "hierarchical"]
    steps: _Count
    ranks: _Count
    rival: _Name
    runs: tuple[StudiedRun, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        seeds = sorted({run.seed for run in self.runs})
        if len(seeds) < 2:
            raise ValueError(f"runs: {len(seeds)} seeds have no spread to compare a loss with; give two or more")
        seen = Counter((run.strength, run.placed, run.seed) for run in self.runs)
        for strength in (*sorted({0.0, *self.strengths}), None):
            for placed in (False, True):
                for seed in seeds:
                    times = seen[strength, placed, seed]
                    if times != 1:
                        which = "the rival" if strength is None else f"strength {strength:g}"
                        where = "placed" if placed else "contiguous"
                        raise ValueError(f"runs: {which}, {where}, seed {seed} occurs {times} times; give it once")
        return self

    @property
    def strengths(self) -> list[float]:
        """The hop costs, ascending; the first is 0."""
        return sorted({run.strength for run in self.runs if run.strength is not None})

    def of(self, strength: float | None, placed: bool) -> list[StudiedRun]:
        """The runs with a strength, by seed; None: those of the rival."""
        chosen = (run for run in self.runs if run.strength == strength and run.placed == placed)
        return sorted(chosen, key=lambda run: run.seed)

    def loss(self, strength: float | None, placed: bool) -> float:
        """Mean held-out loss over the seeds."""
        return fmean(run.held_out_loss for run in self.of(strength, placed))

    def bytes(self, strength: float | None, placed: bool) -> float:
        """Mean bytes between ranks over the seeds."""
        return fmean(run.cross_rank_bytes for run in self.of(strength, placed))

    def spread(self, placed: bool) -> float:
        """Standard deviation of the held-out loss over the seeds without a hop cost."""
        return stdev(run.held_out_loss for run in self.of(0.0, placed))

    def rises(self, strength: float | None, placed: bool) -> list[float]:
        """How much each seed's loss lies above its loss without a hop cost."""
        pairs = zip(self.of(strength, placed), self.of(0.0, placed), strict=True)
        return [run.held_out_loss - without.held_out_loss for run, without in pairs]

    def is_free(self, strength: float) -> bool:
        """Whether the loss rises by nothing measurable, with placement and without.

        That is by no more than the spread of the seeds, and by no more than twice the standard error of the rise.
        """
        for placed in (False, True):
            rises = self.rises(strength, placed)
            if fmean(rises) > min(self.spread(placed), 2 * stdev(rises) / len(rises) ** 0.5):
                return False
        return True


class RoutingStudy(_Record):
    """The whole file.

    Attributes:
        format: name and version of the format.
        experiments: one for each data set.
    """

    format: Literal["flowfabric.routing_study/1"]
    experiments: tuple[Experiment, ...]

    @model_validator(mode="after")
    def _has_experiments(self) -> Self:
        if not self.experiments:
            raise ValueError("experiments: there are none; give at least one")
        return self

    @classmethod
    def read(cls, path: Path) -> "RoutingStudy":
        """Reads a file.

        Raises:
            FileError: the file is missing or malformed.
        """
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FileError(path, "file", f"cannot be read ({error.strerror})", _REMEDY) from error
        except ValueError as error:
            raise FileError(path, "document", f"is not JSON ({error})", _REMEDY) from error
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            found = first_complaint(error, document)
            raise FileError(path, found.field, found.problem, found.remedy or _REMEDY) from error

    @property
    def free_strength(self) -> float:
        """The largest strength that costs nothing measurable on any data set, nor does any smaller one."""
        free = 0.0
        for strength in sorted({strength for one in self.experiments for strength in one.strengths}):
            if not all(one.is_free(strength) for one in self.experiments if strength in one.strengths):
                break
            free = strength
        return free


def routing_study_section(path: Path) -> Section:
    """The section of a page about a study.

    Args:
        path: the file.

    Returns:
        The trade-off as a picture, and its figures.

    Raises:
        FileError: the file is missing or malformed.
    """
    study = RoutingStudy.read(path)
    free = study.free_strength
    title = (
        f"Routing that avoids hops is free up to strength {free:g}"
        if free
        else "No hop cost of the router is free in these runs"
    )
    caption = (
        "Lower is better on both axes. A line joins the hop costs of sparse-OT routing, in standard deviations of the "
        "logits; faint points are seeds. The band is the loss without hop cost, its mean and the standard deviation of "
        "the seeds. Diamonds: top-k routing with an auxiliary loss."
    )
    text = (
        "The sparse-OT router pays for every hop to an expert's rank. A strength costs nothing measurable if the mean "
        "loss rises by no more than the standard deviation of the seeds and twice the standard error of the rise, with "
        "placement and without, on every data set. Bytes are compared with contiguous experts and no hop cost."
    )
    blocks: list[Block] = [
        Facts([fact for one in study.experiments for fact in _facts(one, free)]),
        Figure(routing_study_figure([_panel(one, free) for one in study.experiments]), caption),
        *(_table(one, free) for one in study.experiments),
    ]
    return Section(title, blocks, text)


def _facts(one: Experiment, free: float) -> list[tuple[str, str, str]]:
    without = one.bytes(0.0, False)
    facts = []
    for placed, where in ((False, "contiguous"), (True, "placed")):
        change = one.bytes(free, placed) / without - 1
        rise = fmean(one.rises(free, placed))
        facts.append((f"Bytes, {one.name}, {where}", f"{change:+.0%}", f"strength {free:g}; loss {rise:+.4f}"))
    return facts


def _panel(one: Experiment, free: float) -> Panel:
    def point(strength: float | None, placed: bool) -> Point:
        label = "" if strength is None else f"{strength:g}"
        seeds = [(run.cross_rank_bytes / BYTES_PER_MB, run.held_out_loss) for run in one.of(strength, placed)]
        return Point(label, one.bytes(strength, placed) / BYTES_PER_MB, one.loss(strength, placed), seeds)

    curves = [
        Curve(
            [point(strength, placed) for strength in one.strengths],
            one.strengths.index(free) if free in one.strengths else None,
            point(None, placed),
        )
        for placed in (False, True)
    ]
    without, spread = one.loss(0.0, False), one.spread(False)
    title = f"{one.name}: {one.dispatch} dispatch, {one.steps} steps, {one.ranks} ranks"
    return Panel(title, curves[0], curves[1], (without - spread, without + spread))


def _table(one: Experiment, free: float) -> Table:
    rows = []
    for strength in (*one.strengths, None):
        name = one.rival if strength is None else f"sparse OT, hop cost {strength:g}"
        sizes = [one.bytes(strength, placed) for placed in (False, True)]
        changes = [size / one.bytes(0.0, False) - 1 for size in sizes]
        megabytes = (f"{size / BYTES_PER_MB:.3f} ({change:+.0%})" for size, change in zip(sizes, changes, strict=True))
        losses = (f"{one.loss(strength, placed):.4f}" for placed in (False, True))
        rises = (_range(one.rises(strength, placed)) for placed in (False, True))
        rows.append((name, *megabytes, *losses, *rises))
    seeds = len(one.of(0.0, False))
    caption = (
        f"{one.name}, {seeds} seeds. MB between ranks in a step, in brackets against contiguous experts without hop "
        "cost; held-out loss and how much it lies above that of the same seed without hop cost, mean (least to most). "
        f"Standard deviation of the loss over the seeds without hop cost: {one.spread(False):.4f} contiguous, "
        f"{one.spread(True):.4f} placed."
    )
    columns = (
        "router",
        "MB contiguous",
        "MB placed",
        "loss contiguous",
        "loss placed",
        "rise contiguous",
        "rise placed",
    )
    best = [(one.strengths.index(free), column) for column in (1, 2)] if free in one.strengths else []
    return Table(columns, rows, caption, best=best, dense=True)


def _range(rises: list[float]) -> str:
    return f"{fmean(rises):+.4f} ({min(rises):+.3f} to {max(rises):+.3f})"
