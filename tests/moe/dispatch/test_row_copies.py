"""Copying rows and adding them up again, against index arithmetic.

Shape suffixes: R rows, C copies, D width.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from moe.dispatch.row_copies import RowCopies, RowOrder, counts_of, places_of


@settings(max_examples=30, deadline=None)
@given(source=st.lists(st.integers(0, 6), max_size=20), seed=st.integers(0, 9))
def test_copies_are_of_their_row_and_add_up_to_it(source: list[int], seed: int) -> None:
    source_C = torch.tensor(source, dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    rows_RD = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    copies_CD = torch.randn(len(source), 3, dtype=torch.float64, generator=generator)
    copies = RowCopies.of(source_C, num_rows=7)
    assert torch.equal(copies.spread(rows_RD), rows_RD[source_C])
    expected_RD = torch.zeros_like(rows_RD)
    for copy, row in enumerate(source):
        expected_RD[row] += copies_CD[copy]
    torch.testing.assert_close(copies.add(copies_CD), expected_RD, rtol=1e-15, atol=1e-15)


def test_gradients_are_exact() -> None:
    copies = RowCopies.of(torch.tensor([2, 0, 2, 1, 2]), num_rows=4)
    rows_RD = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    copies_CD = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(copies.spread, (rows_RD,))
    assert gradcheck(copies.add, (copies_CD,))
    assert gradcheck(copies.add, (copies_CD.detach().T.contiguous().T.requires_grad_(),))


def test_half_precision_sums_are_rounded_once() -> None:
    """1 + 2^-8 + 2^-8 is 1 + 2^-7 in bfloat16 only if the sum is kept in a wider type until it is complete."""
    copies = RowCopies.of(torch.zeros(3, dtype=torch.long), num_rows=1)
    terms_CD = torch.tensor([[1.0], [2**-8], [2**-8]], dtype=torch.bfloat16)
    assert copies.add(terms_CD).item() == 1 + 2**-7


@settings(max_examples=30, deadline=None)
@given(flags=st.lists(st.booleans(), max_size=20), keys=st.lists(st.integers(0, 4), max_size=20))
def test_places_and_counts_are_those_that_a_host_would_find(flags: list[bool], keys: list[int]) -> None:
    places = [place for place, flag in enumerate(flags) if flag]
    assert places_of(torch.tensor(flags, dtype=torch.bool), len(places)).tolist() == places
    assert counts_of(torch.tensor(sorted(keys), dtype=torch.long), 5).tolist() == [keys.count(key) for key in range(5)]


@settings(max_examples=30, deadline=None)
@given(table=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=4))
def test_chunks_column_by_column_and_back(table: list[list[int]]) -> None:
    chunks = [
        (row, column) for row, counts in enumerate(table) for column, count in enumerate(counts) for _ in range(count)
    ]
    order = RowOrder.by_column(torch.tensor(table), len(chunks))
    rows = torch.tensor(chunks, dtype=torch.long).view(-1, 2)
    moved = order.of(rows)
    assert [tuple(row) for row in moved.tolist()] == sorted(chunks, key=lambda chunk: (chunk[1], chunk[0]))
    assert torch.equal(order.inverse.of(moved), rows)


def test_gradients_of_an_order_are_exact() -> None:
    order = RowOrder.by_column(torch.tensor([[2, 1], [0, 3]]), 6)
    rows_RD = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(order.of, (rows_RD,))
