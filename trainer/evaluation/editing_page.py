"""The page of edits: pictures beside their edits, error against editability, and costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, DOTTED, GREY, INK, RED, SOFT, Dots, Level, Line, Mark, Words
from netsim.foundation.page import Choice, Facts, Figure, Section, Table, page
from netsim.foundation.sheet import Column, sheet
from trainer.config.run import RunConfig
from trainer.evaluation.editing_figures import EditFigures, Point, psnr
from trainer.evaluation.editing_figures import Level as EditLevel
from trainer.model.flops import OPERATIONS_PER_MULTIPLY_ADD, forward_flops
from trainer.observe.units import scaled
from trainer.sampling.edit_request import EditPlan
from trainer.sampling.edits import PictureEdits
from trainer.sampling.pictures import pixels

Shown = tuple[tuple[str, int | None], PictureEdits]
"""Name and class of a picture, and its edits."""
MOST_COLUMNS, MOST_ROWS = 12, 8
"""Classes and levels of a sheet."""
CURVE, FRESH = BLUE, RED


def edits_page(
    figures: EditFigures, plan: EditPlan, config: RunConfig, shown: Sequence[Shown], *, run: str, checkpoint: str
) -> str:
    """Composes the page, the same for the same edits; at most 8 pictures are shown."""
    by_strength, judged = plan.method is None, figures.source.editability is not None
    sheets = [
        (_short(name), Figure(edit_sheet(one, label, plan, f"edits-{place}"), _SHEET[by_strength]))
        for place, ((name, label), one) in enumerate(shown)
    ]
    distances = Figure(
        _plane(figures, plan) if judged else _errors(figures, plan), _PLANE if judged else _ERRORS, half=True
    )
    sections = [
        Section("At a glance", [Facts(_facts(figures, plan))]),
        Section(f"From the source to its edits, by {plan.level_name} and class", [Choice("picture", sheets)]),
        Section(
            "The nearer to the picture, the less of the class" if judged else "Distance from the picture",
            [distances, _levels_table(figures, plan)],
        ),
    ]
    if lines := _iterates(figures):
        sections.append(
            Section("Iterations bring edits nearer, one drawing each", [Figure(_iteration(lines), _ITERATES)])
        )
    if judged and len(plan.targets) > 1:
        sections.append(Section("Each class by itself", [_classes_table(figures, plan)]))
    sections.append(Section("Cost", [_cost_table(figures, plan, config)]))
    return page(
        f"Edits by {run}",
        _finding(figures, plan),
        sections,
        kicker=f"{checkpoint}; {figures.num} pictures, inversion {plan.request.inversion.kind}, guidance "
        f"{plan.request.guidance.source:g} to noise and {plan.guidance:g} to the classes, seed {plan.request.seed}",
        footer="Every figure on this page is in results.json beside it; nothing is loaded from a network. "
        + _SOURCES[by_strength],
    )


_SHEET = {
    True: "Left: the picture, and below it the draw of its own class from the noise that the inversion gives. Right: "
    "edits to each class (blue: the picture's own) at each share of the controls' strength; 0 is the plain sampler. "
    "Last: the classes from fresh noise, independent of the picture.",
    False: "Left: the picture, and below it the draw of its own class from the noise that the inversion gives. Right: "
    "draws of each class (blue: the picture's own) after so many corrections of the noise. Last: the classes from "
    "fresh noise, independent of the picture.",
}
_PLANE = (
    "Best is the upper left: near to the picture and yet of the target class. Blue: the mean over all edits, with its "
    "level beside each point; grey: single classes; dotted: pictures and fresh draws in any mixture. An edit to the "
    "picture's own class is not counted. Class: by a classifier of the run's real examples."
)
_ERRORS = "Mean squared difference to the picture, over all edits; dotted: that of a draw independent of it."
_ITERATES = (
    "Mean over the pictures. Inversion: the noise is corrected until the picture's own class leads it back to the "
    "picture. Edit: the same under the target class, so that the edit gives way to the picture, and stops early."
)
_SOURCES = {
    True: "Pull: Rout et al., arXiv 2410.10792 (RF-Inversion). Transport: OTIP. UniInv: Jiao et al., arXiv 2504.13109.",
    False: "Corrections of the noise: FlowOpt, arXiv 2510.22010. UniInv: Jiao et al., arXiv 2504.13109.",
}


def _short(name: str) -> str:
    """A name as a button shows it."""
    plain = name.removeprefix("held_out_").rpartition("/")[2]
    return plain if len(plain) <= 16 else f"{plain[:13]}..."


def edit_sheet(edits: PictureEdits, label: int | None, plan: EditPlan, name: str) -> str:
    """Draws a picture and its edits by level and class, the longer list across; `name` is unique on a page."""
    levels, classes = spread(len(plan.levels), MOST_ROWS), spread(len(plan.targets), MOST_COLUMNS)
    by_level = [(f"{plan.level_name} {plan.levels[level]:g}", INK) for level in levels] + [("a fresh draw", SOFT)]
    by_class = [(plan.names[place] or "edited", BLUE if plan.targets[place] == label else INK) for place in classes]
    grid = [[_shown(edits.edited[level, place].numpy()) for place in classes] for level in levels]
    grid.append([_shown(edits.fresh[place].numpy()) for place in classes])
    across, down, columns = by_class, by_level, [list(column) for column in zip(*grid, strict=True)]
    if len(by_class) < len(by_level):
        across, down, columns = by_level, by_class, grid
    source = [_shown(edits.picture.numpy()), _shown(edits.reconstructed.numpy())][: len(down)]
    known = "picture" if label is None or not plan.names[0] else f"class {plan.class_name(label)}"
    first = Column(known, [*source, *[None] * (len(down) - len(source))])
    others = [Column(text, images, colour=colour) for (text, colour), images in zip(across, columns, strict=True)]
    names, colours = zip(*down, strict=True)
    return sheet([first, *others], rows=names, colours=colours, name=name)


def _shown(image: NDArray[np.floating]) -> NDArray[np.floating]:
    return pixels(image) / 255


def spread(num: int, most: int) -> Sequence[int]:
    """Numbers from 0 to `num` - 1, the first and the last among them, no more than `most`."""
    if num <= most:
        return range(num)
    return sorted({round(place * (num - 1) / (most - 1)) for place in range(most)})


def _finding(figures: EditFigures, plan: EditPlan) -> str:
    best = best_level(figures)
    if best is None:
        first, last = figures.levels[0], figures.levels[-1]
        return (
            f"From {plan.level_name} {first.level:g} to {last.level:g} the error against the picture goes from "
            f"{first.all.error:.3g} to {last.all.error:.3g}; a draw independent of it has {figures.fresh.error:.3g}."
        )
    return (
        f"At {plan.level_name} {best.level:g}, {best.all.editability:.0%} of the edits of {figures.num} pictures are "
        f"taken for the target class, with {best.all.error / figures.fresh.error:.2f} times the error of a draw "
        f"independent of the picture ({figures.fresh.editability:.0%} of the class)."
    )


def best_level(figures: EditFigures) -> EditLevel | None:
    """The level furthest above the line between the picture and a fresh draw; None if no classifier has judged."""
    source, fresh = figures.source, figures.fresh
    if source.editability is None or fresh.editability is None or fresh.error == 0:
        return None
    return max(figures.levels, key=lambda one: _share(one.all) - one.all.error / fresh.error)


def _share(point: Point) -> float:
    return 0.0 if point.editability is None else point.editability


def _facts(figures: EditFigures, plan: EditPlan) -> list[tuple[str, str, str]]:
    best, calls, fresh = best_level(figures), figures.calls, figures.fresh
    facts = [("Pictures", f"{figures.num}", f"{figures.num * len(plan.levels) * len(plan.targets):,} edits")]
    if best is not None:
        error = f"{best.all.psnr:.1f} dB; a fresh draw: {fresh.error:.3g}"
        facts += [
            (f"Best {plan.level_name}", f"{best.level:g}", "farthest above the line from picture to fresh draw"),
            ("Of the class there", f"{best.all.editability:.0%}", f"a fresh draw: {fresh.editability:.0%}"),
            ("Error there", f"{best.all.error:.3g}", error),
        ]
    decoder = f"; the decoder alone: {figures.decoder:.2g}" if figures.decoder else ""
    back = f"{psnr(figures.reconstruction):.1f} dB, under its own class{decoder}"
    facts.append(("Error drawn back", f"{figures.reconstruction:.2g}", back))
    most = max(one.calls for one in figures.levels)
    return [*facts, ("Network calls", f"{calls.inversion} + {most}", "to noise, and to one edit")]


def _plane(figures: EditFigures, plan: EditPlan) -> str:
    """Draws editability over error: a curve of the levels, a faint one of each class, the picture and a fresh draw."""
    fresh, source, levels = figures.fresh, figures.source, figures.levels
    marks: list[Mark] = [Line(*_places([source, fresh]), FRESH, dash=DOTTED, width=1.1)]
    if len(plan.targets) > 1:
        of_classes = ([p for one in levels if (p := one.classes[column])] for column in range(len(plan.targets)))
        marks += [Line(*_places(points), GREY, width=0.7, alpha=0.6) for points in of_classes]
    marks.append(Line(*_places([one.all for one in levels]), CURVE, marker="o", width=2.2))
    marks += [Dots(*_places([source]), SOFT, size=64, marker="s"), Dots(*_places([fresh]), FRESH, size=64, marker="D")]
    reach = max([fresh.error, *(one.all.error for one in levels)])
    marks.append(Words(source.error, _share(source), "the picture itself", SOFT, (12, -1)))
    marks.append(Words(fresh.error, _share(fresh), "a fresh draw", FRESH, (-8, 12), "right"))
    marks += _level_names(figures, reach)
    x, y = "error against the picture (mean squared)", "taken for the target class"
    ticks = {share / 5: f"{20 * share} %" for share in range(6)}
    across = (-0.03 * reach, 1.06 * reach)
    panel = Panel(marks, x=x, y=y, grid="both", y_ticks=ticks, x_limits=across, y_limits=(-0.04, 1.1))
    return chart([panel], size=(5.4, 4.6), name="plane")


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [one.error for one in points], [_share(one) for one in points]


def _level_names(figures: EditFigures, reach: float) -> list[Words]:
    """Returns labels of levels for points of the curve, the ends first; leaves out labels that would overlap."""
    levels, words = figures.levels, []
    taken = [(figures.source.error / reach + 0.15, _share(figures.source))]
    for one in dict.fromkeys([levels[0], levels[-1], *levels]):
        place = (one.all.error / reach, _share(one.all))
        if all(abs(place[0] - x) > 0.065 or abs(place[1] - y) > 0.06 for x, y in taken):
            taken.append(place)
            words.append(Words(one.all.error, place[1], f"{one.level:g}", CURVE, (-2, 10), "right"))
    return words


def _errors(figures: EditFigures, plan: EditPlan) -> str:
    """The error of each level, and that of a fresh draw, where no classifier has judged the edits."""
    levels = [one.level for one in figures.levels]
    marks = [
        Level(figures.fresh.error, "a fresh draw", FRESH, DOTTED),
        Line(levels, [one.all.error for one in figures.levels], CURVE, "edits", marker="o", width=2.2),
    ]
    y = "error against the picture (mean squared)"
    panel = Panel(marks, x=plan.level_name, y=y, y_limits=(0, None), legend="best", grid="both")
    return chart([panel], size=(5.4, 4.2), name="errors")


def _levels_table(figures: EditFigures, plan: EditPlan) -> Table:
    judged, held = figures.source.editability is not None, plan.held is not None
    columns = [plan.level_name, "error", "dB", *(["held part"] if held else []), *(["of the class"] if judged else [])]

    def cells(name: str, point: Point, held_error: float | None) -> tuple[str, ...]:
        texts = [name, f"{point.error:.4f}", "" if point.error == 0 else f"{point.psnr:.1f}"]
        texts += ["" if held_error is None else f"{held_error:.2g}"] if held else []
        return (*texts, *([] if point.editability is None else [f"{point.editability:.1%}"]))

    rows = [cells(f"{one.level:g}", one.all, one.held_error) for one in figures.levels]
    rows += [cells("the picture itself", figures.source, None), cells("a fresh draw", figures.fresh, None)]
    best = best_level(figures)
    caption = "Error: mean squared difference to the picture, from black, -1, to white, 1; dB: its PSNR."
    if held:
        caption += " Held part: the error over what the mask holds."
    if figures.judged is not None:
        caption += f" The classifier takes {figures.judged:.0%} of the pictures themselves for their own class."
    stands_out = set() if best is None else {(figures.levels.index(best), 0)}
    return Table(columns, rows, caption, half=True, best=stands_out)


def _classes_table(figures: EditFigures, plan: EditPlan) -> Table:
    names = [name if len(name) <= 12 else f"{name[:11]}." for name in plan.names[:MOST_COLUMNS]]
    rows = [
        (
            f"{one.level:g}",
            *("" if p is None else f"{_share(p):.0%} / {p.error:.2f}" for p in one.classes[:MOST_COLUMNS]),
        )
        for one in figures.levels
    ]
    more = len(plan.names) - len(names)
    caption = "Taken for the class / error against the picture, from pictures of other classes."
    caption += f" {more} further classes are in results.json." if more > 0 else ""
    return Table((plan.level_name, *names), rows, caption, dense=True)


def _cost_table(figures: EditFigures, plan: EditPlan, config: RunConfig) -> Table:
    calls, forward, count = figures.calls, forward_flops(config), len(plan.targets)
    guided, source_guided = (1 if one in (0, 1) else 2 for one in (plan.guidance, plan.request.guidance.source))
    edits = sum(calls.levels) if plan.method is None else calls.levels[-1]
    parts = [
        ("a picture to its noise", calls.inversion, 1, source_guided),
        ("drawn back, to see the error", calls.drawing, 1, source_guided),
        (f"edits of all {plan.level_name}s", edits, count, guided),
        ("fresh draws, to compare with", calls.drawing, count, guided),
    ]

    def row(name: str, each: str, classes: str, examples: int) -> tuple[str, ...]:
        multiply_adds = "" if forward is None else scaled(examples * forward // OPERATIONS_PER_MULTIPLY_ADD, "").strip()
        return name, each, classes, f"{examples:,}", multiply_adds

    rows = [row(name, f"{each:,}", f"{classes}", each * classes * by) for name, each, classes, by in parts]
    total = sum(each * classes * by for _, each, classes, by in parts)
    rows += [row("one picture in all", "", "", total), row(f"all {figures.num} pictures", "", "", figures.num * total)]
    columns = ("for one picture", "calls of the network", "classes", "examples through it", "multiply-adds")
    caption = "Guidance other than 1 sends each example through the network twice in one call. Multiply-adds leave out "
    caption += "autoencoder and gradients of controls."
    return Table(columns, rows, caption)


Iterates = tuple[str, Sequence[int], Sequence[float]]
"""Name, calls up to each iterate, and mean squared errors."""


def _iterates(figures: EditFigures) -> list[Iterates]:
    calls, lines = figures.calls, list[Iterates]()
    if figures.inversion_errors is not None:
        steps = range(1, len(figures.inversion_errors) + 1)
        begun = calls.inversion - calls.drawing * len(steps)
        of_each = [begun + calls.drawing * step for step in steps]
        lines.append(("inversion, own class", of_each, figures.inversion_errors))
    if figures.edit_errors is not None:
        of_each = [calls.inversion + calls.drawing * step for step in range(1, len(figures.edit_errors) + 1)]
        lines.append(("edit, target class", of_each, figures.edit_errors))
    return lines


def _iteration(lines: Sequence[Iterates]) -> str:
    """Draws the PSNR of iterates against calls of the network."""
    marks: list[Mark] = []
    for (name, calls, errors), colour, marker in zip(lines, (CURVE, FRESH), "oD", strict=False):
        decibels = [psnr(error) for error in errors]
        marks.append(Line(calls, decibels, colour, name, marker=marker, width=2.0))
        ends = ((calls[place], decibels[place]) for place in (0, -1))
        marks += [Words(x, y, f"{y:.1f} dB", colour, (0, 12), "center") for x, y in ends]
    x, y = "calls of the network for one picture", "PSNR in dB, of states"
    panel = Panel(marks, x=x, y=y, x_limits=(0, None), legend="best", grid="both")
    return chart([panel], size=(11.0, 3.7), name="iterates")
