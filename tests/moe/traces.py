"""Synthetic routing traces with known affinity, and a walk over their tokens that prices a placement."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moe.routing_trace import RoutingHeader, RoutingTrace


def markov_trace(
    num_experts: int,
    num_layers: int,
    affinity: float,
    tokens: int,
    *,
    seed: int,
    world_size: int = 1,
    tokens_seed: int = 0,
) -> RoutingTrace:
    """Tokens that follow a Markov chain: (1 - a)/E + a * (a random convex mix of three permutations).

    `seed` fixes the chain and `tokens_seed` the tokens, so that two traces of one chain can be told apart.
    """
    chain, draw = np.random.default_rng(seed), np.random.default_rng((seed, tokens_seed))
    ids = np.empty((tokens, num_layers, 1), np.int64)
    ids[:, 0, 0] = draw.integers(num_experts, size=tokens)
    for layer in range(1, num_layers):
        transition = np.full((num_experts, num_experts), (1 - affinity) / num_experts)
        for share in chain.dirichlet(np.ones(3)):
            transition[np.arange(num_experts), chain.permutation(num_experts)] += affinity * share
        reached = transition.cumsum(axis=1)[ids[:, layer - 1, 0]]
        ids[:, layer, 0] = np.minimum((draw.random(tokens)[:, None] > reached).sum(axis=1), num_experts - 1)
    return trace(ids, draw.integers(world_size, size=tokens), num_experts, world_size)


def dropping_trace(
    num_experts: int, num_layers: int, top_k: int, tokens: int, *, seed: int, world_size: int, drop: float
) -> RoutingTrace:
    """Tokens with distinct choices at random, each choice dropped with probability `drop`."""
    draw = np.random.default_rng(seed)
    order = draw.random((tokens, num_layers, num_experts)).argsort(axis=2)[:, :, :top_k]
    ids = np.where(draw.random(order.shape) < drop, -1, order)
    return trace(ids, draw.integers(world_size, size=tokens), num_experts, world_size)


def trace(ids: NDArray, source_rank: NDArray, num_experts: int, world_size: int) -> RoutingTrace:
    """A trace from bare arrays."""
    header = RoutingHeader(
        num_experts=num_experts, num_layers=ids.shape[1], top_k=ids.shape[2], world_size=world_size, model="synthetic"
    )
    return RoutingTrace(ids.astype(np.int32), source_rank.astype(np.int32), header)


def coherent_walk(
    routing: RoutingTrace, expert_ranks: NDArray, cost: NDArray, *, copies: bool = False
) -> tuple[float, int]:
    """Cost of all tokens in coherent dispatch and the moves that skip a layer, token by token.

    Without copies only the anchors move. A copy goes from where the token was to each further rank that holds one of
    its choices, and from there to its anchor.
    """
    total, skipped = 0.0, 0
    for choices_of_layers in routing.expert_ids.tolist():
        at, since = None, 0
        for layer, choices in enumerate(choices_of_layers):
            kept = [expert for expert in choices if expert >= 0]
            if not kept:
                continue
            rank = expert_ranks[layer][kept[0]]
            if at is not None:
                total += float(cost[at, rank])
                skipped += layer - since > 1
            start = rank if at is None else at
            for other in {int(expert_ranks[layer][expert]) for expert in kept} - {int(rank)} if copies else set():
                total += float(cost[start, other] + cost[other, rank])
            at, since = rank, layer
    return total, skipped


def home_walk(routing: RoutingTrace, expert_ranks: NDArray, cost: NDArray) -> float:
    """Cost of all tokens in home-return dispatch, token by token."""
    total = 0.0
    for home, choices_of_layers in zip(routing.source_rank.tolist(), routing.expert_ids.tolist(), strict=True):
        home %= len(cost)
        for layer, choices in enumerate(choices_of_layers):
            for expert in choices:
                if expert >= 0:
                    rank = expert_ranks[layer][expert]
                    total += float(cost[home, rank] + cost[rank, home])
    return total


def topic_trace(
    num_experts: int,
    num_layers: int,
    top_k: int,
    tokens: int,
    *,
    seed: int,
    world_size: int,
    topics: int = 64,
    taste: float = 2.0,
) -> RoutingTrace:
    """Tokens about topics: the topic decides which experts of each layer a token likes, chance the rest.

    A token takes its `top_k` experts without replacement (Gumbel), the likelier the more its topic likes them;
    `taste` is the spread of the logarithms. Tokens of a sequence of 100 share a topic, and sequences are dealt over
    the ranks, so that experts have affinity between layers, are chosen together, and differ in load.
    """
    draw = np.random.default_rng(seed)
    sequence = np.arange(tokens) // 100
    topic = draw.integers(topics, size=sequence[-1] + 1)[sequence]
    ids = np.empty((tokens, num_layers, top_k), np.int32)
    for layer in range(num_layers):
        likes = draw.normal(0, taste, (topics, num_experts)) + draw.normal(0, taste / 4, num_experts)
        scores = likes.astype(np.float32)[topic] + draw.gumbel(size=(tokens, num_experts)).astype(np.float32)
        best = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        ids[:, layer] = np.take_along_axis(best, order, axis=1)
    bare = trace(ids, sequence % world_size, num_experts, world_size)
    return replace(bare, sequence=sequence, position=np.arange(tokens) % 100)
