"""Six workloads for a router: logits whose top-k loads are known exactly.

A synthetic workload states how many tokens of a batch prefer each expert. A random batch with just these numbers is
drawn, without affinity between experts. The preferred experts get logits from [1, 2), the others from [0, 1), so the
busiest expert of plain top-k routing is known without a draw; :func:`busiest` has the closed forms. The real workload
takes the choices that a model made for its own tokens.

Shape legend: S steps, R ranks, T tokens of a rank, N = R x T tokens of a batch, E experts, K choices of a token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from moe.routing_trace import RoutingTrace

ZIPF_EXPONENT = 0.8
BURST_EVERY = 8
Counts = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Sizes of a workload.

    Attributes:
        ranks: R.
        tokens: T of each rank.
        experts: E.
        top_k: K.
    """

    ranks: int
    tokens: int
    experts: int
    top_k: int

    @property
    def batch(self) -> int:
        """Tokens N of a batch."""
        return self.ranks * self.tokens

    @property
    def choices(self) -> int:
        """Choices of a batch."""
        return self.batch * self.top_k


def even_loads(shape: Shape, step: int) -> Counts:
    """Every expert the same, but for what does not divide."""
    del step
    return rounded(np.ones(shape.experts), shape.choices)


def zipf_loads(shape: Shape, step: int) -> Counts:
    """The load of the r-th expert falls as r^-0.8, where no token can choose an expert twice."""
    del step
    return rounded(np.arange(1, shape.experts + 1) ** -ZIPF_EXPONENT, shape.choices)


def hot_loads(shape: Shape, step: int) -> Counts:
    """Every second token prefers expert 0; the other choices are even."""
    del step
    hot = shape.batch // 2
    return np.concatenate([[hot], rounded(np.ones(shape.experts - 1), shape.choices - hot)])


def drifting_loads(shape: Shape, step: int) -> Counts:
    """Zipf's loads, handed on to the next expert at every step."""
    return np.roll(zipf_loads(shape, 0), step)


def bursty_loads(shape: Shape, step: int) -> Counts:
    """Even batches, but every eighth has a hot expert."""
    return hot_loads(shape, 0) if step % BURST_EVERY == 0 else even_loads(shape, 0)


LOADS: dict[str, Callable[[Shape, int], Counts]] = {
    "even": even_loads,
    "Zipf": zipf_loads,
    "one hot expert": hot_loads,
    "drifting": drifting_loads,
    "bursty": bursty_loads,
}
"""Tokens that prefer each expert, int64 [E], by workload."""


def busiest(name: str, shape: Shape) -> Fraction:
    """Largest load over the mean load under plain top-k routing, where the experts divide the choices evenly.

    Args:
        name: a synthetic workload; for `bursty` that of the batch with the burst.
        shape: its sizes.

    Returns:
        1 if even; E x share for one hot expert, whose share is 1 / 2K; E / sum of r^-0.8 for Zipf, up to rounding.
    """
    if name == "even":
        return Fraction(1)
    if name in ("one hot expert", "bursty"):
        return Fraction(shape.experts, 2 * shape.top_k)
    return Fraction(shape.experts / sum(rank**-ZIPF_EXPONENT for rank in range(1, shape.experts + 1)))


def synthetic(name: str, shape: Shape, steps: int, seed: int) -> Iterator[Logits]:
    """The batches of a synthetic workload.

    Args:
        name: key of `LOADS`.
        shape: its sizes.
        steps: batches.
        seed: of all draws.

    Yields:
        Logits [R, T, E].
    """
    for step in range(steps):
        random = np.random.default_rng((seed, step))
        preferred_NE = drawn_preferences(LOADS[name](shape, step), shape, random)
        logits_NE = random.random(preferred_NE.shape, dtype=np.float32) + preferred_NE
        yield logits_NE.reshape(shape.ranks, shape.tokens, shape.experts)


def real(traces: Sequence[RoutingTrace], layer: int, shape: Shape, steps: int, seed: int) -> Iterator[Logits]:
    """Batches of recorded tokens: a token's k-th choice, from 0, has the logit 2 - k / K, all others are below 1.

    The order of the choices was recorded; which expert would have come next was not, and is drawn.

    Args:
        traces: routing traces; the tokens of their source ranks are dealt over the ranks here.
        layer: MoE layer.
        shape: sizes; experts and choices are those of the traces.
        steps: batches; the tokens begin anew after the last.
        seed: of the logits that were not recorded.

    Yields:
        Logits [R, T, E].

    Raises:
        ValueError: a trace has other sizes, or dropped choices.
    """
    for trace in traces:
        if (trace.header.num_experts, trace.header.top_k) != (shape.experts, shape.top_k):
            own = f"{trace.header.num_experts} experts, {trace.header.top_k} choices"
            raise ValueError(f"header: has {own}; take {shape.experts} experts and {shape.top_k} choices")
        if (trace.expert_ids < 0).any():
            raise ValueError("expert_ids: some choices were dropped; record a run without capacity")
    ids_NK = np.concatenate([trace.expert_ids[:, layer] for trace in traces])
    ranks_N = np.concatenate([trace.source_rank for trace in traces]) % shape.ranks
    own_R = [np.flatnonzero(ranks_N == rank) for rank in range(shape.ranks)]
    for step in range(steps):
        random = np.random.default_rng((seed, step))
        places = step * shape.tokens + np.arange(shape.tokens)
        taken_N = np.concatenate([own[places % len(own)] for own in own_R])
        logits_NE = random.random((shape.batch, shape.experts), dtype=np.float32)
        np.put_along_axis(logits_NE, ids_NK[taken_N], 2 - np.arange(shape.top_k) / shape.top_k, axis=1)
        yield logits_NE.reshape(shape.ranks, shape.tokens, shape.experts)


def rounded(shares: NDArray[np.floating], total: int) -> Counts:
    """Whole numbers in proportion to shares, with a given sum; the largest remainders are rounded up."""
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def drawn_preferences(loads_E: Counts, shape: Shape, random: np.random.Generator) -> NDArray[np.bool_]:
    """A random batch in which each token prefers K distinct experts and each expert is preferred as often as stated.

    Args:
        loads_E: tokens that prefer each expert, at most N, N x K in all.
        shape: sizes.
        random: generator of the draws.

    Returns:
        Whether a token prefers an expert, bool [N, E].

    Raises:
        ValueError: no batch has these loads.
    """
    if loads_E.sum() != shape.choices or loads_E.max() > shape.batch:
        raise ValueError(
            f"loads: {loads_E.sum()} choices, {loads_E.max()} of one expert; give {shape.choices} in all, each expert "
            f"at most {shape.batch}"
        )
    # The slots of all experts in a row, dealt to the tokens in turn: an expert's slots fall on different tokens.
    slots = np.repeat(np.arange(shape.experts), loads_E)
    preferred_NE = np.zeros((shape.batch, shape.experts), np.bool_)
    preferred_NE[np.arange(shape.choices) % shape.batch, slots] = True
    for _ in range(2 * shape.top_k):  # pairs of tokens deal anew what only one of them has
        one_P, other_P = random.permutation(shape.batch)[: shape.batch // 2 * 2].reshape(2, -1)
        one_PE, other_PE = preferred_NE[one_P], preferred_NE[other_P]
        differs_PE = one_PE != other_PE
        order_PE = np.where(differs_PE, random.random(differs_PE.shape), 2).argsort(axis=1).argsort(axis=1)
        dealt_PE = differs_PE & (order_PE < (one_PE & ~other_PE).sum(axis=1, keepdims=True))
        both_PE = one_PE & other_PE
        preferred_NE[one_P], preferred_NE[other_P] = both_PE | dealt_PE, both_PE | (differs_PE & ~dealt_PE)
    return preferred_NE
