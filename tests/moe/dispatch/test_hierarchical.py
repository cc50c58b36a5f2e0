"""Two-level dispatch against a dense mixture, the other modes and counts made by hand, on nodes of any size.

Shape suffixes: T tokens of a rank, E experts, D width, S sequence, B batch, N ranks.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from moe.dispatch.messages import PATTERNS, Sizes, Visits
from tests.each import each
from tests.moe.dispatch.mixture import (
    EXPERTS,
    MAPS,
    SLOTS,
    TOLERANCE,
    WIDTH,
    check_dense_mixture,
    inputs,
    run_layer,
)
from tests.ranks import run_ranks

NODES = {2: (1, 2), 4: (1, 2, 4)}
"""Ranks of a node, by all ranks."""
CASES = [(world_size, node) for world_size, sizes in NODES.items() for node in sizes]
SLOW = {(4, 1), (4, 4)}
"""One level, which the suite has on 2 ranks."""
ELEMENT_TYPES = ("float64", "float32", "bfloat16")


def marked(cases: Iterable[tuple[int, int]]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in cases]


def run_cases(rank: int, world_size: int, node: int) -> dict[str, dict[str, dict[str, Any]]]:
    from trainer.distributed.groups import divide_ranks

    divide_ranks(world_size, 1, node if 1 < node < world_size else None)
    return {
        name: {
            f"{dispatch}, {dtype}": run_layer(rank, world_size, name, dispatch, getattr(torch, dtype))
            for dispatch in ("copies", "hierarchical")
            for dtype in ELEMENT_TYPES
            if dispatch == "hierarchical" or node in (1, world_size) or name == "everything"
        }
        for name in MAPS
    }


Results = Callable[[tuple[int, int]], list[dict[str, dict[str, dict[str, Any]]]]]


@pytest.fixture(scope="module")
def results() -> Results:
    """What the ranks of a case find, when it is first asked for."""
    return cache(lambda case: run_ranks(run_cases, *case))


@each("dtype", TOLERANCE)
@pytest.mark.parametrize("case", marked(CASES), ids=str)
@each("name", MAPS)
def test_equals_the_dense_mixture(results: Results, case: tuple[int, int], name: str, dtype: torch.dtype) -> None:
    ranks = [of_rank[name][f"hierarchical, {str(dtype)[6:]}"] for of_rank in results(case)]
    check_dense_mixture(ranks, name, dtype)


@pytest.mark.parametrize("case", marked(case for case in CASES if case[1] in (1, case[0])), ids=str)
@each("name", MAPS)
def test_one_level_is_one_copy_a_rank(results: Results, case: tuple[int, int], name: str) -> None:
    """One node, or one rank a node: the same messages and the same values to the last bit."""
    for of_rank in results(case):
        for dtype in ELEMENT_TYPES:
            ours, copies = (of_rank[name][f"{mode}, {dtype}"] for mode in ("hierarchical", "copies"))
            assert ours["messages"] == copies["messages"]
            for key in ("output", "tokens", "gates", "experts"):
                torch.testing.assert_close(ours[key], copies[key], rtol=0, atol=0)


@each("name", MAPS)
def test_messages_hold_one_row_a_node_and_then_one_a_rank(results: Results, name: str) -> None:
    """Nine all-to-alls on 2 nodes x 2 ranks, counted here token by token, and as described for formula and replay."""
    ranks, element, gate = range(4), 4, 4
    slot_of = {int(expert): slot for slot, expert in enumerate(SLOTS)}
    rail, rail_labels, node, node_labels = np.zeros((4, 4, 4), int)
    chosen = []
    for home in ranks:
        rows = inputs(home, name, torch.float32)[2]
        chosen.append((home, np.array([[e if on else -1 for e, on in enumerate(row)] for row in rows.tolist()], int)))
        for row in rows:
            visited = [slot_of[expert] // 2 for expert in row.nonzero()[:, 0].tolist()]
            for relay in {rank // 2 * 2 + home % 2 for rank in visited}:
                rail[home, relay] += 1
            for rank in visited:
                rail_labels[home, rank // 2 * 2 + home % 2] += 1
                node_labels[rank // 2 * 2 + home % 2, rank] += 1
            for rank in set(visited):
                node[rank // 2 * 2 + home % 2, rank] += 1
    row, label = WIDTH * element, element + gate
    expected = [
        np.full((4, 4), 5 * 4),
        rail * row + rail_labels * label,
        node * row + node_labels * label,
        node.T * row,
        rail.T * row,
        rail * row,
        node * row,
        node.T * row + node_labels.T * gate,
        rail.T * row + rail_labels.T * gate,
    ]
    expert_ranks_E = np.argsort(SLOTS) // 2
    visits = Visits.of([(home, ids.reshape(-1, EXPERTS)) for home, ids in chosen], expert_ranks_E, 4, num_nodes=2)
    sizes = Sizes(WIDTH, element, EXPERTS, "float32")
    described = [one for phase in ("forward", "backward") for one in PATTERNS["hierarchical"](visits, sizes, phase)]
    for rank, of_rank in enumerate(results((4, 2))):
        assert of_rank[name]["hierarchical, float32"]["messages"] == [message[rank].tolist() for message in expected]
    for exchange, volume in zip(described, expected, strict=True):
        np.testing.assert_array_equal(exchange.volume, volume)


def test_fewer_rows_cross_between_nodes(results: Results) -> None:
    """Every expert of every token: two ranks a node make two copies cross where one is enough."""
    crossing = {}
    for mode in ("copies", "hierarchical"):
        rows = [of_rank["everything"][f"{mode}, float64"]["messages"] for of_rank in results((4, 2))]
        crossing[mode] = sum(
            size for rank, sent in enumerate(rows) for message in sent for size in message[2 - rank // 2 * 2 :][:2]
        )
    assert crossing["hierarchical"] < 0.65 * crossing["copies"]
