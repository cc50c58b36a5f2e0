"""Episodes played on features beside the examples themselves: a table, lines below it and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table as TerminalTable
from torch import Tensor

import trainer.data
from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, GREEN, RED, SOLID, Dots, Level, Line, Mark
from netsim.foundation.page import Facts, Figure, Section, Table, page
from trainer.data import AnyConfig, Batch
from trainer.evaluation.episodes import LEFT_AT, Episodes, k_means, nearest, regressed, transported
from trainer.observe.measurement import FOOTER, Measurement, Progress, figures_table

MOST_EXAMPLES = 20_000
TOGETHER = 250
"""Examples whose features are computed at once."""


def played_examples(data: AnyConfig, episodes: Episodes) -> Batch:
    """The held-out examples that episodes are drawn from; raises ValueError if episodes cannot be drawn from them."""
    episodes.check()
    dataset = trainer.data.build(data)
    batch = dataset.get(trainer.data.first_data_points(dataset, "held_out", MOST_EXAMPLES))
    episodes.check_labels(batch.labels)
    return batch


@torch.no_grad()
def measure_features(
    extract: Callable[[Tensor], Tensor],
    name: str,
    batch: Batch,
    episodes: Episodes,
    *,
    about: str,
    checkpoint: str,
    device: torch.device,
    progress: Progress,
) -> FewShotMeasurement:
    """Plays episodes on features [B, W], called `name`, that `extract` makes, and on the examples themselves."""
    progress(f"features of {len(batch.x_1)} held-out examples")
    parts = [extract(part.to(device)).float().flatten(1).cpu() for part in batch.x_1.split(TOGETHER)]
    sets = {name: torch.cat(parts), "examples themselves": batch.x_1.float().flatten(1)}
    shares = {each: play(values, batch.labels, episodes, progress) for each, values in sets.items()}
    return FewShotMeasurement(checkpoint, about, len(batch.x_1), episodes, shares)


def in_words(data: AnyConfig) -> str:
    """Describes data by their kind and place."""
    return " ".join(str(word) for word in (data.kind, getattr(data, "path", None)) if word is not None)


AT_ONCE = 100
"""Episodes that are played at once."""
SURE = 1.96
"""Standard errors of a 95 % interval."""
COLOURS = BLUE, RED, GREEN

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
"""Classifiers of queries, of which the first is the reference; transport sees all queries of an episode."""
Shares = dict[int, dict[str, NDArray[np.float64]]]
"""Shares of queries classified correctly, [episodes], by labelled examples per class and by method."""


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
            parts = zip(drawn.shots[:, :, :shots].split(AT_ONCE), drawn.queries.split(AT_ONCE), strict=True)
            right = [(classify(features[few], features[new]) == drawn.truth).double().mean(1) for few, new in parts]
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
        """Rows: features, labelled examples, method, its share, and its gain over `RIVAL`, paired by episode."""
        return [
            (features, shots, name, interval(values), interval(values - of_shots[RIVAL]))
            for features, shares in self.shares.items()
            for shots, of_shots in shares.items()
            for name, values in of_shots.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        keys = ("features", "shots", "method", "accuracy", "gain")
        request = self.episodes
        return {
            "format": "flowfabric.few_shot/1",
            "checkpoint": self.checkpoint,
            "examples": self.examples,
            "episodes": request.num,
            "ways": request.ways,
            "queries": list(request.by_class),
            "seed": request.seed,
            "results": [dict(zip(keys, row, strict=True)) for row in self.rows()],
        }

    def table(self) -> TerminalTable:
        title = f"{self.episodes.num} episodes of {self.episodes.ways} classes, {self.checkpoint}"
        columns = ("features", "classified by", *self._headings())
        rows = [(features, name, *self._cells(features, name)) for features in self.shares for name in METHODS]
        ends = range(len(METHODS) - 1, len(rows), len(METHODS))
        return figures_table(columns, rows, title=title, words=2, ends=ends)

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
            f"Few-shot classification by {run_dir}",
            f"With {shots} labelled example{plural} of a class, {best} gains most over the {RIVAL}: "
            f"{_points(gains[best])} points (95 %, {self.episodes.num} episodes).",
            [
                Section("At a glance", [Facts(facts)]),
                Section("What adaptation gains", [Figure(self._chart(), f"{self.remarks()[1]}. Lines: 95 %.")]),
                Section("All figures", [Table(("features, classified by", *self._headings()), rows)]),
                *([] if picture is None else [Section("Examples", [Figure(picture, "Held-out examples.")])]),
            ],
            kicker=f"{self.about}; {self.checkpoint}, {self.examples:,} held-out examples, {self.episodes.num} "
            f"episodes of {self.episodes.ways} classes, {self.remarks()[0]}",
            footer=FOOTER,
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
        """A panel for each number of labelled examples; gains of the methods with their intervals, by features."""
        names, panels = [name for name in METHODS if name != RIVAL], []
        for place, shots in enumerate(self.episodes.shots):
            marks: list[Mark] = [Level(0, upright=True, dash=SOLID, width=1.0)]
            for number, (features, colour) in enumerate(zip(self.shares, COLOURS, strict=False)):
                of_shots = self.shares[features][shots]
                for row, name in enumerate(names):
                    mean, half = (100 * one for one in interval(of_shots[name] - of_shots[RIVAL]))
                    y = row + 0.2 * number
                    marks.append(Line([mean - half, mean + half], [y, y], colour, width=1.4))
                    marks.append(Dots([mean], [y], colour, "" if row else features, 30))
            title, legend = f"{shots} labelled of a class", "" if place else "best"
            rows, limits = names if not place else (), (len(names) - 0.5, -0.5)
            panels.append(Panel(marks, title, x="gain in points", rows=rows, y_limits=limits, grid="x", legend=legend))
        return chart(panels, size=(11.0, 3.6), name="gains", share="y")


def _points(gain: tuple[float, float]) -> str:
    mean, half = gain
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"
