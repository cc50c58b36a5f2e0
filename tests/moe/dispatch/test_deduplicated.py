"""De-duplicated dispatch against home-return dispatch, a dense mixture and counts made by hand; any routing map."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.each import each
from tests.moe.dispatch.mixture import EXPERTS, MAPS, SLOTS, WIDTH, check_dense_mixture, inputs, run_layer
from tests.ranks import run_ranks

WORLD_SIZES = (1, 4)
"""On one rank nothing is sent."""


def run_cases(rank: int, world_size: int) -> dict[str, dict[str, dict[str, Any]]]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    return {
        name: {
            mode: run_layer(rank, world_size, name, mode.split()[0], torch.float64)
            for mode in ("home", "copies", "copies again")
        }
        for name in MAPS
    }


Results = dict[int, list[dict[str, dict[str, dict[str, Any]]]]]


@pytest.fixture(scope="module")
def results() -> Results:
    return {world_size: run_ranks(run_cases, world_size) for world_size in WORLD_SIZES}


@each("world_size, name", product(WORLD_SIZES, MAPS))
def test_equals_home_return_dispatch_and_itself(results: Results, world_size: int, name: str) -> None:
    for of_rank in results[world_size]:
        home, copies, again = (of_rank[name][dispatch] for dispatch in ("home", "copies", "copies again"))
        for key in ("output", "tokens", "gates", "experts"):
            torch.testing.assert_close(copies[key], home[key], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(again[key], copies[key], rtol=0, atol=0)


@each("name", MAPS)
def test_equals_the_dense_mixture(results: Results, name: str) -> None:
    check_dense_mixture([of_rank[name]["copies"] for of_rank in results[4]], name, torch.float64)


@each("name", MAPS)
def test_messages_hold_one_row_a_rank_and_one_label_a_choice(results: Results, name: str) -> None:
    """Five all-to-alls; counted here token by token."""
    world_size = 4
    element, rank_of = 8, {int(expert): slot * world_size // EXPERTS for slot, expert in enumerate(SLOTS)}
    choices, copies = np.zeros((2, world_size, world_size), int)
    for rank in range(world_size):
        for row in inputs(rank, name, torch.float64)[2]:
            ranks = [rank_of[expert] for expert in row.nonzero()[:, 0].tolist()]
            for other in ranks:
                choices[rank, other] += 1
            for other in set(ranks):
                copies[rank, other] += 1
    row = WIDTH * element
    expected = [
        np.full_like(copies, 8),
        copies * row + choices * 2 * element,
        copies.T * row,
        copies * row,
        copies.T * row + choices.T * element,
    ]
    for rank, of_rank in enumerate(results[world_size]):
        assert of_rank[name]["copies"]["messages"] == [message[rank].tolist() for message in expected]


def exchange_labels(rank: int, _world_size: int) -> dict[int, list[tuple[Tensor, ...]]]:
    """One or two labels with a row to the other rank and none to oneself, in bfloat16 with float32 weights."""
    from moe.dispatch.exchange import ExchangeLabelledRows, ExchangeWeightedRows, Splits

    results = {}
    for number in (1, 2):
        one, many = [0, 0], [0, 0]
        one[1 - rank], many[1 - rank] = 1, number
        rows = torch.full((1, 3), float(rank), dtype=torch.bfloat16)
        sizes = Splits(one, many), Splits(one, many)
        arguments = SENT_WEIGHTS[:number] + rank, SENT_LABELS[:number], dist.group.WORLD
        labelled = ExchangeLabelledRows.apply(rows, *arguments, *sizes)
        results[number] = [labelled, ExchangeWeightedRows.apply(rows, arguments[0][:1], dist.group.WORLD, one, one)]
    return results


SENT_WEIGHTS, SENT_LABELS = torch.tensor([0.1, float("nan")]), torch.tensor([2**15 - 1, 5])


def test_weights_keep_their_bits_in_messages_of_lower_precision() -> None:
    """A single row at an odd place is a trap: torch takes a slice of it for contiguous and cannot widen its type."""
    for rank, results in enumerate(run_ranks(exchange_labels, 2)):
        for number, (labelled, weighted) in results.items():
            sent = SENT_WEIGHTS[:number] + (1 - rank)
            rows = torch.full((1, 3), 1.0 - rank, dtype=torch.bfloat16)
            assert torch.equal(labelled[0], rows)
            assert torch.equal(weighted[0], rows)
            assert torch.equal(labelled[1].view(torch.int32), sent.view(torch.int32))
            assert torch.equal(weighted[1].view(torch.int32), sent[:1].view(torch.int32))
            assert torch.equal(labelled[2], SENT_LABELS[:number])
