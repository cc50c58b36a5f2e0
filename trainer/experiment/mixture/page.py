"""The page of a search for shares: measured values of the pilots, projected values and their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import BLUE, GREY, INK, RED, SKY, Band, Dots, Line, Mark, Words, colour_map
from netsim.foundation.page import Block, Facts, Figure, Listing, Note, Section, Table, page
from trainer.experiment.mixture.fit import MIXES_OF_A_PARAMETER, Mix
from trainer.experiment.mixture.pilots import TITLES, figure
from trainer.experiment.mixture.results import SearchResult
from trainer.observe.units import duration

SHOWN = 10
"""Most mixes in a table."""
HALF = math.sqrt(3) / 2


def page_of(result: SearchResult) -> str:
    """The whole document."""
    request, name = result.request, TITLES[result.request.measure]
    low, high = sorted((result.projected(result.pick, -1), result.projected(result.pick, 1)))
    wanted = f"the examples of {request.wanted}" if request.wanted else "the examples of all sources"
    return page(
        f"Shares for {request.config.stem}",
        f"{_mix(result, result.pick)}: {name} is projected to {result.projected(result.pick):.4g} at "
        f"{request.target:,} examples, {low:.4g} to {high:.4g} within one standard deviation.",
        [
            Section("At a glance", [_facts(result), *_cautions(result)]),
            Section("Measured and projected", _pictures(result), _MEASURED.format(wanted=wanted)),
            Section("The best mixes", [_best(result)]),
            Section("The fit", [_models(result)], _FIT),
            Section("The pilots", [_pilots(result)]),
            Section(
                "How to reproduce it", [Listing(_commands(result), "Pilots that are finished are not trained again.")]
            ),
        ],
        kicker=f"{len(result.plan.mixes)} mixes of {', '.join(result.plan.mixed)} at {result.sizes[0]:,} and "
        f"{result.sizes[1]:,} examples",
        footer="Every figure on this page is in the JSON of the same search; nothing is loaded from a network. Kang, "
        "Just, Sahu, Jia, Performance scaling via optimal transport, 2023.",
        verb="mixture",
    )


_MEASURED = (
    "Each pilot takes the first examples of every source, as its shares say, and as many passes over them as the "
    "planned run. Judged by {wanted}; distances are to the held-out ones."
)
_FIT = (
    "The logarithm of the measure (of the share of wrong samples where it is an accuracy) is fitted at both sizes by "
    "ridge regression on the distance to the wanted examples and, in larger models, on shares; the model that misses "
    "left-out mixes least is chosen, and goes on linearly in the logarithm of the size."
)


def _facts(result: SearchResult) -> Facts:
    cost = result.cost
    return Facts(
        [
            *(
                (name, f"{share:.0%}", "of the examples")
                for name, share in zip(result.plan.mixed, result.pick, strict=True)
            ),
            ("Projected", f"{result.projected(result.pick):.4g}", TITLES[result.request.measure]),
            ("Amplification", f"{result.amplification:.1f}", "of the errors of pilots, at most"),
            ("Pilots", f"{cost.share:.1f}", f"times the steps of the run; {duration(cost.seconds)} of steps"),
        ]
    )


def _cautions(result: SearchResult) -> list[Block]:
    notes: list[Block] = []
    if (others := len(result.alike) - 1) > 0:
        spans = [
            f"{name} {min(shares):.0%} to {max(shares):.0%}"
            for name, shares in zip(result.plan.mixed, zip(*result.alike, strict=True), strict=True)
        ]
        blurred = "The pilots do not tell mixes apart. " if others + 1 == len(result.search.known) else ""
        notes.append(
            Note(
                f"{blurred}{others} other mixes are projected within one standard deviation of the pick "
                f"({', '.join(spans)}). The deviation is that of left-out mixes times the amplification."
            )
        )
    short = [
        f"{name} has {count:,} of {round(share * result.request.target):,}"
        for name, share in zip(result.plan.mixed, result.pick, strict=True)
        if (count := result.plan.sources[name].count("train")) < round(share * result.request.target)
    ]
    if short:
        notes.append(Note(f"The sources do not hold so many examples yet: {'; '.join(short)}."))
    return notes


def _pictures(result: SearchResult) -> list[Block]:
    """Pictures over the shares of two or three sources; none if there are more."""
    if len(result.plan.mixed) == 2:
        return [Figure(_lines(result), _LINES)]
    if len(result.plan.mixed) == 3:
        return [Figure(_triangles(result), _TRIANGLES)]
    return [Note(f"{len(result.plan.mixed)} sources have no picture in a plane; the tables below have the figures.")]


_LINES = "Dots: measured. Lines: fitted at the two sizes and projected, with one standard deviation. Star: the pick."
_TRIANGLES = "Measured at both sizes, and projected; a corner is one source alone. Star: the pick."


def _lines(result: SearchResult) -> str:
    first, second = result.plan.mixed
    measure, target = result.request.measure, result.request.target
    mixes = sorted(result.search.known)
    x, y = [mix[0] for mix in mixes], np.array([result.search.at(mix) for mix in mixes])
    marks: list[Mark] = []
    for row, (size, colour) in enumerate(zip(result.sizes, (SKY, BLUE), strict=True)):
        fitted = np.array([result.search.at_size(mix, size) for mix in mixes])
        marks.append(Dots([mix[0] for mix in result.plan.mixes], result.measured[row], colour, f"{size:,}", size=36))
        marks.append(Line(x, figure(measure, fitted), colour, width=1))
    deviation = result.projection.deviation(target)
    marks += [
        Band(x, figure(measure, y - deviation), figure(measure, y + deviation), INK, alpha=0.12),
        Line(x, figure(measure, y), INK, f"projected to {target:,}"),
        Dots([result.pick[0]], [result.projected(result.pick)], RED, "the pick", size=240, marker="*"),
    ]
    panel = Panel(marks, x=f"share of {first}, the rest {second}", y=TITLES[measure], legend="right")
    return chart([panel], size=(11.0, 4.4), name="mixes")


def _triangles(result: SearchResult) -> str:
    """Draws mixes of three sources as triangles, measured at both sizes and projected, on one colour scale."""
    surface = sorted(result.search.known)
    shown: list[tuple[str, Sequence[Mix], Sequence[float]]] = [
        (f"measured, {size:,} examples", result.plan.mixes, list(result.measured[row]))
        for row, size in enumerate(result.sizes)
    ]
    shown.append(
        (f"projected, {result.request.target:,} examples", surface, [result.projected(mix) for mix in surface])
    )
    every = [value for _, _, values in shown for value in values]
    low, high = min(every), max(max(every), min(every) + 1e-12)
    colours = "viridis" if result.request.measure == "class_accuracy" else "viridis_r"
    corners = np.array([_place(mix) for mix in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0))])
    at_x, at_y = _place(result.pick)
    panels = []
    for title, mixes, values in shown:
        x, y = zip(*map(_place, mixes), strict=True)
        dyed = colour_map(colours)((np.array(values) - low) / (high - low))
        marks: list[Mark] = [
            Line(corners[:, 0], corners[:, 1], GREY, width=0.8),
            Dots(x, y, dyed, size=min(420, 4200 / len(mixes) ** 0.8), edge="none"),
            Dots([at_x], [at_y], RED, size=220, marker="*"),
        ]
        for name, (corner_x, corner_y), up in zip(result.plan.mixed, corners, (-1, -1, 1), strict=False):
            marks.append(Words(corner_x, corner_y, name, offset=(0, 17 * up), align="center"))
        limits = (-0.14, 1.14), (-0.16, HALF + 0.16)
        panels.append(Panel(marks, title, x_limits=limits[0], y_limits=limits[1], bare=True, equal=True))
    key = Key(TITLES[result.request.measure], colours, low, high)
    return chart(panels, size=(11.0, 3.7), name="mixes", key=key)


def _place(mix: Sequence[float]) -> tuple[float, float]:
    """Position of a mix of three sources in a triangle: the first at the left, the second right, the third on top."""
    return mix[1] + mix[2] / 2, HALF * mix[2]


def _models(result: SearchResult) -> Table:
    return Table(
        ("model", "penalty", "error of left-out mixes"),
        [(one.features, f"{one.penalty:g}", f"{one.error:.3f}") for one in result.projections],
        f"Errors are those of the logarithm, over both sizes. Models with fewer than {MIXES_OF_A_PARAMETER} mixes for "
        "each parameter are not tried.",
        best={(0, 2)},
    )


def _best(result: SearchResult) -> Table:
    shown = sorted(result.search.known, key=result.search.at)[:SHOWN]
    rows = []
    for mix in shown:
        low, high = sorted((result.projected(mix, -1), result.projected(mix, 1)))
        rows.append((_mix(result, mix), f"{result.projected(mix):.4g}", f"{low:.4g} to {high:.4g}"))
    return Table(
        ("mix", f"projected to {result.request.target:,}", "one standard deviation"),
        rows,
        f"Of {len(result.search.known)} mixes that were projected.",
    )


def _pilots(result: SearchResult) -> Table:
    small, large = result.sizes
    columns = (f"at {small:,}", f"at {large:,}", f"distance at {small:,}", f"distance at {large:,}", "projected")
    rows = [
        (
            _mix(result, mix),
            *(f"{one:.4g}" for one in (*result.measured[:, place], *result.distances[:, place], result.projected(mix))),
        )
        for place, mix in enumerate(result.plan.mixes)
    ]
    return Table(("mix", *columns), rows, dense=True)


def _mix(result: SearchResult, mix: Mix) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in zip(result.plan.mixed, mix, strict=True) if share > 0)


def _commands(result: SearchResult) -> str:
    return "\n".join(
        [
            str((result.file().figures or {})["command"]),
            "",
            "# the run with the picked shares",
            f"python -m trainer train {result.request.config} data.shares={result.request.out}",
        ]
    )
