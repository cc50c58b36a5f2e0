"""Results of the evaluate verb for a flow: a table, lines below it and a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as TerminalTable

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, DASHED, DOTTED, GREEN, RED, SOFT, SOLID, Level, Line, Mark
from netsim.foundation.page import Block, Facts, Figure, Section, Table, page
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.evaluation.evaluation import Evaluation, Measured, evaluate
from trainer.evaluation.judgement import COLUMNS, PANELS
from trainer.flow.reward import Reward
from trainer.observe.measurement import FOOTER, Measurement, MeasurementSpec, Progress, figures_table
from trainer.observe.units import scaled
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.sampling.trained import compared_with

SHARES = ("class_accuracy", "precision", "recall")
"""Figures of which more is better, from 0 to 1."""
LINES = ((BLUE, "o", SOLID), (RED, "s", DASHED), (GREEN, "D", DOTTED))
"""Colour, marker and dash of each sampler."""
NO_PATHS = "samples follow no velocity: there is no straightness, no path energy, no likelihood and no Euler's method"
"""Remark about flows that draw the tokens of a sample one after the other."""
LEAST = 1e-6
"""Height in a chart of a distance that is 0."""


def under_controls(evaluation: Evaluation) -> str:
    """The controls that changed the field of all samples, in words; empty if none."""
    kinds = [control.get("kind") or control["class"] for control in evaluation.controls]
    return f"under {' and '.join(kinds)}" if kinds else ""


_CHART = (
    "Distances of {num:,} samples to the data against the function evaluations of one sample, both axes logarithmic; "
    "lower is better. The dotted line is what two sets of real examples get, which perfect samples would get too."
)
_DRAWN = "Drawn by the run's own sampler and guidance, from the averaged weights."


def _facts(evaluation: Evaluation, best: Measured, measure: str) -> list[tuple[str, str, str]]:
    facts = [
        ("Best", f"{best.figures[measure]:.3g}", f"{best.sampler}, {best.evaluations} evaluations"),
        ("Real examples", f"{evaluation.floor[measure]:.3g}", "two sets against each other"),
    ]
    if evaluation.paths is None:
        return [*facts, ("Paths", "none", NO_PATHS)]
    paths = evaluation.paths
    facts += [
        ("Straightness", f"{paths['straightness']:.3g}", "0: one step of Euler's method is exact"),
        ("Path energy", f"{paths['path_energy']:.3g}", f"the ends alone need {paths['transport_cost']:.3g}"),
    ]
    if evaluation.monge_gap is not None:
        facts.append(("Monge gap", evaluation.monge_gap.figure, evaluation.monge_gap.explained))
    if evaluation.bits_per_dimension is not None:
        facts.append(("Likelihood", f"{evaluation.bits_per_dimension:.3f}", "bits a dimension of held-out examples"))
    return facts


def table(evaluation: Evaluation) -> Block:
    """All figures of all sets; the best of each distance stands out."""
    names = [name for name in COLUMNS if any(name in one.figures for one in evaluation.results)]
    columns, rows = _rows(evaluation, names, "real examples")
    stands_out = set()
    for column, name in enumerate(names, start=len(columns) - 1 - len(names)):
        chosen = max if name in (*SHARES, "reward") else min
        values = [one.figures.get(name) for one in evaluation.results]
        stands_out.add((1 + values.index(chosen(value for value in values if value is not None)), column))
    caption = (
        "NFE: function evaluations of a sample, each a call of the network; multiply-adds are those of all calls. W2 "
        "and the Fréchet distance are drawn below; sliced: the sliced 2-Wasserstein distance; energy and MMD "
        "(squared): without bias, they may be below 0; ms: wall time each."
    )
    if "fid" in names:
        caption += " FID: the Fréchet distance on features; precision and recall: of samples and real examples on them."
    guided = [COLUMNS[name].capitalize() for name in ("class_accuracy", "reward") if name in names]
    if guided:
        are = "are those" if len(guided) > 1 else "is that"
        caption += (
            f" {' and '.join(guided)} {are} of samples with guidance {evaluation.guidance:g}; all else is without."
        )
    return Table(columns, rows, caption, best=stands_out, dense=len(columns) > 10)


def _rows(evaluation: Evaluation, names: Sequence[str], real: str) -> tuple[list[str], list[list[str]]]:
    """Columns of a table, and rows of the real examples and of each set of samples."""
    costs = costs_of(evaluation.results)
    rows = [[real, *("" for _ in costs), *(cell(name, evaluation.floor.get(name)) for name in names), ""]]
    for one in evaluation.results:
        figures = (cell(name, one.figures.get(name)) for name in names)
        spent = (written(one) for written in costs.values())
        rows.append([one.sampler, *spent, *figures, f"{1e3 * one.seconds_per_sample:.2g}"])
    return ["sampler", *costs, *(COLUMNS[name] for name in names), "ms"], rows


def costs_of(results: Sequence[Measured]) -> dict[str, Callable[[Measured], str]]:
    """Returns by heading a function that writes a result's cost; leaves out costs that no result has."""
    columns: dict[str, Callable[[Measured], str]] = {"NFE": lambda one: str(one.evaluations)}
    if any("head" in one.calls for one in results):
        columns["head calls"] = lambda one: str(one.calls.get("head", 0))
    if any(one.multiply_adds is not None for one in results):
        columns["multiply-adds"] = lambda one: (
            "" if one.multiply_adds is None else scaled(one.multiply_adds, "").strip()
        )
    return columns


def cell(name: str, value: float | None) -> str:
    """A figure as a table shows it; empty where there is none."""
    if value is None:
        return ""
    return f"{value:.1%}" if name in SHARES else f"{round(value, 4) + 0.0:.4f}"


def _named(one: Measured) -> str:
    return f"{one.evaluations} evaluation{'s' * (one.evaluations > 1)} of {one.sampler}"


def _chart(evaluation: Evaluation) -> str:
    """A panel for each distance, with a line for each sampler, and the floor."""
    panels = []
    for place, (measure, title) in enumerate(PANELS.items()):
        marks: list[Mark] = [Level(max(evaluation.floor[measure], LEAST), "real examples", SOFT, DOTTED)]
        groups = groupby(evaluation.results, key=lambda one: one.sampler)
        for (sampler, group), (colour, marker, dash) in zip(groups, LINES, strict=False):
            points = np.array([(one.evaluations, max(one.figures[measure], LEAST)) for one in group])
            marks.append(Line(points[:, 0], points[:, 1], colour, sampler, dash, marker))
        ticks = {float(number): str(number) for number in sorted({one.evaluations for one in evaluation.results})}
        x, legend = "function evaluations of a sample", "" if place else "best"
        panels.append(Panel(marks, title, x=x, log="xy", x_ticks=ticks, legend=legend))
    return chart(panels, size=(11.0, 4.2), name="quality")


MINOR = ("sliced_wasserstein", "energy_distance", "mmd")
"""Distances that a terminal does not show beside those on features; the file and the page have them."""


@dataclass(frozen=True)
class FlowMeasurement(Measurement):
    """The figures of a flow."""

    evaluation: Evaluation
    config: RunConfig

    @classmethod
    def of(
        cls, flow: TrainedFlow, spec: MeasurementSpec, progress: Progress, reward: Reward | None = None
    ) -> FlowMeasurement:
        """Measures a flow on this process, against the data that the specification names or else its own."""
        if spec.data is not None:
            compared = compared_with(flow.config, spec.data)
            flow = replace(flow, config=compared, parts=FlowParts(compared))
        return cls(evaluate(flow, spec, reward=reward, progress=progress), flow.config)

    def to_dict(self) -> dict[str, Any]:
        return self.evaluation.to_dict()

    def table(self) -> TerminalTable:
        """A row for each set of samples, real examples above them."""
        evaluation = self.evaluation
        title = f"{evaluation.num:,} samples of {evaluation.checkpoint} against the data, by function evaluations (NFE)"
        names = [name for name in COLUMNS if any(name in one.figures for one in evaluation.results)]
        if "fid" in names:  # with all of them a line would be too long
            names = [name for name in names if name not in MINOR]
        columns, rows = _rows(evaluation, names, "real data")
        ends = [0, *(place for place in range(1, len(rows) - 1) if rows[place][0] != rows[place + 1][0])]
        return figures_table(columns, rows, title=title, ends=ends)

    def remarks(self) -> list[str]:
        """Lines that hold for every sampler."""
        paths, bits = self.evaluation.paths, self.evaluation.bits_per_dimension
        if paths is None:
            return [NO_PATHS]
        under = under_controls(self.evaluation)
        lines = [f"all samples and paths are drawn {under}"] if under else []
        lines += [
            f"straightness {paths['straightness']:.4f} (0: straight), path energy {paths['path_energy']:.4g}, "
            f"transport cost {paths['transport_cost']:.4g}"
        ]
        lines += [line for reading in self.evaluation.readings for line in reading.remarks()]
        gaps = self.evaluation.monge_gap
        if gaps is not None:
            lines.append(f"Monge gap {gaps.figure} {gaps.explained}")
        return lines if bits is None else [*lines, f"{bits:.3f} bits a dimension of held-out examples"]

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        """The page, the same for the same figures but for the times; images are judged by Fréchet, points by W2."""
        evaluation, config = self.evaluation, self.config
        measure = "frechet_distance" if isinstance(config.sample, ImageSample) else "wasserstein_2"
        best = min(evaluation.results, key=lambda one: one.figures[measure])
        sections = [
            Section("At a glance", [Facts(_facts(evaluation, best, measure)), table(evaluation)]),
            Section(
                "Quality against function evaluations", [Figure(_chart(evaluation), _CHART.format(num=evaluation.num))]
            ),
        ]
        if picture is not None:
            sections.append(Section("What it draws", [Figure(picture, _DRAWN)]))
        ends = [config.data] if config.source_data is None else [config.source_data, config.data]
        words = ([getattr(end, name, None) for name in ("kind", "name", "path")] for end in ends)
        data = " to ".join(" ".join(str(word) for word in about if word is not None) for about in words)
        nearest = "comes" if best.evaluations == 1 else "come"
        return page(
            f"What {run_dir} draws",
            f"{_named(best)} {nearest} nearest to the data: {PANELS[measure]} {best.figures[measure]:.3g}; two sets of "
            f"real examples are {evaluation.floor[measure]:.3g} apart.",
            [*sections, *(reading.section() for reading in evaluation.readings)],
            kicker=f"{data}; {evaluation.checkpoint}, {evaluation.num:,} samples of each set, seed {evaluation.seed}"
            + (f", {under}" if (under := under_controls(evaluation)) else ""),
            footer=FOOTER,
            verb="evaluate",
        )
