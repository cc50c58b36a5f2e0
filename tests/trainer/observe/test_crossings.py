"""Rows between nodes, against the description of the messages that formula and replay share, and their limits."""

import numpy as np
import pytest
import torch

from moe.dispatch.coherent_messages import Moves
from moe.dispatch.messages import Visits
from moe.placement.placement import Mode
from trainer.observe.expert_load import crossing_rows
from trainer.trace.routing import ordered_choices

TOKENS, EXPERTS, RANKS, CHOICES = 200, 8, 4, 3
NODES = torch.tensor([2, 2, 3, 3])  # the second half of eight ranks, two a node


def routed(home: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gates and choices of a rank's tokens, up to three each; some have none."""
    generator = torch.Generator().manual_seed(home)
    probs_TE = torch.rand([TOKENS, EXPERTS], generator=generator).softmax(dim=1)
    wanted = torch.randint(0, CHOICES + 1, [TOKENS, 1], generator=generator)
    map_TE = probs_TE.argsort(dim=1, descending=True).argsort(dim=1) < wanted
    return probs_TE * map_TE, map_TE


def ids(home: int) -> np.ndarray:
    return ordered_choices(*routed(home), CHOICES)[0].numpy()


def crossing(home: int, expert_ranks: torch.Tensor, mode: Mode) -> tuple[float, float]:
    crossed, most = crossing_rows(*routed(home), expert_ranks, NODES, home, mode)
    return float(crossed), float(most)


@pytest.fixture(params=[0, 1])
def expert_ranks(request: pytest.FixtureRequest) -> torch.Tensor:
    order = torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(request.param))
    return order // (EXPERTS // RANKS)


@pytest.mark.parametrize("home", range(RANKS))
@pytest.mark.parametrize("mode", ["home", "capped", "copies"])
def test_home_return_rows_are_those_of_the_messages(mode: Mode, home: int, expert_ranks: torch.Tensor) -> None:
    visits = Visits.of([(home, ids(home))], expert_ranks.numpy(), RANKS)
    rows = visits.tokens if mode == "copies" else visits.choices
    away = NODES.numpy() != NODES[home].item()
    assert crossing(home, expert_ranks, mode) == (rows[home, away].sum(), visits.choices.sum())


@pytest.mark.parametrize("home", range(RANKS))
def test_coherent_rows_are_moves_and_copies(home: int, expert_ranks: torch.Tensor) -> None:
    elsewhere = [(rank, np.empty([0, 1, CHOICES], np.int64)) for rank in range(RANKS) if rank != home]
    (moves,) = Moves.of([(home, ids(home)[:, None]), *elsewhere], expert_ranks[None].numpy(), RANKS)
    away_NN = NODES.numpy()[:, None] != NODES.numpy()
    chosen = int((ids(home) >= 0).sum())
    visitors = int((ids(home) >= 0).any(axis=1).sum())
    rows = int(((moves.rows + moves.copies) * away_NN).sum())
    assert crossing(home, expert_ranks, "coherent") == (rows, 2 * chosen - visitors)


@pytest.mark.parametrize("home", range(RANKS))
def test_hierarchical_rows_are_nodes_visited(home: int, expert_ranks: torch.Tensor) -> None:
    nodes_E = NODES[expert_ranks].numpy()
    others = [set(nodes_E[row[row >= 0]].tolist()) - {NODES[home].item()} for row in ids(home)]
    assert crossing(home, expert_ranks, "hierarchical")[0] == sum(map(len, others))


def test_with_one_choice_all_modes_count_the_same() -> None:
    probs_TE = torch.rand([TOKENS, EXPERTS], generator=torch.Generator().manual_seed(3))
    map_TE = probs_TE == probs_TE.amax(dim=1, keepdim=True)
    expert_ranks = torch.arange(EXPERTS) // 2
    modes: tuple[Mode, ...] = ("home", "capped", "copies", "hierarchical", "coherent")
    assert (
        len({tuple(map(float, crossing_rows(probs_TE, map_TE, expert_ranks, NODES, 1, mode))) for mode in modes}) == 1
    )


def test_experts_that_are_chosen_together_on_one_rank_cost_one_copy() -> None:
    """Every token takes experts (0, 4), (1, 5), ...: apart, all of them cross in part; together, half do not at all."""
    first = torch.arange(TOKENS) % 4
    map_TE = torch.nn.functional.one_hot(first, EXPERTS).bool() | torch.nn.functional.one_hot(first + 4, EXPERTS).bool()
    nodes = torch.tensor([0, 1])
    apart, together = torch.arange(EXPERTS) // 4, torch.arange(EXPERTS) % 4 // 2
    shares = {}
    for name, expert_ranks in (("apart", apart), ("together", together)):
        crossed, most = crossing_rows(map_TE.float(), map_TE, expert_ranks, nodes, 0, "copies")
        shares[name] = float(crossed / most)
    assert shares == {"apart": 0.5, "together": 0.25}
    homes = [float(crossing_rows(map_TE.float(), map_TE, r, nodes, 0, "home")[0]) for r in (apart, together)]
    assert homes[0] == homes[1], "the choices of experts do not show it"
