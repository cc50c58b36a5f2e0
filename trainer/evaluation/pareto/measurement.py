"""What the evaluate verb shows of a policy that builds objects: a table, lines below it and a page.

Shape suffixes: N objects, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from trainer.evaluation.pareto.indicators import Points, front, hypervolume, r2
from trainer.observe.measurement import Measurement

BEST = 10
"""Distinct objects of a preference that count as its best."""


@dataclass(frozen=True, eq=False)
class OfPreference:
    """Objects that were built for one preference.

    Attributes:
        weights: [K] of the objectives.
        rewards: [N, K] by each objective.
        reward: mean by the preference, not raised to the exponent.
        best: the same of the best distinct objects.
        diversity: mean distance between any two of these.
        even: mean reward, by the preference, of objects that even choices lead to.
        wanted: the same of the distribution that is wanted; None: there are too many objects to know it.
        wanted_rewards: [K] means of the objectives under that distribution; None: likewise.
        total_variation: between the wanted distribution and the policy's own, both exact; None: likewise.
        log_partition_error: of the network's log Z, absolute; None: likewise.
    """

    weights: tuple[float, ...]
    rewards: Points = field(repr=False)
    reward: float
    best: float
    diversity: float
    even: float
    wanted: float | None = None
    wanted_rewards: tuple[float, ...] | None = None
    total_variation: float | None = None
    log_partition_error: float | None = None

    @property
    def means(self) -> list[float]:
        """Mean of each objective, [K]."""
        return self.rewards.mean(axis=0).tolist()


@dataclass(frozen=True, eq=False)
class ParetoMeasurement(Measurement):
    """The figures of a policy, for a lattice of preferences.

    Attributes:
        names: of the objectives.
        rewards_are: what the rewards are, if not the objectives themselves; empty: they are.
        checkpoint: name of the checkpoint that was measured.
        num: objects of each preference.
        seed: of all draws.
        exponent: that rewards are raised to.
        preferences: what was built for each.
        even: [N, K] rewards of as many objects as all preferences have together, which even choices lead to.
        reachable: [N, K] rewards of all objects; None: there are too many.
        has_picture: whether the run's own picture says more than the page does: which cells of a grid are built.
    """

    names: tuple[str, ...]
    rewards_are: str
    checkpoint: str
    num: int
    seed: int
    exponent: float
    preferences: Sequence[OfPreference]
    even: Points = field(repr=False)
    reachable: Points | None = field(repr=False, default=None)
    has_picture: bool = False

    @cached_property
    def built(self) -> Points:
        """Rewards of all objects that were built, [N, K]."""
        return np.concatenate([one.rewards for one in self.preferences])

    @cached_property
    def indicators(self) -> dict[str, dict[str, float]]:
        """Hypervolume, R2 and size of the front: ``built``, of ``even`` choices, of ``all`` where they are known."""
        weights = np.array([one.weights for one in self.preferences])
        sets = {"built": self.built, "even": self.even, "all": self.reachable}
        return {
            name: {"hypervolume": hypervolume(points), "r2": r2(points, weights), "front": len(front(points))}
            for name, points in sets.items()
            if points is not None
        }

    def mean(self, figure: Callable[[OfPreference], float | None]) -> float | None:
        """Mean of a figure over the preferences; None where it is not known."""
        values = [value for value in map(figure, self.preferences) if value is not None]
        return fmean(values) if values else None

    def to_dict(self) -> dict[str, Any]:
        """See `Measurement.to_dict`."""
        return {
            "format": "flowfabric.objects/1",
            "checkpoint": self.checkpoint,
            "objectives": list(self.names),
            "num": self.num,
            "seed": self.seed,
            "exponent": self.exponent,
            "best": BEST,
            "indicators": self.indicators,
            "preferences": [
                {
                    "weights": list(one.weights),
                    "rewards": dict(zip(self.names, one.means, strict=True)),
                    "reward": one.reward,
                    "best_reward": one.best,
                    "diversity": one.diversity,
                    "even_reward": one.even,
                    "wanted_reward": one.wanted,
                    "total_variation": one.total_variation,
                    "log_partition_error": one.log_partition_error,
                }
                for one in self.preferences
            ],
        }

    def table(self) -> Table:
        """See `Measurement.table`; a row for each preference, and their mean."""
        title = f"{self.num:,} objects of {self.checkpoint} for each preference, exponent {self.exponent:g}"
        shown = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
        columns = self.columns()
        shown.add_column(" ".join(self.names), no_wrap=True)
        for heading in columns:
            shown.add_column(heading, justify="right", no_wrap=True)
        for place, one in enumerate(self.preferences, start=1):
            cells = (cell(figure(one)) for figure in columns.values())
            shown.add_row(preference(one), *cells, end_section=place == len(self.preferences))
        shown.add_row("mean", *(cell(self.mean(figure)) for figure in columns.values()))
        return shown

    def columns(self) -> dict[str, Callable[[OfPreference], float | None]]:
        """Headings of a table, and what stands below them; without what no preference has."""
        columns: dict[str, Callable[[OfPreference], float | None]] = {
            "reward": lambda one: one.reward,
            "wanted": lambda one: one.wanted,
            "even": lambda one: one.even,
            f"best {BEST}": lambda one: one.best,
            "diversity": lambda one: one.diversity,
            "TV": lambda one: one.total_variation,
            "log Z off": lambda one: one.log_partition_error,
        }
        return {name: figure for name, figure in columns.items() if self.mean(figure) is not None}

    def remarks(self) -> list[str]:
        """See `Measurement.remarks`; the indicators of all preferences together, and what the columns are."""
        found, even = self.indicators["built"], self.indicators["even"]
        lines = [f"rewards are {self.rewards_are}"] if self.rewards_are else []
        whole = self.indicators.get("all")
        of_all = (
            "" if whole is None else f", {found['hypervolume'] / (whole['hypervolume'] or 1.0):.2%} of all objects'"
        )
        of_even = f"even choices: {even['hypervolume']:.4f}, {even['r2']:.4f}"
        lines.append(
            f"hypervolume {found['hypervolume']:.4f} above 0{of_all}; R2 {found['r2']:.4f} from 1, less is better "
            f"({of_even})"
        )
        lines.append(
            f"reward: mean by the preference; even: of even choices; best {BEST}: of the best distinct objects, whose "
            "mean distance is the diversity"
        )
        if whole is None:
            lines.append("there are too many objects to list: how near the policy is to what is wanted is not known")
        else:
            lines.append(
                "wanted: under the distribution that the run is to learn; TV: total variation of the policy's from it, "
                "exact"
            )
        return lines

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        """See `Measurement.page`."""
        from trainer.evaluation.pareto.page import pareto_page  # matplotlib takes a second to import

        return pareto_page(self, run_dir=str(run_dir), picture=picture if self.has_picture else None)


def preference(one: OfPreference) -> str:
    """The weights of a preference in a few letters."""
    return " ".join(f"{weight:.3g}" for weight in one.weights)


def cell(value: float | None) -> str:
    """A figure as a table shows it; empty where there is none."""
    return "" if value is None else f"{value:.4f}"
