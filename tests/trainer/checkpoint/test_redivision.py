"""Who writes what several ranks hold, and that any division of what was written fills any other."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.ranks import run_ranks
from trainer.checkpoint import storage
from trainer.checkpoint.resuming import fill
from trainer.checkpoint.storage import SavedState, write_index, write_pieces
from trainer.checkpoint.writers import check_complete, records_of, share, writes
from trainer.model.parallel.state import Region, StatePiece

KINDS = ("weight", "exp_avg", "exp_avg_sq", "ema")
SHAPES = {"a.weight": (7, 5), "a.bias": (5,), "scale": (), "experts.3.linear": (4, 3, 6), "one": (1,)}


def values(name: str, kind: str) -> torch.Tensor:
    seed = list(SHAPES).index(name) * 10 + KINDS.index(kind)
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))


def runs(rank: int, num_ranks: int, *, empty: bool = False) -> list[StatePiece]:
    """The rank's run of the elements of all tensors, laid end to end, as ZeRO divides them."""
    total, before, pieces = sum(map(math.prod, SHAPES.values())), 0, []
    first, end = rank * total // num_ranks, (rank + 1) * total // num_ranks
    for name, shape in SHAPES.items():
        size = math.prod(shape)
        low, high = max(first - before, 0), min(end - before, size)
        for kind in KINDS:
            if low < high:
                flat = torch.zeros(size) if empty else values(name, kind).flatten()
                for offset, rectangle in Region.whole(shape, low).rectangles(flat[low:high]):
                    pieces.append(StatePiece(name, kind, shape, offset, rectangle))
        before += size
    return pieces


def rows(rank: int, num_ranks: int, *, empty: bool = False) -> list[StatePiece]:
    """The rank's rows of every tensor, as FSDP divides them; of some it has none."""
    pieces = []
    for name, shape in SHAPES.items():
        each = -(-(shape[0] if shape else 1) // num_ranks)
        for kind in KINDS:
            whole = torch.zeros(shape) if empty else values(name, kind)
            if not shape:
                pieces += [StatePiece(name, kind, shape, (), whole)] if rank == 0 else []
            elif rank * each < shape[0]:
                offset = (rank * each, *(0 for _ in shape[1:]))
                pieces.append(StatePiece(name, kind, shape, offset, whole[rank * each : (rank + 1) * each]))
    return pieces


def copies(_rank: int, _num_ranks: int, *, empty: bool = False) -> list[StatePiece]:
    """All of it on every rank."""
    return runs(0, 1, empty=empty)


DIVISIONS = {"runs": runs, "rows": rows, "copies": copies}


def held_by(ranks: Sequence[Sequence[StatePiece]]) -> list[list[StatePiece]]:
    """What each rank writes of what the ranks hold."""
    alike: list[list[list[StatePiece]]] = []
    for pieces in ranks:
        rectangles: dict[object, list[StatePiece]] = defaultdict(list)
        for piece in pieces:
            rectangles[piece.name, piece.offset, piece.tensor.shape].append(piece)
        alike.append(list(rectangles.values()))
    records = [records_of(rectangles) for rectangles in alike]
    numbers = np.repeat(np.arange(len(ranks)), [len(of_rank) for of_rank in records])
    everyones = np.concatenate(records)
    assert check_complete(everyones) == sum(map(math.prod, SHAPES.values()))
    mask = writes(everyones, numbers)
    return [
        [piece for pieces, own in zip(rectangles, mask[numbers == rank], strict=True) if own for piece in pieces]
        for rank, rectangles in enumerate(alike)
    ]


def save(folder: Path, division: str, num_ranks: int) -> None:
    ranks = [DIVISIONS[division](rank, num_ranks) for rank in range(num_ranks)]
    for rank, pieces in enumerate(held_by(ranks)):
        write_pieces(folder, rank, pieces)
    write_index(folder, num_ranks)


@each("after", DIVISIONS)
@each("before", DIVISIONS)
def test_every_division_fills_every_other(tmp_path: Path, before: str, after: str) -> None:
    for many, few in ((1, 3), (3, 1), (3, 3), (4, 3)):
        folder = tmp_path / f"{many}_{few}"
        save(folder, before, many)
        for rank in range(few):
            filled, expected = (DIVISIONS[after](rank, few, empty=empty) for empty in (True, False))
            fill(folder, rank, filled)
            for piece, right in zip(filled, expected, strict=True):
                assert torch.equal(piece.tensor, right.tensor), (piece.name, piece.kind, piece.offset)
        for kind in KINDS:
            found = SavedState(folder).of_kind(kind)
            assert list(found) == sorted(SHAPES)
            for name, tensor in found.items():
                assert torch.equal(tensor.values(), values(name, kind))


@pytest.mark.parametrize("division", ["runs", "rows"])
def test_a_rank_that_has_what_it_wrote_reads_its_own_file(
    tmp_path: Path, division: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, division, 3)
    opened, read_header = [], storage.read_header
    monkeypatch.setattr(storage, "read_header", lambda path: opened.append(path.name) or read_header(path))
    for rank in range(3):
        fill(tmp_path, rank, DIVISIONS[division](rank, 3))
    assert opened == [f"rank_{rank:05d}.safetensors" for rank in range(3)]


def test_what_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    write_pieces(tmp_path, 0, [piece for piece in runs(0, 2) if piece.kind == "weight"])
    write_index(tmp_path, 1)
    with pytest.raises(Refusal, match=r"a\.bias:ema: is missing or incomplete"):
        fill(tmp_path, 0, [StatePiece("a.bias", "ema", (5,), (0,), torch.zeros(5))])
    with pytest.raises(Refusal, match=r"experts\.3\.linear:weight: is missing or incomplete"):
        fill(tmp_path, 0, [StatePiece("experts.3.linear", "weight", (4, 3, 6), (0, 0, 0), torch.zeros(4, 3, 6))])
    with pytest.raises(Refusal, match=r"a\.bias:weight: has shape \(5,\), not \(6,\)"):
        fill(tmp_path, 0, [StatePiece("a.bias", "weight", (6,), (0,), torch.zeros(6))])
    with pytest.raises(Refusal, match=r"experts\.3\.linear: is incomplete"):
        SavedState(tmp_path).of_kind("weight")["experts.3.linear"].values()


@each("seed", range(5))
def test_each_rectangle_is_written_once_and_by_turns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    num_ranks, num_sets = int(draw.integers(2, 20)), 4
    sets = [draw.choice(num_ranks, int(draw.integers(1, num_ranks + 1)), replace=False) for _ in range(num_sets)]
    sizes = draw.integers(1, 1000, size=200)
    pieces = [StatePiece(f"{i}", "ema", (int(n),), (0,), torch.empty(int(n))) for i, n in enumerate(sizes)]
    which = draw.integers(num_sets, size=len(pieces))
    holds = [[i for i in range(len(pieces)) if rank in sets[which[i]]] for rank in range(num_ranks)]
    records = np.concatenate([records_of([pieces[i]] for i in held) for held in holds])
    ranks = np.repeat(np.arange(num_ranks), [len(held) for held in holds])
    place = np.concatenate([np.array(held, dtype=np.int64) for held in holds])
    mask = writes(records, ranks)
    assert sorted(place[mask]) == list(range(len(pieces)))
    for number in range(num_sets):
        of_set = mask & (which[place] == number)
        shares = np.bincount(ranks[of_set], sizes[place[of_set]], minlength=num_ranks)[sorted(sets[number])]
        assert shares.max() - shares.min() <= 2 * sizes[which == number].max()


def test_what_does_not_make_up_the_tensors_is_no_state() -> None:
    pieces = [[piece] for piece in runs(0, 2)]
    with pytest.raises(AssertionError, match="overlap or are missing"):
        check_complete(records_of(pieces))
    overlapping = [*runs(0, 1), StatePiece("a.bias", "ema", (5,), (1,), torch.zeros(2))]
    with pytest.raises(AssertionError, match="overlap or are missing"):
        check_complete(records_of([piece] for piece in overlapping))


def shared(rank: int, world_size: int) -> tuple[list[tuple[str, str]], int]:
    import torch.distributed as dist

    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    pieces, average_elements = share([] if rank == 1 else copies(rank, world_size), group)
    return [(piece.name, piece.kind) for piece in pieces], average_elements


def test_a_rank_may_hold_nothing() -> None:
    (first, elements), (second, _), (third, _) = run_ranks(shared, 3)
    assert second == []
    assert first
    assert third
    assert sorted([*first, *third]) == sorted((name, kind) for name in SHAPES for kind in KINDS)
    assert elements == sum(map(math.prod, SHAPES.values()))
