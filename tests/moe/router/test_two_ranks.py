"""What routers send: demand, potentials and capacity that belong to all data ranks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moe.config import MoEConfig, SparseOTRouterConfig, TopKRouterConfig
from tests.each import each
from tests.moe.router.routers import EXPERTS, build_router, skewed_tokens
from tests.ranks import run_ranks

RANKS, TOKENS = 2, 512
GLOBAL = SparseOTRouterConfig(potentials="global")
SLOTS = np.arange(EXPERTS).reshape(-1, RANKS).T.ravel()  # the first rank has the even experts
HOPS = [[0.0, 3.0], [2.0, 0.0]]


def own_tokens(rank: int) -> Tensor:
    """Rank 1 has tokens of another kind."""
    tokens = skewed_tokens(TOKENS, rank)
    return tokens if rank == 0 else tokens.flip(-1)


def counted(function: Callable[[], Any]) -> tuple[Any, list[tuple[int, int]]]:
    """What a function returns, and elements and element size of every all-reduce in it."""
    sent, real = [], torch.distributed.all_reduce

    def all_reduce(tensor: Tensor, *arguments: Any, **keywords: Any) -> Any:
        sent.append((tensor.numel(), tensor.element_size()))
        return real(tensor, *arguments, **keywords)

    torch.distributed.all_reduce = all_reduce
    try:
        return function(), sent
    finally:
        torch.distributed.all_reduce = real


def route(router: Any, tokens: Tensor) -> dict[str, Any]:
    (probs, chosen), sent = counted(lambda: router(tokens))
    return {"probs": probs.detach(), "chosen": chosen, "sent": sent, **router.report()}


def distances() -> list[Tensor]:
    """What the router of a layer knows of distances: at first, and after all experts have changed places."""
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, expert_hidden=4, router=GLOBAL)
    megatron = transformer_config(
        config, hidden=4, num_layers=1, num_heads=1, expert_parallel=RANKS, dtype=torch.float32
    )
    layer = PlacedMoELayer(config, megatron, layer=0, seed=0, slot_to_expert=SLOTS, hops=np.array(HOPS))
    known = [layer.router.hops.clone()]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    layer.place(SLOTS[::-1].copy())
    return [*known, layer.router.hops.clone()]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


def on_each_rank(rank: int, _world_size: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=RANKS)
    tokens, results = own_tokens(rank), {}

    router = build_router(GLOBAL)
    results["global"] = route(router, tokens)
    _, results["update sent"] = counted(router.update_bias)
    results["state"] = router.state_dict()
    results["uneven"] = route(router, tokens[: TOKENS // 2 if rank else 0])

    router = build_router(SparseOTRouterConfig())
    results["rank"] = route(router, tokens)
    router.update_bias()
    results["rank state"] = router.state_dict()

    for hop_cost in (0.0, 0.5):
        router = build_router(SparseOTRouterConfig(potentials="global", hop_cost=hop_cost))
        router.set_hops((torch.arange(EXPERTS) // (EXPERTS // RANKS) != rank).float())
        results[f"hops at {hop_cost}"] = route(router, tokens)

    results["distances"] = distances()

    router = build_router(TopKRouterConfig(score="sigmoid", aux_loss=0, bias_rate=0.01))
    results["demand"] = route(router, tokens)
    router.update_bias()
    results["bias"] = router.expert_bias
    return results


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(on_each_rank, RANKS)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return route(build_router(GLOBAL), torch.cat([own_tokens(rank) for rank in range(RANKS)]))


def test_global_potentials_are_those_of_one_rank_with_all_tokens(
    ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for result in ranks:
        torch.testing.assert_close(result["global"]["potentials"], alone["potentials"], rtol=1e-3, atol=1e-3)
    together = torch.cat([result["global"]["chosen"] for result in ranks])
    assert (together == alone["chosen"]).float().mean() > 0.99


def test_global_capacity_is_that_of_all_ranks_and_a_rank_may_favour_an_expert(ranks: list[dict[str, Any]]) -> None:
    own = torch.stack([result["global"]["expert_tokens"] for result in ranks])
    assert own.sum(dim=0).max() <= math.ceil(1.25 * RANKS * TOKENS / EXPERTS)
    assert own.max() > math.ceil(1.25 * TOKENS / EXPERTS)
    dropped = sum(result["global"]["dropped_choices"].item() for result in ranks)
    assert dropped <= 0.01 * RANKS * TOKENS
    for result in ranks:
        assert result["rank"]["expert_tokens"].max() <= math.ceil(1.25 * TOKENS / EXPERTS)
        assert result["rank"]["sent"] == []


def test_what_global_potentials_send_is_known(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        evaluations = [(EXPERTS**2, 4)] * (GLOBAL.evaluations - 2) + [(EXPERTS, 4)] * 2
        assert result["global"]["sent"] == [(2, 8), *evaluations, (EXPERTS, 8)]
        assert result["update sent"] == [(EXPERTS + 2, 8)]


def test_a_rank_without_tokens_holds_nobody_up(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["uneven"]["chosen"].shape == (0, EXPERTS)
    assert ranks[1]["uneven"]["chosen"].any(dim=1).all()


@each("state", ["state", "rank state"])
def test_what_is_learnt_is_the_same_on_every_rank(ranks: list[dict[str, Any]], state: str) -> None:
    for name, value in ranks[0][state].items():
        assert torch.equal(value, ranks[1][state][name])
    potentials = torch.stack([result[state.replace("state", "").strip() or "global"]["potentials"] for result in ranks])
    torch.testing.assert_close(ranks[0][state]["average_potentials"], potentials.mean(dim=0))


def test_a_price_on_hops_keeps_tokens_near_and_the_balance(ranks: list[dict[str, Any]]) -> None:
    shares = []
    for hop_cost in (0.0, 0.5):
        near = 0
        for rank, result in enumerate(ranks):
            own = slice(rank * EXPERTS // RANKS, (rank + 1) * EXPERTS // RANKS)
            near += result[f"hops at {hop_cost}"]["expert_tokens"][own].sum().item()
        total = torch.stack([result[f"hops at {hop_cost}"]["expert_tokens"] for result in ranks]).sum(dim=0)
        assert total.max() <= math.ceil(1.25 * RANKS * TOKENS / EXPERTS)
        shares.append(near / total.sum().item())
    assert shares[1] > shares[0] + 0.1


def test_routers_know_the_distances_that_the_placement_has(ranks: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(ranks):
        for known, even_on in zip(result["distances"], (0, 1), strict=True):
            expected = [HOPS[rank][even_on if expert % 2 == 0 else 1 - even_on] for expert in range(EXPERTS)]
            assert known.tolist() == expected


def test_the_bias_moves_by_the_demand_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    asked = torch.stack([result["demand"]["expert_tokens"] for result in ranks]).sum(dim=0)
    expected = 0.01 * torch.sign(RANKS * TOKENS / EXPERTS - asked)
    assert not torch.equal(expected, 0.01 * torch.sign(TOKENS / EXPERTS - ranks[0]["demand"]["expert_tokens"]))
    for result in ranks:
        torch.testing.assert_close(result["bias"], expected)
