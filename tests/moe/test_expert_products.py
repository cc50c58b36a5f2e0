"""Both ways of computing experts against a dense reference; the grouped one runs on a processor as well.

Shape suffixes: R rows, S slots, D width, F inner width.
"""

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from moe.experts import BlockedExperts, GroupedExperts, takes_groups
from tests.each import each
from tests.moe.expert_values import expert_values
from tests.ranks import run_ranks

WIDTH, INNER = 16, 24
COUNTS = {
    "all busy": [3, 1, 5, 2],
    "idle experts": [0, 4, 0, 7],
    "one busy expert": [0, 0, 9, 0],
    "no rows": [0, 0, 0, 0],
}
TAIL = 5
READS = ("_local_scalar_dense", "nonzero", "masked_select", "index.Tensor", "repeat_interleave", "unique", "bincount")


def inputs(counts: list[int], dtype: torch.dtype = torch.float32, tail: int = TAIL) -> tuple[list[Tensor], Tensor]:
    """Rows, gates and both matrices, and the gradient of the output; the rows of no slot are infinite."""
    generator = torch.Generator().manual_seed(sum(counts))
    rows, slots = sum(counts), len(counts)
    rows_RD = torch.randn(rows + tail, WIDTH, generator=generator)
    rows_RD[rows:] = torch.inf
    gates_R = torch.rand(rows + tail, generator=generator)
    first_SFD, second_SDF = (
        0.3 * torch.randn(slots, *shape, generator=generator) for shape in ((INNER, WIDTH), (WIDTH, INNER))
    )
    gradient_RD = torch.randn(rows + tail, WIDTH, generator=generator).to(dtype)
    values = [rows_RD.to(dtype), gates_R, first_SFD.to(dtype), second_SDF.to(dtype)]
    return [value.requires_grad_() for value in values], gradient_RD


def dense(counts: list[int], values: list[Tensor]) -> Tensor:
    """One expert after the other by plain operations in float64; zeros where no expert is."""
    rows_RD, gates_R, first_SFD, second_SDF = (value.double() for value in values)
    outputs, start = [], 0
    for count, first_FD, second_DF in zip(counts, first_SFD, second_SDF, strict=True):
        own = slice(start, start + count)
        inner = functional.gelu(rows_RD[own] @ first_FD.T)
        outputs.append(gates_R[own, None] * (inner @ second_DF.T))
        start += count
    return torch.cat([*outputs, torch.zeros(len(rows_RD) - start, WIDTH, dtype=torch.float64)])


def computed(way: Any, counts: list[int], values: list[Tensor], gradient_RD: Tensor) -> list[Tensor]:
    """Output and gradients."""
    given = counts if way is BlockedExperts else torch.tensor(counts)
    output_RD = way.apply(values[0], values[1], given, *values[2:])
    return [output_RD.detach(), *torch.autograd.grad(output_RD, values, gradient_RD)]


@each("way", [BlockedExperts, GroupedExperts])
@each("name", COUNTS)
@each("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_equals_the_dense_reference(way: Any, name: str, dtype: torch.dtype, tolerance: float) -> None:
    counts = COUNTS[name]
    values, gradient_RD = inputs(counts, dtype)
    expected_RD = dense(counts, values)
    expected = [expected_RD.detach(), *torch.autograd.grad(expected_RD, values, gradient_RD.double())]
    for own, reference in zip(computed(way, counts, values, gradient_RD), expected, strict=True):
        torch.testing.assert_close(own.double(), reference.double(), rtol=tolerance, atol=tolerance)


@each("way", [BlockedExperts, GroupedExperts])
def test_rows_of_no_slot_and_slots_without_rows_get_zeros(way: Any) -> None:
    counts = COUNTS["idle experts"]
    output, rows, gates, first, second = computed(way, counts, *inputs(counts))
    for tail in (output, rows, gates):
        assert not tail[sum(counts) :].any()
        assert tail[: sum(counts)].any()
    for gradient in (first, second):
        assert [bool(of_slot.any()) for of_slot in gradient] == [count > 0 for count in counts]


def test_rows_need_not_be_aligned() -> None:
    """They may be columns of a message, or begin in its midst."""
    counts = COUNTS["all busy"]
    values, gradient_RD = inputs(counts)
    expected = computed(GroupedExperts, counts, values, gradient_RD)
    rows_RD = values[0].detach()
    columns = torch.cat([rows_RD, torch.zeros(len(rows_RD), 2)], dim=1)[:, :WIDTH]
    midst = torch.cat([torch.zeros(1), rows_RD.reshape(-1)])[1:].view_as(rows_RD)
    for moved in (columns, midst):
        again = computed(GroupedExperts, counts, [moved.requires_grad_(), *values[1:]], gradient_RD)
        for own, reference in zip(again, expected, strict=True):
            assert torch.equal(own, reference)


class Operations(TorchDispatchMode):
    """Counts what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_the_grouped_way_reads_nothing_and_calls_no_more_for_more_experts() -> None:
    calls = []
    for slots in (4, 64):
        counts = [slot % 3 for slot in range(slots)]
        values, gradient_RD = inputs(counts)
        counts_S = torch.tensor(counts)
        with Operations() as operations:
            output_RD = GroupedExperts.apply(*values[:2], counts_S, *values[2:])
            output_RD.backward(gradient_RD)
        assert not [name for name in operations.called if any(read in name for read in READS)]
        calls.append(operations.called)
    assert calls[0] == calls[1]
    assert calls[0]["aten._grouped_mm.default"] == 6


def test_a_processor_takes_blocks_and_a_device_groups_of_rows_that_it_can_read() -> None:
    def taken(width: int, dtype: torch.dtype, device: str, rows: int = 3) -> bool:
        return takes_groups(
            torch.empty(rows, width, dtype=dtype, device=device), torch.empty(2, 32, width, dtype=dtype, device=device)
        )

    assert taken(16, torch.bfloat16, "meta")
    assert taken(4, torch.float32, "meta")
    assert not taken(16, torch.bfloat16, "cpu")
    assert not taken(4, torch.bfloat16, "meta"), "rows of 8 bytes"
    assert not taken(16, torch.float64, "meta"), "no such product"
    assert not taken(16, torch.bfloat16, "meta", rows=0)


def both_ways(rank: int, world_size: int) -> list[dict[str, Any]]:
    """A layer whose experts have replicas, by blocks and by groups."""
    from megatron.core import parallel_state

    import moe.experts
    from moe.config import MoEConfig
    from moe.layer import PlacedMoELayer, transformer_config

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    found = []
    for dispatch in ("home", "copies"):
        config = MoEConfig(num_experts=4, top_k=2, expert_hidden=INNER, dispatch=dispatch, replicas="even")
        megatron = transformer_config(
            config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
        )
        layer = PlacedMoELayer(config, megatron, layer=0, seed=3, slot_to_expert=np.array([2, 0, 1, 3, 1, 0]))
        for groups in (False, True):
            moe.experts.takes_groups = lambda *_, groups=groups: groups
            layer.zero_grad()
            tokens_SBD = torch.randn(9, 1, WIDTH, generator=torch.Generator().manual_seed(rank)).requires_grad_()
            output_SBD = layer(tokens_SBD)
            output_SBD.sin().sum().backward()
            experts = {
                expert: {name: gradient.clone() for name, (_, gradient) in matrices.items()}
                for expert, matrices in expert_values(layer).items()
            }
            found.append({"output": output_SBD.detach(), "tokens": tokens_SBD.grad, "experts": experts})
    return found


def test_replicas_are_computed_alike() -> None:
    for by_blocks, by_groups in (pair for found in run_ranks(both_ways, 2) for pair in (found[:2], found[2:])):
        torch.testing.assert_close(by_groups, by_blocks, rtol=1e-5, atol=1e-6)
        assert any(gradient.any() for matrices in by_groups["experts"].values() for gradient in matrices.values())
