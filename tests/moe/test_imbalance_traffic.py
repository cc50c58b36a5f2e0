"""The traffic of the imbalance benchmark against a walk over the tokens, and the bytes that a trace shows."""

from pathlib import Path

import numpy as np
import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, write
from moe.dispatch.messages import COUNT_BYTES, Sizes
from tests.benchmarks.imbalance import traffic
from tests.benchmarks.imbalance.workloads import Shape
from tests.benchmarks.placement_aware_routing import layer_bytes
from tests.each import each

SHAPE = Shape(ranks=4, tokens=6, experts=8, top_k=3)
SIZES = Sizes(hidden=16, element_bytes=4, num_experts=8, dtype="float32")
ROW, GATE = SIZES.row_bytes, SIZES.gate_bytes


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choices [S, R, T, K], some dropped, and a balanced placement [E]."""
    random = np.random.default_rng(seed)
    order = random.random((2, SHAPE.ranks, SHAPE.tokens, SHAPE.experts)).argsort(axis=3)[..., : SHAPE.top_k]
    kept = (random.random(order.shape) < 0.9).cumprod(axis=3) > 0
    return np.where(kept, order, -1), random.permutation(np.repeat(np.arange(SHAPE.ranks), 2))


def walk(chosen: np.ndarray, ranks_E: np.ndarray) -> list[tuple[int, set[int], int]]:
    """Home of each token, ranks of its experts, and how many of its choices are elsewhere."""
    tokens = []
    for batch in chosen:
        for home, of_home in enumerate(batch):
            for ids in of_home:
                ranks = [int(ranks_E[expert]) for expert in ids if expert >= 0]
                tokens.append((home, set(ranks), sum(rank != home for rank in ranks)))
    return tokens


@each("seed", range(5))
def test_bytes_are_those_of_a_walk_over_the_tokens(seed: int) -> None:
    chosen, ranks_E = drawn(seed)
    tokens = walk(chosen, ranks_E)
    pairs, steps = SHAPE.ranks * (SHAPE.ranks - 1), len(chosen)
    choices = sum(elsewhere for *_, elsewhere in tokens)
    rows = sum(len(ranks - {home}) for home, ranks, _ in tokens)
    expected = {
        "home": (4 * ROW + 2 * GATE) * choices / steps + pairs * COUNT_BYTES * SHAPE.experts,
        "copies": (4 * ROW * rows + (2 * GATE + SIZES.element_bytes) * choices) / steps + pairs * COUNT_BYTES,
    }
    for mode, size in expected.items():
        issued = list(traffic.exchanges(chosen, ranks_E, mode, SIZES))
        assert traffic.crossing_bytes(issued, SHAPE.ranks) == pytest.approx(size), mode
    visits = traffic.visits(chosen, ranks_E, SHAPE.ranks)
    assert traffic.visits_of_a_token(visits, SHAPE) == pytest.approx(
        sum(len(ranks) for _, ranks, _ in tokens) / len(tokens)
    )
    loads = [[(ranks_E[ids[ids >= 0]] == rank).sum() for rank in range(SHAPE.ranks)] for ids in chosen]
    np.testing.assert_allclose(traffic.rank_load(visits), [max(of_ranks) / np.mean(of_ranks) for of_ranks in loads])


@each("mode", ["home", "copies", "hierarchical", "coherent"])
def test_a_trace_shows_the_bytes_of_its_exchanges(mode: str, tmp_path: Path) -> None:
    chosen, ranks_E = drawn(7)
    issued = list(traffic.exchanges(chosen, ranks_E, mode, SIZES))
    groups: dict[str, tuple[int, ...]] = {"expert": tuple(range(SHAPE.ranks))}
    records = []
    for rank in range(SHAPE.ranks):
        for seq, (step, phase, exchange) in enumerate(issued):
            name = exchange.group if exchange.parts is None else f"{exchange.group}_{exchange.parts[rank]}"
            groups[name] = tuple(exchange.members(rank).tolist())
            fields = exchange.fields(rank)
            records.append(CollectiveRecord(rank, seq, step, 0, phase, group=name, size1=False, layer=0, **fields))
    path = tmp_path / "collectives.jsonl"
    write(path, TraceHeader("formula", SHAPE.ranks, 2, groups, (0, 1), None, None), records)
    assert layer_bytes(path) == pytest.approx(traffic.crossing_bytes(issued, SHAPE.ranks))
    assert traffic.simulated_us(issued, SHAPE.ranks) > 0
