"""The page of edits: pictures beside what became of them, error against editability, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netsim.foundation.page import Block, Choice, Facts, Figure, Section, Table, page
from trainer.config.run import RunConfig
from trainer.evaluation.editing.figures import EditFigures, Level, Point
from trainer.evaluation.editing.pictures import edit_grid, errors_chart, iterates_chart, plane_chart
from trainer.model.flops import forward_multiply_adds
from trainer.observe.units import scaled
from trainer.sampling.edit_request import EditPlan
from trainer.sampling.edits import PictureEdits

Shown = tuple[tuple[str, int | None], PictureEdits]
"""Name and class of a picture, and its edits."""


def edits_page(
    figures: EditFigures, plan: EditPlan, config: RunConfig, shown: Sequence[Shown], made_by: dict[str, Any]
) -> str:
    """Composes the page, the same for the same edits; at most 8 pictures are shown."""
    grids = [
        (_short(name), Figure(edit_grid(one, name, label, plan, f"edits-{place}"), _GRID[plan.method is None]))
        for place, ((name, label), one) in enumerate(shown)
    ]
    judged = figures.source.editability is not None
    chart = plane_chart(figures, plan) if judged else errors_chart(figures, plan)
    plane: list[Block] = [Figure(chart, _PLANE if judged else _ERRORS, half=True), _levels_table(figures, plan)]
    sections = [
        Section("At a glance", [Facts(_facts(figures, plan))]),
        Section(f"From the source to its edits, by {plan.level_name} and class", [Choice("picture", grids)]),
        Section(
            "How far from the picture, and how often of the class" if judged else "How far from the picture", plane
        ),
    ]
    lines = _iterates(figures)
    if lines:
        sections.append(
            Section("What iterations bring, and what they take", [Figure(iterates_chart(lines), _ITERATES)])
        )
    if judged and len(plan.targets) > 1:
        sections.append(Section("Each class by itself", [_classes_table(figures, plan)]))
    sections.append(Section("What it cost", [_cost_table(figures, plan, config)]))
    return page(
        f"Edits by {Path(made_by['run']).resolve().name}",
        _finding(figures, plan),
        sections,
        kicker=f"{made_by['checkpoint']}; {figures.num} pictures, {_inverted_by(plan)}, guidance "
        f"{plan.request.guidance.source:g} to noise and {plan.guidance:g} to the classes, seed {plan.request.seed}",
        footer="Every figure on this page is in results.json beside it; nothing is loaded from a network. "
        + _SOURCES[plan.method is None],
    )


_GRID = {
    True: "Left: the picture, and below it what comes back from the noise that was found for it. Right: edits to each "
    "class (blue: the picture's own) at each share of the controls' strength; 0 is the plain sampler from that noise. "
    "Last: the classes from fresh noise, which know nothing of the picture.",
    False: "Left: the picture, and below it what comes back from the noise that was found for it. Right: what each "
    "class draws (blue: the picture's own) after so many corrections of the noise. Last: the classes from fresh noise, "
    "which know nothing of the picture.",
}
_PLANE = (
    "Best is the upper left: near to the picture and yet of the class asked for. Blue: the mean over all edits, with "
    "its level beside each point; grey: single classes; dotted: pictures and fresh draws in any mixture. An edit to "
    "the "
    "picture's own class is not counted. Class: that which a classifier of the run's real examples sees."
)
_ERRORS = "Mean squared difference to the picture, over all edits; dotted: that of a draw which knows nothing of it."
_ITERATES = (
    "Mean over the pictures; each iteration costs one drawing. Inversion: the noise is corrected until the picture's "
    "own class leads it back to the picture. Edit: the same under the class asked for, so that the edit gives way to "
    "the "
    "picture, and one stops early."
)
_SOURCES = {
    True: "Pull: Rout et al., arXiv 2410.10792 (RF-Inversion). Transport: OTIP. UniInv: Jiao et al., arXiv 2504.13109.",
    False: "Corrections of the noise: FlowOpt, arXiv 2510.22010. UniInv: Jiao et al., arXiv 2504.13109.",
}


def _short(name: str) -> str:
    """A name as a button shows it."""
    plain = name.removeprefix("held_out_").rpartition("/")[2]
    return plain if len(plain) <= 16 else f"{plain[:13]}..."


def _inverted_by(plan: EditPlan) -> str:
    return f"inversion {plan.request.inversion.kind}"


def _finding(figures: EditFigures, plan: EditPlan) -> str:
    best = best_level(figures)
    if best is None:
        first, last = figures.levels[0], figures.levels[-1]
        return (
            f"From {plan.level_name} {first.level:g} to {last.level:g} the error against the picture goes from "
            f"{first.all.error:.3g} to {last.all.error:.3g}; a draw that knows nothing of it has "
            f"{figures.fresh.error:.3g}."
        )
    return (
        f"At {plan.level_name} {best.level:g}, {best.all.editability:.0%} of the edits are taken for the class asked "
        f"for, with {best.all.error / figures.fresh.error:.2f} times the error of a draw that knows nothing of the "
        f"picture "
        f"({figures.fresh.editability:.0%} of the class)."
    )


def best_level(figures: EditFigures) -> Level | None:
    """The level furthest from the line between the picture and a fresh draw on the plane of error and editability.

    None: no classifier has judged the edits.
    """
    source, fresh = figures.source, figures.fresh
    if source.editability is None or fresh.editability is None or fresh.error == 0:
        return None

    def gain(one: Level) -> float:
        assert one.all.editability is not None
        return one.all.editability - one.all.error / fresh.error

    return max(figures.levels, key=gain)


def _facts(figures: EditFigures, plan: EditPlan) -> list[tuple[str, str, str]]:
    best, calls = best_level(figures), figures.calls
    facts = [("Pictures", f"{figures.num}", f"{figures.num * len(plan.levels) * len(plan.targets):,} edits")]
    if best is not None:
        facts += [
            (f"Best {plan.level_name}", f"{best.level:g}", "farthest above the line from picture to fresh draw"),
            ("Of the class there", f"{best.all.editability:.0%}", f"a fresh draw: {figures.fresh.editability:.0%}"),
            (
                "Error there",
                f"{best.all.error:.3g}",
                f"{best.all.psnr:.1f} dB; a fresh draw: {figures.fresh.error:.3g}",
            ),
        ]
    decoder = f"; the decoder alone: {figures.decoder:.2g}" if figures.decoder else ""
    back = Point(figures.reconstruction, None)
    facts.append(("Error drawn back", f"{back.error:.2g}", f"{back.psnr:.1f} dB, under its own class{decoder}"))
    most = max(one.calls for one in figures.levels)
    facts.append(("Network calls", f"{calls.inversion} + {most}", "to noise, and to one edit"))
    return facts


def _levels_table(figures: EditFigures, plan: EditPlan) -> Table:
    judged, held = figures.source.editability is not None, plan.held is not None
    columns = [plan.level_name, "error", "dB", *(["held part"] if held else []), *(["of the class"] if judged else [])]

    def cells(name: str, point: Point, held_error: float | None) -> tuple[str, ...]:
        found = [name, f"{point.error:.4f}", "" if point.error == 0 else f"{point.psnr:.1f}"]
        found += ["" if held_error is None else f"{held_error:.2g}"] if held else []
        return (*found, *([] if point.editability is None else [f"{point.editability:.1%}"]))

    rows = [cells(f"{one.level:g}", one.all, one.held_error) for one in figures.levels]
    rows += [cells("the picture itself", figures.source, None), cells("a fresh draw", figures.fresh, None)]
    best = best_level(figures)
    stands_out = set() if best is None else {(figures.levels.index(best), 0)}
    caption = "Error: mean squared difference to the picture, from black, -1, to white, 1; dB: its PSNR."
    if held:
        caption += " Held part: the error over what the mask holds."
    if figures.judged is not None:
        caption += f" The classifier takes {figures.judged:.0%} of the pictures themselves for their own class."
    return Table(columns, rows, caption, half=True, best=stands_out)


def _classes_table(figures: EditFigures, plan: EditPlan) -> Table:
    rows = []
    for one in figures.levels:
        points = one.classes[:MOST_CLASSES]
        rows.append(
            (f"{one.level:g}", *("" if point is None else f"{_percent(point)} / {point.error:.2f}" for point in points))
        )
    names = [name if len(name) <= 12 else f"{name[:11]}." for name in plan.names[:MOST_CLASSES]]
    more = len(plan.names) - len(names)
    caption = "Taken for the class / error against the picture, from pictures of other classes." + (
        f" {more} further classes are in results.json." if more > 0 else ""
    )
    return Table((plan.level_name, *names), rows, caption, dense=True)


MOST_CLASSES = 12


def _percent(point: Point) -> str:
    return "" if point.editability is None else f"{point.editability:.0%}"


def _cost_table(figures: EditFigures, plan: EditPlan, config: RunConfig) -> Table:
    calls, forward = figures.calls, forward_multiply_adds(config)
    count = len(plan.targets)
    guided = 1 if plan.guidance in (0, 1) else 2
    source_guided = 1 if plan.request.guidance.source in (0, 1) else 2
    edits = sum(calls.levels) if plan.method is None else calls.levels[-1]
    parts = [
        ("a picture to its noise", calls.inversion, 1, source_guided),
        ("drawn back, to see the error", calls.drawing, 1, source_guided),
        (f"edits of all {plan.level_name}s", edits, count, guided),
        ("fresh draws, to compare with", calls.drawing, count, guided),
    ]
    rows = [
        (
            name,
            f"{each:,}",
            f"{classes}",
            f"{each * classes * rows_of:,}",
            "" if forward is None else scaled(each * classes * rows_of * forward, "").strip(),
        )
        for name, each, classes, rows_of in parts
    ]
    total = sum(each * classes * rows_of for _, each, classes, rows_of in parts)
    rows.append(
        ("one picture in all", "", "", f"{total:,}", "" if forward is None else scaled(total * forward, "").strip())
    )
    everything = "" if forward is None else scaled(figures.num * total * forward, "").strip()
    rows.append((f"all {figures.num} pictures", "", "", f"{figures.num * total:,}", everything))
    return Table(
        ("for one picture", "calls of the network", "classes", "examples through it", "multiply-adds"),
        rows,
        "Guidance other than 1 sends each example through the network twice in one call. Multiply-adds by formula, "
        "without autoencoder and gradients of controls.",
    )


def _iterates(figures: EditFigures) -> list[tuple[str, list[int], Sequence[float]]]:
    """Name, calls and errors of the iterates of inversion and edit."""
    calls, lines = figures.calls, []
    if figures.inversion_errors is not None:
        begun = calls.inversion - calls.drawing * len(figures.inversion_errors)
        steps = range(1, len(figures.inversion_errors) + 1)
        lines.append(
            ("inversion, own class", [begun + calls.drawing * step for step in steps], figures.inversion_errors)
        )
    if figures.edit_errors is not None:
        steps = range(1, len(figures.edit_errors) + 1)
        lines.append(
            ("edit, class asked for", [calls.inversion + calls.drawing * step for step in steps], figures.edit_errors)
        )
    return lines
