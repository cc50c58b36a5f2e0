"""Rows of every type on their way through context-coherent dispatch.

Shape suffixes: T tokens of this rank, D width, E experts, K gate values, L labels.
"""

from itertools import product
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tests.each import each
from tests.ranks import run_ranks


def stay_and_go(rank: int, _world_size: int) -> dict[str, Any]:
    """Tokens without an expert, with one, and with two on the same other rank, there and back; rows of every type."""
    from moe.dispatch.context_coherent import CoherentDispatcher
    from moe.dispatch.residency import Residency, return_home

    group = dist.group.WORLD
    assert group is not None
    dispatcher = CoherentDispatcher(group, np.array([2, 0, 3, 1]))
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        gate_type = torch.float64 if dtype == torch.float64 else torch.float32
        rows_TD = (10 * rank + torch.arange(3.0))[:, None].expand(3, 5).to(dtype).requires_grad_()
        probs_TE = torch.zeros(3, 4, dtype=gate_type)
        probs_TE[1, 1] = 0.7
        probs_TE[2, 1], probs_TE[2, 3] = 1 / 3, 2 / 3
        with torch.set_grad_enabled(True):
            residency = Residency.home(3, group, rows_TD.device)
            arrivals = dispatcher.move(rows_TD, probs_TE, probs_TE > 0, 2, residency)
        with torch.no_grad():
            quick = dispatcher.move(rows_TD, probs_TE, probs_TE > 0, 2, residency)
        weight = 1.0 + arrivals.residency.ids
        (arrivals.rows[arrivals.residents] * weight[:, None]).sum().backward()
        gradient = rows_TD.grad
        assert gradient is not None
        home = return_home(arrivals.rows[arrivals.residents], arrivals.residency)
        assert torch.equal(home, rows_TD)
        row_P, gate_P, counts = dispatcher.pairs(arrivals)
        for name in ("rows", "gates", "slots", "anchors", "residents"):
            assert torch.equal(getattr(arrivals, name), getattr(quick, name))
        assert arrivals.residency.rows == quick.residency.rows
        found[str(dtype)] = {
            "ids": arrivals.residency.ids.tolist(),
            "rows_by_rank": arrivals.residency.rows,
            "residents": arrivals.rows[arrivals.residents].tolist(),
            "pairs": [(arrivals.rows[row, 0].item(), gate.item()) for row, gate in zip(row_P, gate_P, strict=True)],
            "counts": counts.tolist(),
            "gradient": gradient.tolist(),
        }
    return found


def test_a_token_without_an_expert_stays_and_copies_to_one_rank_are_sent_once() -> None:
    """Experts 2 and 0 are on rank 0, 3 and 1 on rank 1: token 0 stays, tokens 1 and 2 go to rank 1, once each."""
    first, second = run_ranks(stay_and_go, 2)
    for dtype, found in first.items():
        other = second[dtype]
        assert found["ids"] == [0]
        assert other["ids"] == [1, 2, 3, 4, 5]
        assert found["rows_by_rank"] == other["rows_by_rank"] == (1, 5)
        assert found["residents"] == [[0.0] * 5]
        assert other["residents"] == [[float(v)] * 5 for v in (1, 2, 10, 11, 12)]
        assert found["gradient"] == [[float(v)] * 5 for v in (1, 2, 3)]
        assert other["gradient"] == [[float(v)] * 5 for v in (4, 5, 6)]
        assert found["counts"] == [0, 0]
        assert other["counts"] == [2, 4]
        third = torch.tensor(1 / 3, dtype=torch.float64 if "64" in dtype else torch.float32).item()
        assert [pair for pair in other["pairs"] if pair[1] < 0.5] == [(2.0, third), (12.0, third)]


@each("dtype, rows, labels", product([torch.bfloat16, torch.float32, torch.float64], [0, 1, 3], [0, 3]))
def test_a_message_row_keeps_every_bit(dtype: torch.dtype, rows: int, labels: int) -> None:
    from moe.dispatch.exchange import packed, unpacked

    gate_type = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    rows_TD = torch.randn(rows, 7, generator=generator).to(dtype)
    gates_TK = torch.rand(rows, 2, generator=generator).to(gate_type)
    labels_TL = torch.randint(-1, 2**31 - 1, (rows, labels), generator=generator)
    message = packed(rows_TD, gates_TK, labels_TL)
    assert message.dtype == dtype
    for found, sent in zip(unpacked(message, 7, 2, gate_type, labels), (rows_TD, gates_TK, labels_TL), strict=True):
        assert torch.equal(found, sent)
