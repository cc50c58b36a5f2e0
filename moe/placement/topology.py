"""The ranks of one expert-parallel group, and the cost of moving a token between them.

Shape legend: G ranks of the group.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.arrays import UNREADABLE, quietly
from netsim.foundation.refusal import Refusal

_BITS_PER_S = {"Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12}
_PER_SECOND = {"ns": 1e9, "us": 1e6, "ms": 1e3}
_RATES = re.compile(r"intra=([\d.]+)([MGT]bps),inter=([\d.]+)([MGT]bps)(?:,latency=([\d.]+)(ns|us|ms))?")
_MOST_COST = 1e100
"""Largest cost of a move, so that sums over the tokens of any trace are finite."""


@dataclass(frozen=True)
class LinkRates:
    """Rates of the links of a rank to its node and to other nodes, bits a second, and seconds until a first byte
    arrives.
    """

    intra_bps: float
    inter_bps: float
    latency_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Topology:
    """Nodes with the same number of ranks each, and a cost for every ordered pair of ranks.

    Attributes:
        num_nodes: Nodes of the group.
        ranks_per_node: Ranks on each node; rank g sits on node g // ranks_per_node.
        cost: Cost of moving one token from a rank to another, float [G, G], zero on the diagonal.
        unit: Name of the unit of cost, for tables and axes.
        rates: Rates that the cost was made from, or None if times cannot be predicted.
    """

    num_nodes: int
    ranks_per_node: int
    cost: NDArray[np.float64]
    unit: str
    rates: LinkRates | None = None

    def __post_init__(self) -> None:
        for name in ("num_nodes", "ranks_per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1 ({getattr(self, name)}); give a positive number")
        square = (self.num_ranks, self.num_ranks)
        if self.cost.shape != square:
            raise ValueError(f"cost: shape {self.cost.shape} is not {square}; give a row and a column for each rank")
        if not np.isfinite(self.cost).all() or (self.cost < 0).any():
            raise ValueError("cost: holds NaN, infinite or negative entries; give finite costs of at least 0")
        if (self.cost > _MOST_COST).any():
            raise ValueError(f"cost: holds {self.cost.max():g}; give costs of at most {_MOST_COST:g}, in another unit")
        if self.cost.diagonal().any():
            raise ValueError("cost: the diagonal is not zero; a token that stays on its rank costs nothing")

    @property
    def num_ranks(self) -> int:
        """Ranks G of the group."""
        return self.num_nodes * self.ranks_per_node

    @property
    def off_rank(self) -> NDArray[np.float64]:
        """1 where two ranks differ, float [G, G]."""
        return 1.0 - np.eye(self.num_ranks)

    @property
    def off_node(self) -> NDArray[np.float64]:
        """1 where two ranks sit on different nodes, float [G, G]."""
        node = np.arange(self.num_ranks) // self.ranks_per_node
        return (node[:, None] != node).astype(np.float64)

    def levels(self) -> tuple[float, float]:
        """Least cost to another rank and back, and the least extra cost to another node and back."""
        there_and_back = self.cost + self.cost.T
        away, far = self.off_rank > 0, self.off_node > 0
        near = float(there_and_back[away].min()) if away.any() else 0.0
        return near, float(there_and_back[far].min()) - near if far.any() else 0.0

    @classmethod
    def two_level(cls, num_nodes: int, ranks_per_node: int, *, intra: float, inter: float, unit: str) -> Self:
        """Build a topology with one cost inside a node and one between nodes, in units of `unit`."""
        node = np.arange(max(num_nodes * ranks_per_node, 0)) // max(ranks_per_node, 1)
        cost = np.where(node[:, None] == node, float(intra), float(inter))
        np.fill_diagonal(cost, 0.0)
        return cls(num_nodes, ranks_per_node, cost, unit)

    @classmethod
    def hops(cls, num_nodes: int, ranks_per_node: int) -> Self:
        """Count 0 on the same rank, 1 on the same node, 2 between nodes."""
        return cls.two_level(num_nodes, ranks_per_node, intra=1, inter=2, unit="hops")

    @classmethod
    def parse(cls, text: str, num_nodes: int, ranks_per_node: int) -> Self:
        """Read a cost from the command line.

        Args:
            text: `hops`; a path to a `.npy` matrix [G, G]; or `intra=900Gbps,inter=100Gbps`, which gives a byte its
                transfer time relative to the transfer time inside a node, and may add `,latency=5us` for predictions.
            num_nodes: Nodes of the group.
            ranks_per_node: Ranks on each node.

        Returns:
            The topology.

        Raises:
            Refusal: The matrix cannot be read or is no cost matrix.
            ValueError: The text is none of the three.
        """
        if text == "hops":
            return cls.hops(num_nodes, ranks_per_node)
        if text.endswith(".npy"):
            return cls._from_matrix(Path(text), num_nodes, ranks_per_node)
        match = _RATES.fullmatch(text)
        try:
            if match is None:
                raise ValueError(text)
            intra, inter = float(match[1]) * _BITS_PER_S[match[2]], float(match[3]) * _BITS_PER_S[match[4]]
            latency = float(match[5]) / _PER_SECOND[match[6]] if match[5] else 0.0
            ratio = intra / inter
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(
                f"cost: is unknown ({text}); give hops, a .npy matrix or intra=900Gbps,inter=100Gbps"
            ) from error
        if not ratio:
            raise ValueError(f"cost: a rate of 0 moves nothing ({text}); give rates above 0")
        topology = cls.two_level(num_nodes, ranks_per_node, intra=1, inter=ratio, unit="transfers inside a node")
        return replace(topology, rates=LinkRates(intra, inter, latency))

    @classmethod
    def _from_matrix(cls, path: Path, num_nodes: int, ranks_per_node: int) -> Self:
        remedy = f"save a float matrix with {num_nodes * ranks_per_node} rows and columns by numpy.save"
        try:
            with path.open("rb") as stream, quietly():
                matrix = np.load(stream, allow_pickle=False)
            if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "biuf":
                raise TypeError
        except OSError as error:
            raise Refusal(path, "cost", f"cannot be read ({error.strerror or error})", "check the path") from error
        except UNREADABLE as error:
            raise Refusal(path, "cost", "is not a plain array of numbers", remedy) from error
        try:
            return cls(num_nodes, ranks_per_node, matrix.astype(np.float64), "units of the cost matrix")
        except ValueError as error:
            field, _, problem = str(error).partition(": ")
            problem, _, remedy = problem.partition("; ")
            raise Refusal(path, field, problem, remedy) from error
