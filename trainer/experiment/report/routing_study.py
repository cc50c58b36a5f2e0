"""The section of a page about routing that knows distances: what it saves between ranks, what that costs in loss."""

from pathlib import Path
from statistics import fmean

from moe.report.page import Block, Facts, Figure, Section, Table
from trainer.experiment.report.routing_study_figure import Curve, Panel, Point, routing_study_figure
from trainer.experiment.report.routing_study_file import Experiment, RoutingStudy

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
