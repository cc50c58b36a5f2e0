"""Capped dispatch against home-return dispatch, bit for bit, on 1, 2 and 4 ranks.

A matrix product picks its kernel by the number of rows and adds up the rows of an expert in blocks of its own choice,
which rows of zeros between them shift. Bits are therefore compared with experts that compute and add up row after row;
with real experts the difference is that of rounding.

Shape suffixes: T tokens of a rank, E experts, D width, C experts of a rank, R rows that arrive.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moe.config import MoEConfig, capacity_of
from moe.dispatch.messages import Sizes, Visits, capped_exchanges
from tests.ranks import run_ranks
from tests.selected import selected

WIDTH, HIDDEN, EXPERTS = 16, 24, 8
SLOTS = [np.random.default_rng(seed).permutation(EXPERTS) for seed in (5, 6)]
TOKENS = (40, 0, 12, 96)
"""Tokens of a rank in one pass after another."""
CASES: dict[str, dict[str, Any]] = {
    "top-1": {"top_k": 1, "router": {"kind": "top_k", "capacity_factor": 1.5}},
    "top-3, tokens dropped": {"top_k": 3, "router": {"kind": "top_k", "capacity_factor": 0.7}},
    "top-2, more capacity than tokens": {"top_k": 2, "router": {"kind": "top_k", "capacity_factor": 9.0}},
    "sparse_ot, shared expert": {"top_k": 2, "router": {"kind": "sparse_ot"}, "shared_expert_hidden": 8},
    "sparse_ot, three candidates": {"top_k": 2, "router": {"kind": "sparse_ot", "candidates": 3, "gate": "plan"}},
    "expert_choice": {"top_k": 2, "router": {"kind": "expert_choice"}},
    "base": {"top_k": 1, "router": {"kind": "base"}},
    "sinkhorn, without a limit": {"top_k": 2, "router": {"kind": "sinkhorn"}},
}
PLAIN = ("plain", "plain, bf16")
OTHERS = ("padded", "recomputed", "undefined for zeros", "real experts")
WITH_OTHERS = ("top-3, tokens dropped", "sparse_ot, shared expert", "expert_choice")
MODES = ("home", "capped")
ALONE = {"top-3, tokens dropped", "sparse_ot, shared expert"}
"""What the suite has on one rank too, which sends nothing: experts with too few tokens and with too many."""
ON_RANKS = [
    pytest.param(
        (world_size, name), marks=pytest.mark.slow if world_size == 4 or (world_size == 1 and name not in ALONE) else ()
    )
    for world_size in (1, 2, 4)
    for name in CASES
]
EMPTY = Visits.even(tokens=0, top_k=1, num_experts=EXPERTS, num_ranks=2)


class OneAfterAnother(nn.Module):
    """Experts that scale rows, and whose gradients are added up row after row, whatever is between them."""

    loans = None

    def __init__(self, seed: int, experts: int, dtype: torch.dtype, *, undefined_for_zeros: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.scales_CD = nn.Parameter(torch.randn(experts, WIDTH, generator=generator).to(dtype))
        self.undefined_for_zeros = undefined_for_zeros

    def forward(self, rows_RD: Tensor, counts_C: Tensor, gates_R: Tensor) -> tuple[Tensor, None]:
        assert rows_RD.is_contiguous(), "matrix products need aligned rows"
        slot_R = torch.arange(len(counts_C)).repeat_interleave(counts_C)
        outputs_RD = rows_RD * self.scales_CD.index_select(0, slot_R) * gates_R[:, None]
        if self.undefined_for_zeros:
            outputs_RD = outputs_RD * (rows_RD / rows_RD)
        return outputs_RD.to(rows_RD.dtype), None


class Padded(nn.Module):
    """A router that is told that every fifth token is padding."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.router, self.capacity, self.set_hops = router, router.capacity, router.set_hops

    def forward(self, tokens: Tensor, _mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        places = torch.arange(len(tokens))[:, None].expand(tokens.shape[:2])
        return self.router(tokens, places % 5 == 0)


def run_cases(rank: int, world_size: int, names: list[str]) -> dict[str, dict[str, Any]]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    return {
        name: {
            way: {dispatch: run_layer(rank, world_size, name, way, dispatch) for dispatch in MODES}
            for way in (*PLAIN, *(OTHERS if name in WITH_OTHERS else ()))
        }
        for name in names
    }


def build(world_size: int, name: str, dtype: torch.dtype, dispatch: Any) -> Any:
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, expert_hidden=HIDDEN, dispatch=dispatch, **CASES[name])
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=dtype
    )
    return PlacedMoELayer(config, megatron, layer=0, seed=7, slot_to_expert=SLOTS[0])


def run_layer(rank: int, world_size: int, name: str, way: str, dispatch: Any) -> list[dict[str, Tensor]]:
    """Passes of several sizes, the experts elsewhere in the last one, and one at inference with ragged tokens."""
    dtype = torch.bfloat16 if way.endswith("bf16") else torch.float32
    layer = build(world_size, name, dtype, dispatch)
    if way != "real experts":
        local = EXPERTS // world_size
        layer.experts = OneAfterAnother(rank, local, dtype, undefined_for_zeros=way == "undefined for zeros")
    if way == "padded":
        layer.router = Padded(layer.router)
    generator = torch.Generator().manual_seed(rank)
    passes = []
    for tokens in (*TOKENS, rank + 3):
        if tokens == TOKENS[-1]:
            layer.place(SLOTS[1])
        layer.train(tokens in TOKENS)
        tokens_SBD = torch.randn(tokens // 2, 2, WIDTH, generator=generator).to(dtype).requires_grad_()
        layer.zero_grad()
        recomputes = way == "recomputed" and layer.training
        output = checkpoint(layer, tokens_SBD, use_reentrant=False) if recomputes else layer(tokens_SBD)
        assert isinstance(output, Tensor)
        output.float().sin().sum().backward()
        found = {"output": output.detach(), "tokens": tokens_SBD.grad}
        found |= {key: value.grad for key, value in layer.named_parameters() if value.grad is not None}
        passes.append({key: value.clone() for key, value in found.items() if value is not None})
    return passes


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Callable[[int], list[dict[str, dict[str, Any]]]]:
    """What each of a number of ranks finds in the cases that are selected, when it is first asked for."""

    @cache
    def found(world_size: int) -> list[dict[str, dict[str, Any]]]:
        names = [name for ranks, name in selected(request, "case") if ranks == world_size]
        return run_ranks(run_cases, world_size, names)

    return found


@pytest.mark.parametrize("case", ON_RANKS, ids=str)
def test_equals_home_return_dispatch(results: Any, case: tuple[int, str]) -> None:
    world_size, name = case
    for of_rank in results(world_size):
        for way, found in of_rank[name].items():
            for home, capped in zip(found["home"], found["capped"], strict=True):
                assert home.keys() == capped.keys()
                for key, value in home.items():
                    if way == "real experts":
                        torch.testing.assert_close(capped[key], value, rtol=1e-5, atol=1e-5)
                    elif way != "undefined for zeros" or not key.startswith("experts."):  # as undefined as the experts
                        assert torch.equal(capped[key], value), (way, key)


def send(rank: int, world_size: int) -> dict[str, list[list[list[int]]]]:
    """Bytes to each rank of every all-to-all, in two passes with other tokens."""
    from megatron.core import parallel_state

    from tests.moe.dispatch.mixture import Messages

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    found = {}
    for name in ("sparse_ot, shared expert", "top-3, tokens dropped"):
        layer = build(world_size, name, torch.float32, "capped")
        messages = []
        for turn in range(2):
            tokens_SBD = torch.randn(20, 2, WIDTH, generator=torch.Generator().manual_seed(rank + 10 * turn))
            with Messages() as sent:
                layer(tokens_SBD.requires_grad_()).sum().backward()
            messages.append(sent.sent)
        found[name] = messages
    return found


def test_messages_are_as_described_whatever_the_routing() -> None:
    for rank in run_ranks(send, 2):
        for name, turns in rank.items():
            case = CASES[name]
            cap = case["router"].get("capacity_factor", 1.25)
            capacity = capacity_of(40, top_k=case["top_k"], num_experts=EXPERTS, cap=cap)
            visits = replace(EMPTY, capacity=capacity)
            sizes = Sizes(WIDTH, 4, EXPERTS, "float32")
            exchanges = [one for phase in ("forward", "backward") for one in capped_exchanges(visits, sizes, phase)]
            rows = capacity * EXPERTS // 2
            assert exchanges[0].volume[0, 1] == 4 * WIDTH * (rows + -(-rows * 4 // (4 * WIDTH)))
            assert turns == [[exchange.volume[0].tolist() for exchange in exchanges]] * 2


def test_a_capacity_is_needed_to_describe_messages() -> None:
    with pytest.raises(ValueError, match=r"^capacity: is unknown"):
        capped_exchanges(EMPTY, Sizes(WIDTH, 4, EXPERTS, "float32"), "forward")


def replicated(_rank: int, world_size: int) -> str:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    layer = build(world_size, "base", torch.float32, "capped")
    try:
        layer.place(np.array([*range(4), 4, *range(4, EXPERTS), 0]))
    except ValueError as error:
        return str(error)
    return ""


def test_replicas_are_refused() -> None:
    message = run_ranks(replicated, 2)[0]
    assert message.startswith("slot_to_expert: 10 slots hold replicas of 8 experts")
    assert message.endswith("use dispatch home or copies")
