"""The section of a page about routing that knows distances: what it saves between ranks, what that costs in loss.

``python -m tests.benchmarks.placement_aware_routing`` writes its file: held-out loss and bytes by hop cost.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal, Self

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moe.report.figures import INK, STYLE, to_svg
from netsim.foundation.complaint import first_complaint
from netsim.foundation.documents import parse_json
from netsim.foundation.page import Block, Facts, Figure, Section, Table
from netsim.foundation.refusal import Refusal

_REMEDY = "write it with `python -m tests.benchmarks.placement_aware_routing --out DIR`"
_Name = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(gt=0, strict=True)]
_Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudiedRun(_Record):
    """One training.

    Attributes:
        strength: hop cost of the sparse-OT router in standard deviations of the logits; None: the rival router.
        placed: whether the experts were placed; False: contiguous.
        cross_rank_bytes: bytes that left their rank for experts and routers in a step, mean of the recorded steps.
    """

    strength: _NotNegative | None
    placed: bool
    seed: Annotated[int, Field(ge=0, strict=True)]
    held_out_loss: _Finite
    cross_rank_bytes: _NotNegative


class Experiment(_Record):
    """All trainings on one data set: every strength, and the rival router, with every seed, placed and not."""

    name: _Name
    config: _Name
    dispatch: Literal["home", "capped", "copies", "coherent", "hierarchical"]
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

    def error(self, strength: float | None, placed: bool) -> float:
        """Standard error of the mean rise over the seeds."""
        rises = self.rises(strength, placed)
        return stdev(rises) / len(rises) ** 0.5

    def is_free(self, strength: float, placed: bool) -> bool:
        """Whether the mean rise of the loss, seed by seed, is within its standard error: nothing that was measured."""
        return fmean(self.rises(strength, placed)) <= self.error(strength, placed)


class RoutingStudy(_Record):
    """The whole file."""

    format: Literal["flowfabric.routing_study/1"]
    experiments: tuple[Experiment, ...]

    @model_validator(mode="after")
    def _has_experiments(self) -> Self:
        if not self.experiments:
            raise ValueError("experiments: there are none; give at least one")
        return self

    @classmethod
    def read(cls, path: Path) -> "RoutingStudy":
        """Reads a file."""
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Refusal(path, "file", f"cannot be read ({error.strerror})", _REMEDY) from error
        except ValueError as error:
            raise Refusal(path, "document", f"is not JSON ({error})", _REMEDY) from error
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            found = first_complaint(error, document)
            raise Refusal(path, found.field, found.problem, found.remedy or _REMEDY) from error

    def free_strength(self, placed: bool) -> float:
        """The largest strength that costs nothing measurable on any data set, nor does any smaller one."""
        free = 0.0
        for strength in sorted({strength for one in self.experiments for strength in one.strengths}):
            if not all(one.is_free(strength, placed) for one in self.experiments if strength in one.strengths):
                break
            free = strength
        return free


_CONTIGUOUS, _PLACED, _RING = "#9aa5b1", "#0072b2", "#d55e00"
_BAND, _GRID, _SOFT = "#e6eaee", "#eef1f4", "#5b6875"
_FULL_WIDTH = 11.0


@dataclass(frozen=True)
class Point:
    """A setting of the router: mean MB between ranks in a step (x), mean held-out loss (y), the same of each seed."""

    label: str
    x: float
    y: float
    seeds: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """The settings under one placement by rising hop cost; `marked` is the place of the largest free one."""

    points: Sequence[Point]
    marked: int | None
    rival: Point


@dataclass(frozen=True)
class Panel:
    """One data set; `band` has losses that differ from those without hop cost by chance alone."""

    title: str
    contiguous: Curve
    placed: Curve
    band: tuple[float, float]


def routing_study_figure(panels: Sequence[Panel]) -> str:
    with mpl.rc_context(STYLE):
        figure = Drawing(figsize=(_FULL_WIDTH, 4.8), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, panel)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return to_svg(figure)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.axhspan(*panel.band, color=_BAND, linewidth=0, zorder=0, label="spread of seeds, no hop cost")
    for curve, colour, name in ((panel.contiguous, _CONTIGUOUS, "contiguous"), (panel.placed, _PLACED, "placed")):
        for point in (*curve.points, curve.rival):
            axes.plot(*zip(*point.seeds, strict=True), ".", color=colour, alpha=0.4, markersize=5, zorder=2)
        xs, ys = [point.x for point in curve.points], [point.y for point in curve.points]
        axes.plot(xs, ys, "o-", color=colour, markersize=5.5, linewidth=1.6, label=f"sparse OT, {name}", zorder=3)
        rival = {"color": colour, "markersize": 7, "markeredgecolor": INK, "linestyle": "none"}
        axes.plot([curve.rival.x], [curve.rival.y], "D", label=f"top-k, {name}", zorder=3, **rival)
        below = curve is panel.placed
        for point in curve.points:
            axes.annotate(
                point.label,
                (point.x, point.y),
                (-8, -11) if below else (8, 6),
                textcoords="offset points",
                ha="right" if below else "left",
                fontsize=9,
                color=_PLACED if below else _SOFT,
            )
        if curve.marked is not None:
            ring = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": _RING, "markeredgewidth": 1.6}
            label = None if below else "largest hop cost that is free"
            axes.plot(xs[curve.marked], ys[curve.marked], "o", linestyle="none", label=label, zorder=4, **ring)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set(xlabel="MB between ranks in a step", ylabel="held-out loss")
    axes.margins(x=0.08, y=0.12)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


BYTES_PER_MB = 1e6
_PLACEMENTS = {False: "contiguous", True: "placed"}


def routing_study_section(path: Path) -> Section:
    """The section of a page about a study: the trade-off as a picture, and its figures."""
    study = RoutingStudy.read(path)
    free = {placed: study.free_strength(placed) for placed in _PLACEMENTS}
    title = f"Free hop cost of the router: {free[False]:g} with experts by number, {free[True]:g} with experts placed"
    caption = (
        "Lower is better on both axes. A line joins the hop costs of sparse-OT routing, in standard deviations of the "
        "logits; faint points are seeds. The band is the loss without hop cost, its mean and the standard deviation of "
        "the seeds. Diamonds: top-k routing with an auxiliary loss."
    )
    text = (
        "The sparse-OT router pays for every hop to an expert's rank. A strength is free where the loss, compared seed "
        "by seed, rises by no more than the standard error of the rise, on every data set. Bytes are compared with "
        "contiguous experts and no hop cost."
    )
    blocks: list[Block] = [
        Facts([fact for one in study.experiments for fact in _facts(one, free)]),
        Figure(routing_study_figure([_panel(one, free) for one in study.experiments]), caption),
        *(_table(one, free) for one in study.experiments),
    ]
    return Section(title, blocks, text)


def _facts(one: Experiment, free: dict[bool, float]) -> list[tuple[str, str, str]]:
    without = one.bytes(0.0, False)
    facts = []
    for placed, where in _PLACEMENTS.items():
        change = one.bytes(free[placed], placed) / without - 1
        rise = fmean(one.rises(free[placed], placed))
        facts.append((f"Bytes, {one.name}, {where}", f"{change:+.0%}", f"hop cost {free[placed]:g}; loss {rise:+.4f}"))
    return facts


def _panel(one: Experiment, free: dict[bool, float]) -> Panel:
    def point(strength: float | None, placed: bool) -> Point:
        label = "" if strength is None else f"{strength:g}"
        seeds = [(run.cross_rank_bytes / BYTES_PER_MB, run.held_out_loss) for run in one.of(strength, placed)]
        return Point(label, one.bytes(strength, placed) / BYTES_PER_MB, one.loss(strength, placed), seeds)

    curves = [
        Curve(
            [point(strength, placed) for strength in one.strengths],
            one.strengths.index(free[placed]) if free[placed] in one.strengths else None,
            point(None, placed),
        )
        for placed in _PLACEMENTS
    ]
    without, spread = one.loss(0.0, False), one.spread(False)
    title = f"{one.name}: {one.dispatch} dispatch, {one.steps} steps, {one.ranks} ranks"
    return Panel(title, curves[0], curves[1], (without - spread, without + spread))


def _table(one: Experiment, free: dict[bool, float]) -> Table:
    rows = []
    for strength in (*one.strengths, None):
        name = one.rival if strength is None else f"sparse OT, hop cost {strength:g}"
        sizes = [one.bytes(strength, placed) for placed in _PLACEMENTS]
        changes = [size / one.bytes(0.0, False) - 1 for size in sizes]
        megabytes = (f"{size / BYTES_PER_MB:.3f} ({change:+.0%})" for size, change in zip(sizes, changes, strict=True))
        losses = (f"{one.loss(strength, placed):.4f}" for placed in _PLACEMENTS)
        rises = (
            f"{fmean(one.rises(strength, placed)):+.4f} ± {one.error(strength, placed):.4f}" for placed in _PLACEMENTS
        )
        rows.append((name, *megabytes, *losses, *rises))
    seeds = len(one.of(0.0, False))
    caption = (
        f"{one.name}, {seeds} seeds. MB between ranks in a step, in brackets against contiguous experts without hop "
        "cost; held-out loss and how much it lies above that of the same seed without hop cost, with standard error. "
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
    best = [
        (one.strengths.index(strength), 1 + placed) for placed, strength in free.items() if strength in one.strengths
    ]
    return Table(columns, rows, caption, best=best, dense=True)
