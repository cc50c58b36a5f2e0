"""Utilisation of each link, for the pictures of the fabric."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.results import Results, Run


class Usage(NamedTuple):
    """Part of the run in which each link of the fabric was busy; used links between switches, and their busy time."""

    shares: np.ndarray
    fabric: np.ndarray
    busy_us: np.ndarray

    @property
    def busiest(self) -> int | None:
        """The busiest link between switches; None if none carried anything."""
        return int(self.fabric[self.busy_us.argmax()]) if len(self.fabric) else None

    @property
    def most(self) -> float:
        """Share of the busiest of them."""
        return float(self.shares[self.fabric].max(initial=0))

    @property
    def mean(self) -> float:
        """Their mean share."""
        return float(self.shares[self.fabric].mean()) if len(self.fabric) else 0.0

    @property
    def mean_us(self) -> float:
        """Mean over the links between switches that carried something."""
        return float(self.busy_us.mean()) if len(self.fabric) else 0.0

    @property
    def overload(self) -> float:
        """Time of the busiest link over the mean, less one."""
        return float(self.busy_us.max()) / self.mean_us - 1 if self.mean_us else 0.0


def usage(results: Results, run: Run) -> Usage:
    """How busy the links of a run were."""
    busy_ps = run.links["busy_ps"]
    fabric = _fabric_links(results)
    used = fabric[run.links["bytes"][fabric] > 0]
    return Usage(busy_ps / max(1, run.completion_ps), used, busy_ps[used] / 1e6)


def _fabric_links(results: Results) -> np.ndarray:
    switches = {name for tier in results.scene.topology.tiers for name in tier}
    between: Sequence[int] = [n for n, link in enumerate(results.links) if {link.src, link.dst} <= switches]
    return np.array(between, dtype=np.int64)
