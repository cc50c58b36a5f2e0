"""Routing that knows distances: what it saves between ranks, what that costs in loss, on one page.

``python -m tests.benchmarks.routing_study STUDY.json [--out PAGE.html]``; ``placement_aware_routing`` writes the file:
held-out loss and bytes by hop cost.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from netsim.foundation.chart import Panel, chart
from netsim.foundation.complaint import first_complaint
from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing
from netsim.foundation.marks import BLUE, FAINT, GREY, INK, RED, SOFT, Dots, Level, Line, Words
from netsim.foundation.page import Block, Facts, Figure, Section, Table, page
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


BYTES_PER_MB = 1e6
_PLACEMENTS = {False: "contiguous", True: "placed"}


def routing_study_page(path: Path) -> str:
    """The page about a study: the trade-off as a picture, and its figures."""
    study = RoutingStudy.read(path)
    free = {placed: study.free_strength(placed) for placed in _PLACEMENTS}
    finding = (
        f"The router may pay a hop cost of {free[False]:g} without a measurable loss with experts by number, and of "
        f"{free[True]:g} with experts placed."
    )
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
        Figure(chart([_panel(one, free) for one in study.experiments], size=(11.0, 4.8), name="study"), caption),
        *(_table(one, free) for one in study.experiments),
    ]
    return page("Routing that knows distances", finding, [Section("Bytes against loss", blocks, text)])


def _facts(one: Experiment, free: dict[bool, float]) -> list[tuple[str, str, str]]:
    without = one.bytes(0.0, False)
    facts = []
    for placed, where in _PLACEMENTS.items():
        change = one.bytes(free[placed], placed) / without - 1
        rise = fmean(one.rises(free[placed], placed))
        facts.append((f"Bytes, {one.name}, {where}", f"{change:+.0%}", f"hop cost {free[placed]:g}; loss {rise:+.4f}"))
    return facts


def _panel(one: Experiment, free: dict[bool, float]) -> Panel:
    without, spread = one.loss(0.0, False), one.spread(False)
    marks: list[Dots | Level | Line | Words] = [
        Level(without - spread, "spread of seeds, no hop cost", FAINT, to=without + spread)
    ]
    for placed, where in _PLACEMENTS.items():
        colour, side = (BLUE, -1) if placed else (GREY, 1)
        of_seeds = [run for strength in (*one.strengths, None) for run in one.of(strength, placed)]
        megabytes = [run.cross_rank_bytes / BYTES_PER_MB for run in of_seeds]
        marks.append(Dots(megabytes, [run.held_out_loss for run in of_seeds], colour, size=9, alpha=0.4))
        x = [one.bytes(strength, placed) / BYTES_PER_MB for strength in one.strengths]
        y = [one.loss(strength, placed) for strength in one.strengths]
        marks.append(Line(x, y, colour, f"sparse OT, {where}", marker="o"))
        rival = one.bytes(None, placed) / BYTES_PER_MB
        marks.append(Dots([rival], [one.loss(None, placed)], colour, f"top-k, {where}", size=44, marker="D", edge=INK))
        for strength, at_x, at_y in zip(one.strengths, x, y, strict=True):
            align = "right" if placed else "left"
            marks.append(Words(at_x, at_y, f"{strength:g}", BLUE if placed else SOFT, (9 * side, 9 * side), align))
        if free[placed] in one.strengths:
            at = one.strengths.index(free[placed])
            name = "" if placed else "largest hop cost that is free"
            marks.append(Dots([x[at]], [y[at]], "none", name, size=150, edge=RED))
    title = f"{one.name}: {one.dispatch} dispatch, {one.steps} steps, {one.ranks} ranks"
    return Panel(marks, title, x="MB between ranks in a step", y="held-out loss", legend="best", grid="both")


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


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page of a study beside its file, or where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.json")
    parser.add_argument("--out", type=Path, metavar="PAGE.html")
    given = parser.parse_args(argv)
    out = given.out or given.study.with_suffix(".html")
    with replacing(out) as temporary:
        temporary.write_text(routing_study_page(given.study), encoding="utf-8")
    print(f"{out}: open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
