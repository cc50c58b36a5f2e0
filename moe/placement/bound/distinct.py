"""How few parts the tokens of a layer can visit, whatever the division of its experts: a bound by sets of choices.

It rests on a semidefinite bound on the weight that pairs of experts that share a part can have.

Shape legend: L MoE layers, E experts per layer, P parts that every layer is divided into equally, n = L * E experts,
N distinct choice sets, K choices, M ways to part K choices, B pairs of K choices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.placement.ranks import cheapest_ranks
from moe.routing_trace import DROPPED

_ROUNDING = 1e-9  # of all weights or tokens, given away so that a rounded eigenvalue leaves the bound valid
_BISECTIONS = 50
_STIFFNESS = 20.0  # of the augmented Lagrangian, in mean weights
_MOST_CHOICES = 6  # whose 203 ways to part are all tried; with more choices a weaker rule prices the pairs
_STEPS = (0.8, 0.2)  # of a price, in parts, in the first and the last round
_HEATS = (0.2, 0.07)  # of the soft minimum over the ways to part, in parts
_OVERLOAD_STEP = 60.0  # of a price, in mean weights of a pair
_SOFT = 0.3  # added to the diagonal before the first prices are solved for
_WORK = 1e10  # products of all rounds, some seconds
_MOST_ROUNDS = 12
_FEWEST_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Prices of what a relaxed division may break: of Z[i, i] = 1, any sign, [n]; of Z[i, j] >= 0, at least 0, [n, n].

    Those of pairs are symmetric with a zero diagonal.
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
        """Sets up the basis of what is left without the means of the layers; `parts` P divides E."""
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
        """Project a symmetric matrix [n, n] on those with the relaxation's eigenvalues, diagonal and signs aside."""
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
        """Bound the weight [n, n] of the ordered pairs that share a part, from above.

        For any u and any N >= 0, <W, Z> <= <W + N + diag u, Z> - sum(u) for all divisions, and the right side is at
        most the sum of W + N + diag u over P, plus L E / P times its P - 1 largest eigenvalues without the means of the
        layers, less sum(u). L-BFGS lowers it from the given multipliers, by at least one set of eigenvalues; whatever
        it finds is valid.
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
        """Begins at a matrix of the relaxation, [n, n]."""
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


def fewest_parts(
    experts: NDArray[np.int64],
    tokens: NDArray[np.int64],
    num_experts: int,
    parts: int,
    rounds: int,
    homes: NDArray[np.int64] | None = None,
    shares: NDArray[np.float64] | None = None,
) -> float:
    """Bound the parts that all tokens of a layer visit, from below.

    For any prices b of its pairs of choices, a token visits at least

        min over ways to part its choices (their number + b of the pairs they keep together) - b of the pairs together

    parts. The minimum is over the few ways to part K choices; the second term adds up over the tokens to the weight of
    all pairs that share a part, and `Divisions.most` bounds that. So the division of all experts is relaxed, while that
    of the choices of a token is exact (Lagrangian decomposition; Guignard, Kim, Math. Programming 39, 1987). Rounds
    raise the price of pairs that the token's own division keeps together more often than that of all experts does.

    A token whose own part counts nothing pays, for any y, one part less where it meets a choice at home, but y for
    every choice there: min over ways and over their part at home, less y of the choices at home. The latter add up to
    an assignment of experts to parts.

    Where loads are limited, all experts that share a part with expert i together have at most a share of 1. A price
    v[i] >= 0 of that takes v[i] shares[j] from the weight of each pair and gives back v[i].

    Args:
        experts: Experts of each set, -1 where there is no choice, [N, K].
        tokens: Tokens of each set, [N].
        parts: Parts that the experts are divided into equally.
        homes: Part of the tokens of each set, which does not count, [N]; None to count all parts.
        shares: Load of each expert in units of the limit of a part, [E]; None for no limit.
    """
    counts = (experts != DROPPED).sum(axis=1)
    least = float(tokens[counts > 0].sum()) if homes is None else 0.0
    if parts == 1:
        return least
    divisions = Divisions(1, num_experts, parts)
    relaxation = Relaxation(divisions, divisions.mean())
    groups = []
    for size in np.unique(counts[counts > 0]):
        rows = counts == size
        chosen = np.sort(experts[rows], axis=1)[:, -size:]
        groups.append(_Group.collect(chosen, tokens[rows], relaxation.shared))
    shares = np.zeros(num_experts) if shares is None else shares
    overload = np.zeros(num_experts)
    for turn in range(rounds):
        weights = _weights(groups, num_experts)
        overload += _OVERLOAD_STEP * np.abs(weights).mean() * (relaxation.shared @ shares - 1)
        overload = np.maximum(overload, 0.0)
        relaxation.step(weights - _symmetric(overload, shares))
        step, heat = (first + (last - first) * turn / rounds for first, last in (_STEPS, _HEATS))
        for group in groups:
            places = parts if homes is not None and 2 * turn >= rounds else None
            group.reprice(relaxation.shared, places, np.float32(step), np.float32(heat))
    weights = _weights(groups, num_experts) - _symmetric(overload, shares)
    bound = -overload.sum() - divisions.most(weights, relaxation.multipliers(), rounds + 1)
    if homes is None:
        bound += sum(group.least() for group in groups)
    else:
        at_home = np.zeros((num_experts, parts))
        for size, group in zip(np.unique(counts[counts > 0]), groups, strict=True):
            bound += group.least_away()
            home = np.repeat(homes[counts == size][:, None], size, axis=1)
            np.add.at(at_home, (group.experts, home), group.tokens[:, None] * group.fares)
        bound -= float(at_home[np.arange(num_experts), cheapest_ranks(-at_home)].sum())
    return max(bound - _ROUNDING * float(tokens.sum()), least)


def affordable_rounds(num_sets: int, num_choices: int, num_layers: int, num_experts: int) -> int:
    """Rounds of `fewest_parts` that take some seconds for all layers; 0 if too few are possible to be of use."""
    pairs = num_choices * (num_choices - 1) // 2
    partitions = len(_partitions(num_choices)) if num_choices <= _MOST_CHOICES else 16 * num_choices
    work = max(num_sets * partitions * pairs + 10 * num_layers * num_experts**3, 1)
    rounds = min(int(_WORK // work), _MOST_ROUNDS)
    return rounds if rounds >= _FEWEST_ROUNDS else 0


@dataclass(eq=False)
class _Group:
    """Sets of K choices each, and the prices of their pairs.

    Attributes:
        experts: Experts of each set, [N, K].
        tokens: Tokens of each set, [N].
        pairs: Places of the two choices of each pair, [2, B].
        together: Pairs that each way to part keeps together, 0 or 1, [M, B]; none for too many choices.
        sizes: Number of parts of each way, [M].
        parting: Which parts each way has, of `held`, [M, H]; 0 or 1.
        held: Choices of every part that there can be, [H, K]; 0 or 1.
        prices: Price of each pair, [N, B].
        fares: Price y of each choice at home, [N, K].
        offset: What the token's minimum is where the ways to part are not tried, [N].
    """

    experts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    pairs: NDArray[np.int64]
    together: NDArray[np.float32]
    sizes: NDArray[np.float32]
    parting: NDArray[np.float32]
    held: NDArray[np.float32]
    prices: NDArray[np.float32]
    fares: NDArray[np.float32]
    offset: NDArray[np.float64]

    @classmethod
    def collect(cls, experts: NDArray[np.int64], tokens: NDArray[np.int64], shared: NDArray[np.float64]) -> "_Group":
        size = experts.shape[1]
        pairs = np.stack(np.triu_indices(size, 1))
        labels = np.array(_partitions(size)) if size <= _MOST_CHOICES else np.zeros((0, size), np.int64)
        together = (labels[:, pairs[0]] == labels[:, pairs[1]]).astype(np.float32)
        sizes = labels.max(axis=1, initial=-1).astype(np.float32) + 1
        held = (np.arange(1, 2**size)[:, None] >> np.arange(size) & 1).astype(np.float32)
        parting = np.zeros((len(labels), len(held)), np.float32)
        for part in range(size):
            partition = np.flatnonzero((labels == part).any(axis=1))
            parting[partition, (labels[partition] == part) @ (1 << np.arange(size)) - 1] = 1
        blocks = shared[experts[:, :, None], experts[:, None, :]]
        fares = (1 / blocks.sum(axis=2)).astype(np.float32) if len(labels) else np.zeros(experts.shape, np.float32)
        nothing = np.zeros((0, 0), np.float32)
        group = cls(experts, tokens, pairs, together, sizes, parting, held, nothing, fares, np.zeros(0))
        group._solve(shared)
        return group

    def reprice(self, shared: NDArray[np.float64], places: int | None, step: np.float32, heat: np.float32) -> None:
        """Raise the prices of what the tokens' own divisions have more often than that of all experts, `shared` [E, E].

        Args:
            shared: How often experts share a part.
            places: Number of parts, one of which is at home and does not count; None if all count.
            step: Change of a price for each unit of difference.
            heat: How soft the minimum over the ways to part is.
        """
        if not len(self.together):
            self._solve(shared)
            return
        odds = self.prices @ self.together.T
        odds += self.sizes
        odds -= odds.min(axis=1, keepdims=True)
        odds *= -1 / heat
        np.exp(odds, out=odds)
        if places is not None:
            home = np.exp((1 - self.fares @ self.held.T) / heat)
            at_home = home * (odds @ self.parting)
            odds *= 1 + home @ self.parting.T
            often = (at_home @ self.held) / odds.sum(axis=1, keepdims=True)
            self.fares += step * (often - np.float32(1 / places))
        kept = odds @ self.together
        kept /= odds.sum(axis=1, keepdims=True)
        met = shared[self.experts[:, self.pairs[0]], self.experts[:, self.pairs[1]]]
        self.prices += step * (kept - met.astype(np.float32))

    def least(self) -> float:
        """The tokens' minima, added up."""
        if not len(self.together):
            return float(self.offset @ self.tokens)
        prices = self.prices.astype(np.float64)
        smallest = (prices @ self.together.T.astype(np.float64) + self.sizes).min(axis=1)
        return float(smallest @ self.tokens)

    def least_away(self) -> float:
        """The tokens' minima where one part may be at home, whose choices pay their fares; added up."""
        if not len(self.together):
            return float((self.offset - 1) @ self.tokens)
        partitions = self.prices.astype(np.float64) @ self.together.T.astype(np.float64) + self.sizes
        smallest = partitions.min(axis=1)
        paid = self.fares.astype(np.float64) @ self.held.T.astype(np.float64) - 1
        for part, fare in enumerate(paid.T):
            containing = np.flatnonzero(self.parting[:, part])
            np.minimum(smallest, partitions[:, containing].min(axis=1) + fare, out=smallest)
        return float(smallest @ self.tokens)

    def _solve(self, shared: NDArray[np.float64]) -> None:
        """Price the pairs so that the bound is best at a given division.

        For a token with the matrix Z of its choices, parts >= 2 sum(c) - c' Z c for any c, since 1 - (1 - x)^2 <= 1;
        the best is c = Z^-1 1.
        """
        size = self.experts.shape[1]
        blocks = shared[self.experts[:, :, None], self.experts[:, None, :]] + _SOFT * np.eye(size)
        shares = np.linalg.solve(blocks, np.ones((len(blocks), size, 1)))[:, :, 0]
        self.prices = (2 * shares[:, self.pairs[0]] * shares[:, self.pairs[1]]).astype(np.float32)
        exact = self.prices.astype(np.float64)
        self.offset = (2 * shares - shares**2).sum(axis=1)
        self.offset -= np.abs(exact - 2 * shares[:, self.pairs[0]] * shares[:, self.pairs[1]]).sum(axis=1)


def _weights(groups: list[_Group], num_experts: int) -> NDArray[np.float64]:
    """Prices of all tokens by pair of experts, symmetric, [E, E]: each unordered pair is half in either entry."""
    weights = np.zeros(num_experts**2)
    for group in groups:
        index = group.experts[:, group.pairs[0]] * num_experts + group.experts[:, group.pairs[1]]
        prices = group.tokens[:, None] * group.prices.astype(np.float64)
        weights += np.bincount(index.ravel(), weights=prices.ravel(), minlength=len(weights))
    square = weights.reshape(num_experts, num_experts)
    return (square + square.T) / 2


def _symmetric(column: NDArray[np.float64], row: NDArray[np.float64]) -> NDArray[np.float64]:
    product = np.outer(column, row)
    return (product + product.T) / 2


def _partitions(size: int) -> list[tuple[int, ...]]:
    """Every way to part some choices: the part of each, numbered in the order of their first choices."""
    partitions: list[tuple[int, ...]] = [()]
    for _ in range(size):
        partitions = [(*partition, part) for partition in partitions for part in range(max(partition, default=-1) + 2)]
    return partitions
