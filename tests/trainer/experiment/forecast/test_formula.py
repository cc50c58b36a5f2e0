"""The computed trace against closed forms."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.collective_trace import CollectiveRecord, read, write
from tests.trainer.experiment.forecast.specs import DENSE, EXPERT, rated, zero_spec
from trainer.experiment.forecast.partitions import ParameterGroup, optimizer_groups
from trainer.experiment.forecast.trace import TraceSpec, constant_gaps, formula, recorded_gaps
from trainer.experiment.forecast.zero import ZeroTraffic
from trainer.trace.agreement import canonical_names
from trainer.trace.merge import check

GOLDEN = Path("tests/files/collectives.jsonl")
SPEC = zero_spec()


def computed(spec: TraceSpec, **gaps: Any) -> list[CollectiveRecord]:
    return list(formula(spec, **gaps)[1])


def of_rank(records: list[CollectiveRecord], rank: int) -> list[CollectiveRecord]:
    return [record for record in records if record.rank == rank]


def test_a_step_by_hand() -> None:
    """Eight ranks, four share experts: rank 5's records, written out."""
    step = [
        (record.phase, record.layer, record.op, record.group, record.bytes_in, record.bytes_out)
        for record in of_rank(computed(SPEC), 5)
    ]
    rows, experts, gated = 33 * 2 * 40, "expert_1", 33 * 2 * 44
    assert step == [
        ("forward", 1, "all_gather", experts, 128, 512),
        ("forward", 1, "all_to_all", experts, gated, gated),
        ("forward", 1, "all_to_all", experts, rows, rows),
        ("forward", 3, "all_gather", experts, 128, 512),
        ("forward", 3, "all_to_all", experts, gated, gated),
        ("forward", 3, "all_to_all", experts, rows, rows),
        ("backward", 3, "all_to_all", experts, rows, rows),
        ("backward", 3, "all_to_all", experts, gated, gated),
        ("backward", 1, "all_to_all", experts, rows, rows),
        ("backward", 1, "all_to_all", experts, gated, gated),
        ("backward", None, "all_reduce", "data", 1137 * 4, 1137 * 4),
        ("backward", None, "all_reduce", "expert_data_1", 192 * 4, 192 * 4),
        ("optimizer", None, "all_reduce", "data", 4, 4),
        ("optimizer", None, "all_reduce", "data", 4, 4),
        ("optimizer", None, "all_reduce", "expert_data_1", 4, 4),
        ("optimizer", None, "all_gather", "data", 1152 // 8 * 4, 1152 * 4),
        ("optimizer", None, "all_gather", "expert_data_1", 192 // 2 * 4, 192 * 4),
    ]


def test_de_duplicated_dispatch_by_hand() -> None:
    """Two of 16 experts are on a given rank of four, or one is, in 54 of 120 cases: 33 tokens make 59.4 visits."""
    step = [
        (record.phase, record.op, record.dtype, record.bytes_in, record.bytes_out)
        for record in of_rank(computed(zero_spec(dispatch="copies")), 5)
        if record.layer == 3
    ]
    rows, labels, gates = 59 * 40, 66 * 4, 66 * 4
    assert step == [
        ("forward", "all_to_all", "int32", 32, 32),
        ("forward", "all_to_all", "float32", rows + labels + gates, rows + labels + gates),
        ("forward", "all_to_all", "float32", rows, rows),
        ("backward", "all_to_all", "float32", rows, rows),
        ("backward", "all_to_all", "float32", rows + gates, rows + gates),
    ]


def test_coherent_dispatch_by_hand() -> None:
    """Two of 16 experts, four ranks: the other expert's copy travels on to the token in 26.4 of 59.4 visits."""
    spec = zero_spec(dispatch="coherent", most_choices=2, key_value_width=6, dropout=True)
    step = [
        (record.phase, record.layer, record.op, record.dtype, record.bytes_in, record.bytes_out)
        for record in of_rank(computed(spec), 5)
        if record.phase != "optimizer" and record.group == "expert_1"
    ]
    rows, gates, labels, copies, counts = 59 * 40, 59 * 2 * 4, 59 * 3 * 4, 26 * 40, 8 * (2 * 4 + 16)
    gathered, scattered, losses = 33 * (6 * 4 + 4), 33 * 6 * 4, 33 * 4
    moved = rows + gates + labels
    assert step == [
        ("forward", None, "all_gather", "int64", 8, 32),
        ("forward", 1, "all_gather", "int64", counts, 4 * counts),
        ("forward", 1, "all_to_all", "float32", moved, moved),
        ("forward", 1, "all_to_all", "float32", copies, copies),
        ("forward", 3, "all_gather", "float32", gathered, 4 * gathered),
        ("forward", 3, "all_gather", "int64", counts, 4 * counts),
        ("forward", 3, "all_to_all", "float32", moved, moved),
        ("forward", 3, "all_to_all", "float32", copies, copies),
        ("forward", None, "all_gather", "uint8", 33, 132),
        ("forward", None, "reduce_scatter", "float32", 4 * losses, losses),
        ("backward", None, "all_gather", "float32", losses, 4 * losses),
        ("backward", 3, "all_to_all", "float32", copies, copies),
        ("backward", 3, "all_to_all", "float32", rows + gates, rows + gates),
        ("backward", 3, "reduce_scatter", "float32", 4 * scattered, scattered),
        ("backward", 1, "all_to_all", "float32", copies, copies),
        ("backward", 1, "all_to_all", "float32", rows + gates, rows + gates),
    ]


def test_routers_that_balance_all_ranks_reduce_before_tokens_travel() -> None:
    sums_of_a_layer = (("float64", 16), ("float32", 68))
    spec = zero_spec(router_sums=sums_of_a_layer)
    sums = [
        (record.phase, record.layer, record.op, record.group, record.dtype, record.bytes_in)
        for record in of_rank(computed(spec), 0)[:3]
    ]
    assert sums[:2] == [
        ("forward", 1, "all_reduce", "data", "float64", 16),
        ("forward", 1, "all_reduce", "data", "float32", 68),
    ]
    assert sums[2][2] == "all_gather"
    whole = computed(zero_spec(expert_parallel=1, router_sums=sums_of_a_layer))
    found = [(record.layer, record.dtype) for record in of_rank(whole, 0) if record.phase == "forward"]
    assert found == [(layer, dtype) for layer in (1, 3) for dtype in ("float64", "float32")]


def test_groups_follow_the_layout_of_the_ranks() -> None:
    assert formula(SPEC)[0].groups == {
        "data": tuple(range(8)),
        "expert_0": (0, 1, 2, 3),
        "expert_1": (4, 5, 6, 7),
        **{f"expert_data_{place}": (place, place + 4) for place in range(4)},
    }


def expected_visits(tokens: int, num_ranks: int, top_k: int) -> int:
    """Ranks on which tokens have any of top_k of 12 experts, over all sets of them; rounded rank by rank."""
    ranks = [len({expert * num_ranks // 12 for expert in chosen}) for chosen in combinations(range(12), top_k)]
    return num_ranks * round(Fraction(tokens // num_ranks * sum(ranks), len(ranks)))


@settings(max_examples=40, deadline=None)
@given(
    experts=st.sampled_from([1, 2, 3, 4]),
    copies=st.integers(1, 3),
    tokens=st.integers(0, 50),
    top_k=st.integers(1, 3),
    zero_stage=st.sampled_from([0, 1, 2]),
    precision=st.sampled_from(["fp32", "bf16"]),
    accumulation=st.integers(1, 3),
    bucket=st.sampled_from([50, 500, 5000]),
    dispatch=st.sampled_from(["home", "copies"]),
)
def test_every_computed_trace_is_consistent_and_exact(
    experts: int, copies: int, tokens: int, top_k: int, zero_stage: Any, precision: Any, accumulation: int, bucket: int,
    dispatch: str,
) -> None:  # fmt: skip
    """All ranks tell one story and all rows arrive: a row a choice, or one a rank and a label and a gate a choice."""
    spec = zero_spec(
        world_size=experts * copies, expert_parallel=experts, tokens=tokens, top_k=top_k, zero_stage=zero_stage,
        precision=precision, accumulation=accumulation, bucket_elements=bucket, dispatch=dispatch, num_experts=12,
    )  # fmt: skip
    header, lazy = formula(spec)
    records = list(lazy)
    programs = [of_rank(records, rank) for rank in range(spec.world_size)]
    check([Path("computed")] * spec.world_size, dict(header.groups), programs)
    element = 4 if precision == "fp32" else 2
    exchanges = [record for record in records if record.op == "all_to_all" and record.dtype != "int32"]
    layers, row = 2 * accumulation * (experts > 1), 10 * element
    choices, visits = spec.world_size * tokens * top_k, copies * expected_visits(experts * tokens, experts, top_k)
    expected = 4 * visits * row + choices * (4 + element + 4) if dispatch == "copies" else choices * 4 * (row + 2)
    assert sum(record.bytes_in for record in exchanges) == layers * expected
    for record in exchanges:
        assert record.in_splits is not None
        assert max(record.in_splits) - min(record.in_splits) <= row + 4 + element
    reduced = Counter[str]()
    for record in programs[0]:
        if record.op == "all_reduce" and record.phase == "backward":
            reduced[record.group.rstrip("_0123456789")] += record.bytes_in
    times = accumulation if zero_stage == 2 else 1
    assert reduced == {"data": 4 * sum(DENSE) * times, "expert_data": 4 * sum(EXPERT) * times}, "in float32"


def test_a_dense_model_reduces_and_gathers_only() -> None:
    spec = zero_spec(expert_parallel=1, moe_layers=())
    header, records = formula(spec)
    assert header.groups == {"data": tuple(range(8))}
    assert Counter((record.phase, record.op) for record in records if record.rank == 0) == {
        ("backward", "all_reduce"): 1,
        ("optimizer", "all_reduce"): 1,
        ("optimizer", "all_gather"): 1,
    }


def test_ranks_without_copies_of_their_experts_mark_their_groups() -> None:
    records = computed(zero_spec(world_size=4))
    alone = [record for record in records if record.size1]
    assert {record.group for record in alone} == {f"expert_data_{rank}" for rank in range(4)}
    assert Counter(record.op for record in alone) == {"all_reduce": 2 * 4}


def test_steps_repeat_and_seq_counts_on() -> None:
    records = of_rank(computed(replace(SPEC, steps=(7, 8))), 2)
    half = len(records) // 2
    assert [record.seq for record in records] == list(range(2 * half))
    assert [replace(record, step=8, seq=record.seq + half) for record in records[:half]] == records[half:]


def test_gaps_are_constant_recorded_or_unknown() -> None:
    assert {record.gap_ns for record in computed(SPEC)} == {None}
    assert {record.gap_ns for record in computed(SPEC, gaps=constant_gaps(250))} == {250}
    like = of_rank(computed(SPEC), 0)
    first, last = like[1], like[8]
    assert (first.layer, last.layer) == (1, 1)
    samples = [replace(first, gap_ns=10), replace(first, gap_ns=21), replace(first, layer=9, gap_ns=50), last]
    gaps = recorded_gaps(samples)
    assert gaps(first) == 16  # the mean of 10 and 21, rounded to even
    assert gaps(replace(first, layer=3)) == 27  # no such layer: the mean over layers
    assert gaps(last) is None  # recorded without a time


def test_compute_of_rollouts_is_their_own_or_that_of_forward_passes_by_their_bytes() -> None:
    exchange = next(record for record in computed(SPEC) if record.op == "all_to_all" and record.phase == "forward")
    rollout = replace(exchange, phase="rollout", bytes_in=3 * exchange.bytes_in)
    gaps = recorded_gaps([replace(exchange, gap_ns=100)])
    assert gaps(rollout) == 300
    assert gaps(replace(rollout, op="all_gather")) is None
    assert recorded_gaps([replace(exchange, gap_ns=100), replace(rollout, gap_ns=70)])(rollout) == 70


def test_recorded_gaps_of_a_real_trace_fill_a_computed_one() -> None:
    filled = computed(SPEC, gaps=recorded_gaps(read(GOLDEN)[1]))
    assert {record.gap_ns is None for record in filled if record.op == "all_to_all"} == {True, False}


def test_a_mode_of_dispatch_without_a_formula_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^moe\.dispatch: has no formula"):
        zero_spec(dispatch="carrier_pigeon")


def test_the_same_run_gives_the_same_bytes_without_torch(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, *formula(SPEC))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    code = "import sys, trainer.experiment.forecast.trace, trainer.trace.merge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def reductions(
    groups: tuple[ParameterGroup, ...], copies: int, zero_stage: Any, bucket_elements: int
) -> list[tuple[str, int]]:
    """Process group and elements of the all-reduces of a backward pass."""
    traffic = ZeroTraffic(
        stage=zero_stage,
        parameters=groups,
        num_ranks={"data": 2 * copies, "expert_data": copies},
        precision="fp32",
        bucket_elements=bucket_elements,
    )
    return [(piece.group, piece.elements) for piece in traffic.reductions()]


@settings(max_examples=60, deadline=None)
@given(
    dense=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    expert=st.lists(st.integers(1, 400), max_size=6),
    copies=st.integers(1, 4),
    zero_stage=st.sampled_from([0, 1, 2]),
    bucket=st.integers(1, 1000),
)
def test_pieces_add_up_and_respect_the_bucket(
    dense: list[int], expert: list[int], copies: int, zero_stage: int, bucket: int
) -> None:
    pieces = reductions(optimizer_groups(rated(dense), rated(expert)), copies, zero_stage, bucket)
    sums = Counter[str]()
    for group, elements in pieces:
        sums[group] += elements
        assert zero_stage == 0 or elements <= max(bucket, *dense, *expert)
    assert sums == Counter({"data": sum(dense)}) + Counter({"expert_data": sum(expert)})


def test_an_oversized_gradient_is_cut_where_its_owner_changes() -> None:
    """Twelve elements on two ranks: six a rank; each slice alone exceeds a bucket of three."""
    groups = (ParameterGroup("data", (12,)),)
    assert reductions(groups, 1, 1, 3) == [("data", 6), ("data", 6)]
    assert reductions(groups, 1, 1, 12) == [("data", 12)]


def test_experts_are_split_into_groups_of_limited_size() -> None:
    groups = optimizer_groups(rated([5]), rated([100_000_000, 70_000_000, 10_000_000]))
    assert [group.sizes for group in groups] == [(5,), (100_000_000, 70_000_000), (10_000_000,)]


def test_equal_ranks_of_different_meaning_keep_their_names_and_equal_meanings_are_one() -> None:
    pairs = [("expert", (0, 1)), ("data", (0, 1)), ("expert", (0, 1)), ("tensor", (1,)), ("tensor", (0,))]
    assert canonical_names(pairs) == {
        ("data", (0, 1)): "data",
        ("expert", (0, 1)): "expert",
        ("tensor", (0,)): "tensor_0",
        ("tensor", (1,)): "tensor_1",
    }
