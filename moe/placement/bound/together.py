"""How much weight pairs of experts that share a part can have, whatever the division: a semidefinite bound.

Shape legend: L MoE layers, E experts per layer, P parts that every layer is divided into equally, n = L * E experts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-9  # of all weights, given away so that a rounded eigenvalue leaves the bound valid
_BISECTIONS = 50
_STIFFNESS = 20.0  # of the augmented Lagrangian, in mean weights


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Prices of what a relaxed division may break.

    Attributes:
        diagonal: Of Z[i, i] = 1, any sign, [n].
        pairs: Of Z[i, j] >= 0, symmetric, at least 0, zero on the diagonal, [n, n].
    """

    diagonal: NDArray[np.float64]
    pairs: NDArray[np.float64]


class Divisions:
    """Divisions of every layer into equal parts, relaxed to matrices.

    Z[i, j] = 1 where experts i and j share a part, else 0. With z_g the 0/1 vector of part g, Z = sum_g z_g z_g'. As
    every z_g has E / P ones in every layer, Z = 1 / P + Y, where Y takes out the mean of every layer, has eigenvalues
    0 and L E / P, and rank P - 1. The relaxation keeps eigenvalues between these, their sum, Z >= 0 and Z[i, i] = 1
    (Donath and Hoffman, IBM J. Res. Dev. 17, 1973; Zhao, Karisch, Rendl, Wolkowicz, J. Comb. Optim. 2, 1998).
    """

    def __init__(self, num_layers: int, num_experts: int, parts: int) -> None:
        """Sets up the basis of what is left without the means of the layers.

        Args:
            num_layers: Layers L.
            num_experts: Experts E per layer.
            parts: Parts P of a layer, a divisor of E.
        """
        from scipy.linalg import helmert

        self.parts, self.size, self._num_experts = parts, num_layers * num_experts, num_experts
        self._basis = np.kron(np.eye(num_layers), helmert(num_experts).T)
        self._length = self.size / parts

    def mean(self) -> NDArray[np.float64]:
        """The mean of all divisions, [n, n]: two experts of one layer share a part by chance, or two of two layers."""
        layer = np.arange(self.size) // self._num_experts
        inside = (self._num_experts / self.parts - 1) / max(self._num_experts - 1, 1)
        mean = np.where(layer[:, None] == layer, inside, 1 / self.parts)
        np.fill_diagonal(mean, 1.0)
        return mean

    def nearest(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project a symmetric matrix on those with the eigenvalues of the relaxation.

        Args:
            matrix: Any symmetric matrix, [n, n].

        Returns:
            The nearest matrix of the relaxation, its diagonal and signs left aside, [n, n].
        """
        from scipy.linalg import eigh

        values, vectors = eigh(self._basis.T @ matrix @ self._basis)
        values = values / self._length
        low, high = values[0] - 1, values[-1]
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if np.clip(values - middle, 0, 1).sum() > self.parts - 1:
                low = middle
            else:
                high = middle
        shares = np.clip(values - low, 0, 1)
        kept = shares > 0
        directions = self._basis @ vectors[:, kept]
        return 1 / self.parts + self._length * (directions * shares[kept]) @ directions.T

    def most(self, weights: NDArray[np.float64], multipliers: Multipliers, evaluations: int) -> float:
        """Bound the weight of the pairs that share a part, from above.

        For any u and any N >= 0, <W, Z> <= <W + N + diag u, Z> - sum(u) for all divisions, and the right side is at
        most the sum of W + N + diag u over P, plus L E / P times its P - 1 largest eigenvalues without the means of
        the layers, less sum(u). L-BFGS lowers it from the given multipliers; whatever it finds is valid.

        Args:
            weights: Weight of each ordered pair, symmetric, [n, n].
            multipliers: Where to begin.
            evaluations: Sets of eigenvalues to compute, at least 1.

        Returns:
            The bound.
        """
        from scipy.linalg import eigh
        from scipy.optimize import minimize

        total = np.abs(weights).sum()
        if self.parts == 1 or total == 0:
            return float(weights.sum())
        rows, columns = np.triu_indices(self.size, 1)
        largest = (self._basis.shape[1] - self.parts + 1, self._basis.shape[1] - 1)
        unit = total / self.size
        best = np.inf

        def value(entries: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            nonlocal best
            diagonal = unit * entries[: self.size]
            priced = np.zeros_like(weights)
            priced[rows, columns] = unit * entries[self.size :]
            priced += priced.T + weights
            priced[np.diag_indices(self.size)] += diagonal
            values, vectors = eigh(self._basis.T @ priced @ self._basis, subset_by_index=largest)
            directions = self._basis @ vectors
            shared = 1 / self.parts + self._length * directions @ directions.T
            bound = priced.sum() / self.parts - diagonal.sum() + self._length * values.sum()
            best = min(best, bound)
            slope = np.concatenate([shared.diagonal() - 1, 2 * shared[rows, columns]])
            return bound / unit, slope

        start = np.concatenate([multipliers.diagonal, multipliers.pairs[rows, columns]]) / unit
        signs = [(None, None)] * self.size + [(0, None)] * len(rows)
        limits = {"maxfun": evaluations, "maxiter": evaluations}
        minimize(value, start, jac=True, method="L-BFGS-B", bounds=signs, options=limits)
        return float(best + _ROUNDING * total)


class Relaxation:
    """A division that gives weights as much as a relaxed one can, found by the method of multipliers.

    Each round moves Z along the weights to the nearest matrix with the right eigenvalues, then a copy of it to the
    nearest with Z >= 0 and Z[i, i] = 1, and prices the difference (Boyd et al., Found. Trends Mach. Learn. 3, 2011).
    The weights may change from round to round.
    """

    def __init__(self, divisions: Divisions, start: NDArray[np.float64]) -> None:
        """Begins at a division.

        Args:
            divisions: The divisions.
            start: A matrix of the relaxation, [n, n].
        """
        self._divisions = divisions
        self.shared = start
        self._difference = np.zeros_like(start)
        self._stiffness = 1.0

    def step(self, weights: NDArray[np.float64]) -> None:
        """Take one round; `shared` [n, n] is the division afterwards, non-negative with ones on its diagonal."""
        self._stiffness = _STIFFNESS * max(float(np.abs(weights).mean()), 1e-300)
        moved = self._divisions.nearest(self.shared - self._difference + weights / self._stiffness)
        allowed = np.maximum(moved + self._difference, 0.0)
        np.fill_diagonal(allowed, 1.0)
        self._difference = self._difference + moved - allowed
        self.shared = allowed

    def multipliers(self) -> Multipliers:
        """Prices of the difference between the two matrices."""
        pairs = np.maximum(-self._stiffness * (self._difference + self._difference.T) / 2, 0.0)
        np.fill_diagonal(pairs, 0.0)
        return Multipliers(-self._stiffness * self._difference.diagonal(), pairs)
