"""Episodes played on some features beside the examples themselves: a table, lines below it and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table as TerminalTable
from torch import Tensor

from moe.report.figures import INK, STYLE, to_svg
from netsim.foundation.page import Facts, Figure, Section, Table, page
from trainer.evaluation.few_shot.adaptation import LEFT_AT, k_means, nearest, regressed, transported
from trainer.evaluation.few_shot.episodes import Episodes
from trainer.observe.measurement import Measurement, Progress

TOGETHER = 100
"""Episodes that are played at once."""
SURE = 1.96
"""Standard errors of a 95 % interval."""
FLOOR, COLOURS = "#5b6875", ("#0072b2", "#d55e00", "#009e73")

Classify = Callable[[Tensor, Tensor], Tensor]
"""From labelled examples [E, W, S, D] and queries [E, Q, D] to classes [E, Q]."""


def _moved(passes: int, left_at: float = torch.inf) -> Classify:
    return lambda shots, queries: nearest(transported(shots, queries, passes=passes, left_at=left_at), queries)


RIVAL = "nearest prototype"
METHODS: Mapping[str, Classify] = {
    RIVAL: lambda shots, queries: nearest(shots.mean(2), queries),
    "k-means": lambda shots, queries: nearest(k_means(shots, queries), queries),
    "transport, 1 pass": _moved(1),
    "transport, 5 passes": _moved(5),
    "unbalanced, 1 pass": _moved(1, LEFT_AT),
    "unbalanced, 5 passes": _moved(5, LEFT_AT),
    "regression": regressed,
    "transport, regression": lambda shots, queries: regressed(
        transported(shots, queries, passes=1)[:, :, None], queries
    ),
}
"""Classifications of queries, the one that all are compared with first; transport sees the queries of an episode."""
Shares = dict[int, dict[str, NDArray[np.float64]]]
"""Of queries that are classified right, [episodes], by labelled examples of a class and by method."""


def play(
    features: Tensor,
    labels: Tensor | None,
    episodes: Episodes,
    progress: Progress = lambda _: None,
    methods: Mapping[str, Classify] = METHODS,
) -> Shares:
    """Plays episodes on the features [N, D] of examples of classes int64 [N]."""
    drawn, shares = episodes.draw(labels), {shots: {} for shots in episodes.shots}
    for shots, of_shots in shares.items():
        for name, classify in methods.items():
            progress(f"playing {episodes.num} episodes, {shots} labelled examples of a class, {name}")
            parts = zip(drawn.shots[:, :, :shots].split(TOGETHER), drawn.queries.split(TOGETHER), strict=True)
            right = [(classify(features[few], features[asked]) == drawn.truth).double().mean(1) for few, asked in parts]
            of_shots[name] = torch.cat(right).numpy()
    return shares


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean over episodes, and half of its 95 % interval."""
    return float(values.mean()), float(SURE * values.std(ddof=1) / len(values) ** 0.5)


@dataclass(frozen=True, eq=False)
class FewShotMeasurement(Measurement):
    """Shares by the name of the features that episodes were played on, those of the network first.

    Attributes:
        about: what the examples are, in a few words.
    """

    checkpoint: str
    about: str
    examples: int
    episodes: Episodes
    shares: Mapping[str, Shares]

    def rows(self) -> list[tuple[str, int, str, tuple[float, float], tuple[float, float]]]:
        """Features, labelled examples, method, its share and what it gains over `RIVAL`, paired by episode."""
        return [
            (features, shots, name, interval(values), interval(values - of_shots[RIVAL]))
            for features, shares in self.shares.items()
            for shots, of_shots in shares.items()
            for name, values in of_shots.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        keys = ("features", "shots", "method", "accuracy", "gain")
        asked = self.episodes
        return {
            "format": "flowfabric.few_shot/1",
            "checkpoint": self.checkpoint,
            "examples": self.examples,
            "episodes": asked.num,
            "ways": asked.ways,
            "queries": list(asked.by_class),
            "seed": asked.seed,
            "results": [dict(zip(keys, row, strict=True)) for row in self.rows()],
        }

    def table(self) -> TerminalTable:
        title = f"{self.episodes.num} episodes of {self.episodes.ways} classes, {self.checkpoint}"
        shown = TerminalTable(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
        for heading in ("features", "classified by"):
            shown.add_column(heading, no_wrap=True)
        for heading in self._headings():
            shown.add_column(heading, justify="right", no_wrap=True)
        for features in self.shares:
            for name in METHODS:
                last = name == list(METHODS)[-1]
                shown.add_row(features, name, *self._cells(features, name), end_section=last)
        return shown

    def remarks(self) -> list[str]:
        queries = ", ".join(map(str, self.episodes.by_class))
        return [
            f"queries of the classes of an episode: {queries}; seed {self.episodes.seed}; intervals are of 95 %",
            f"gain: over the {RIVAL} of the same episodes; transport sees all queries of an episode at once",
        ]

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        features = next(iter(self.shares))
        gains = {row[2]: row[4] for row in self.rows() if row[:2] == (features, self.episodes.shots[0])}
        best = max(gains, key=lambda name: gains[name][0])
        facts = [
            (f"{shots} labelled", f"{share[0]:.1%}", f"{features}, {RIVAL}")
            for features, shots, name, share, _ in self.rows()
            if name == RIVAL
        ]
        rows = [(f"{features}, {name}", *self._cells(features, name)) for features in self.shares for name in METHODS]
        shots = self.episodes.shots[0]
        plural = "s" * (shots > 1)
        return page(
            f"What {run_dir} tells apart by a few examples",
            f"With {shots} labelled example{plural} of a class, {best} gains most over the {RIVAL}: "
            f"{_points(gains[best])} points.",
            [
                Section("At a glance", [Facts(facts)]),
                Section("What adaptation gains", [Figure(self._chart(), f"{self.remarks()[1]}. Lines: 95 %.")]),
                Section("All figures", [Table(("features, classified by", *self._headings()), rows)]),
                *([] if picture is None else [Section("Examples", [Figure(picture, "Held-out examples.")])]),
            ],
            kicker=f"{self.about}; {self.checkpoint}, {self.examples:,} held-out examples, {self.episodes.num} "
            f"episodes of {self.episodes.ways} classes, {self.remarks()[0]}",
            footer="Every figure on this page is in the JSON of the same evaluation; nothing is loaded from a network.",
            verb="evaluate",
        )

    def _headings(self) -> list[str]:
        return [heading for shots in self.episodes.shots for heading in (f"{shots} labelled", "gain, points")]

    def _cells(self, features: str, name: str) -> list[str]:
        cells = []
        for of_shots in self.shares[features].values():
            cells.append(f"{of_shots[name].mean():.1%}")
            cells.append("" if name == RIVAL else _points(interval(of_shots[name] - of_shots[RIVAL])))
        return cells

    def _chart(self) -> str:
        """A panel for each number of labelled examples; gains of the methods, by features."""
        names: Sequence[str] = [name for name in METHODS if name != RIVAL]
        with mpl.rc_context(STYLE):
            figure = Drawing(figsize=(11.0, 3.6), layout="constrained")
            panels = figure.subplots(1, len(self.episodes.shots), sharey=True, squeeze=False)[0]
            for axes, shots in zip(panels, self.episodes.shots, strict=True):
                for number, (features, colour) in enumerate(zip(self.shares, COLOURS, strict=False)):
                    of_shots = self.shares[features][shots]
                    gains = [interval(of_shots[name] - of_shots[RIVAL]) for name in names]
                    places = np.arange(len(names)) + 0.2 * number
                    means, halves = (100 * np.array(one) for one in zip(*gains, strict=True))
                    axes.errorbar(means, places, xerr=halves, fmt="o", color=colour, label=features, ms=5)
                axes.axvline(0, color=FLOOR, linewidth=1)
                axes.set_yticks(range(len(names)), names)
                axes.set_title(f"{shots} labelled of a class", loc="left", fontsize=10.5, color=INK)
                axes.set_xlabel("gain in points")
            panels[0].invert_yaxis()
            figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
            return to_svg(figure)


def _points(gain: tuple[float, float]) -> str:
    mean, half = gain
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"
