"""Results of a search for shares: the figures of mixture.json, from which the page is drawn."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.mixture import MixtureFile
from trainer.experiment.mixture.fit import Mix, Projection, Search, Values, amplification
from trainer.experiment.mixture.pilots import figure
from trainer.experiment.mixture.plan import Plan, command
from trainer.experiment.request.verbs import MixtureRequest

FORMAT = "flowfabric.mixture/1"


@dataclass(frozen=True)
class Cost:
    """Optimiser steps of all pilots and of the planned run, and wall time of the pilots' steps."""

    steps: int
    run_steps: int
    seconds: float

    @property
    def share(self) -> float:
        """Steps of the pilots, as a share of those of the planned run."""
        return self.steps / self.run_steps


@dataclass(frozen=True)
class SearchResult:
    """A search that has ended; figures of the mixes are [2, P], at the two sizes; the chosen projection is first."""

    request: MixtureRequest
    plan: Plan
    measured: Values
    distances: Values
    projections: list[Projection]
    search: Search
    pick: Mix
    cost: Cost

    @property
    def projection(self) -> Projection:
        """The chosen projection."""
        return self.projections[0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Examples of small and of large pilots."""
        return self.projection.sizes

    @property
    def amplification(self) -> float:
        """The largest factor by which the projection multiplies errors."""
        return amplification(self.sizes, self.request.target)

    def projected(self, mix: Mix, deviations: float = 0.0) -> float:
        """Returns the projected measure of a mix, made worse by so many standard deviations."""
        worse = self.search.at(mix) + deviations * self.projection.deviation(self.request.target)
        return float(figure(self.request.measure, np.array(worse)))

    @property
    def alike(self) -> list[Mix]:
        """Mixes that were projected within a standard deviation of the pick, the best first."""
        reach = self.search.at(self.pick) + self.projection.deviation(self.request.target)
        return sorted((mix for mix, at in self.search.known.items() if at <= reach), key=self.search.at)

    def file(self) -> MixtureFile:
        """The document of mixture.json."""
        figures: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "trainer", *command(self.request, self.sizes)]),
            "measure": self.request.measure,
            "wanted": self.request.wanted,
            "sizes": list(self.sizes),
            "target": self.request.target,
            "projected": self.projected(self.pick),
            "one_deviation": sorted([self.projected(self.pick, -1), self.projected(self.pick, 1)]),
            "alike": len(self.alike),
            "amplification": self.amplification,
            "left_out_errors": {one.features: one.error for one in self.projections},
            "penalty": self.projection.penalty,
            "pilot_steps": self.cost.steps,
            "run_steps": self.cost.run_steps,
            "pilot_seconds": self.cost.seconds,
            "pilots": [
                {
                    "shares": self.plan.shares(mix),
                    "measured": [float(one) for one in self.measured[:, place]],
                    "distances": [float(one) for one in self.distances[:, place]],
                    "projected": self.projected(mix),
                }
                for place, mix in enumerate(self.plan.mixes)
            ],
        }
        return MixtureFile(format=FORMAT, shares=self.plan.shares(self.pick), figures=figures)
