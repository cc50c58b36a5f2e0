"""Reactions: those that ship, files of a user's, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.data import build
from trainer.data.reactions import (
    Reactions,
    ReactionsConfig,
    ReactionSet,
    laid_upon,
    read_reactions,
    swapped,
    write_reactions,
)


def config(**settings: Any) -> ReactionsConfig:
    document = {"kind": "reactions", "held_out": 2, **settings}
    return ReactionsConfig.model_validate(ReactionsConfig.resolved(document))


def reactions(**settings: Any) -> ReactionSet:
    made = build(config(**settings))
    assert isinstance(made, ReactionSet)
    return made


def molecules(num: int = 4, seed: int = 0, moving: int | None = None) -> Reactions:
    """Random triples of five atoms, the last reaction of three."""
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(num, 3, 5, 3)).astype(np.float32)
    numbers = np.tile(np.array([6, 1, 1, 8, 1]), (num, 1))
    free = np.ones((num, 5), np.bool_)
    if moving is not None:
        free[:, moving:] = False
        positions[:, 1:, moving:] = positions[:, :1, moving:]
    positions[-1, :, 3:], numbers[-1, 3:], free[-1, 3:] = 0, 0, False
    return Reactions(positions, numbers, free)


def test_the_reactions_that_ship() -> None:
    made = reactions(held_out=12, split=1)
    train, held_out = (made.indices(split) for split in ("train", "held_out"))
    assert len(train) + len(held_out) >= 140
    assert not set(train.tolist()) & set(held_out.tolist())
    assert set(held_out.tolist()) != set(reactions(held_out=12).indices("held_out").tolist())
    batch = made.get(train[:5])
    assert batch.context is not None
    assert (batch.x_1.shape, batch.context.shape) == ((5, 3, 1, 17), (5, 10, 1, 17))
    free = batch.context[:, -1:]
    assert (free.sum(-1) == 3).all()
    assert torch.equal(batch.x_1 * (1 - free), batch.context[:, :3] * (1 - free)), "the others stay where they are"
    assert (batch.context[:, 6:9].sum(1) == 1).all()


def test_half_of_the_ends_are_exchanged_by_the_position_alone() -> None:
    made = reactions(held_out=12)
    batch = made.get(made.indices("train")[:1].expand(400))
    positions = torch.arange(400)
    dealt = made.augmented(batch, positions, seed=3).context
    assert batch.context is not None
    assert dealt is not None
    is_swapped = (dealt != batch.context).flatten(1).any(1)
    assert 150 < int(is_swapped.sum()) < 250
    assert torch.equal(dealt[is_swapped], swapped(batch.context)[is_swapped])
    again = made.augmented(made.get(batch.ids[5:9]), positions[5:9], seed=3).context
    assert again is not None
    assert torch.equal(again, dealt[5:9])
    same = reactions(held_out=12, swap=False)
    kept = same.augmented(batch, positions, seed=3).context
    assert kept is not None
    assert torch.equal(kept, batch.context)


@pytest.mark.parametrize("moving", [None, 2])
def test_extended_xyz_is_read_as_it_is_written(tmp_path: Path, moving: int | None) -> None:
    path, given = tmp_path / "reactions.xyz", molecules(moving=moving)
    write_reactions(path, given)
    np.savez(tmp_path / "reactions.npz", positions=given.positions, numbers=given.numbers, free=given.free)
    found, same = read_reactions(path), read_reactions(tmp_path / "reactions.npz")
    assert np.array_equal(found.numbers, given.numbers)
    assert np.array_equal(found.free, given.free)
    np.testing.assert_allclose(found.positions, same.positions, atol=2e-5)
    if moving is None:
        assert np.abs(found.positions[0].mean(1)).max() < 1e-6, "the middle of each structure is at the origin"
    made = reactions(path=path, held_out=1)
    assert (made.shape, len(made.indices("train"))) == ((3, 1, 5), 3)
    assert config(path=path).species == (1, 6, 8)


@pytest.mark.parametrize("mirror", [False, True])
def test_structures_are_laid_upon_each_other_as_scipy_does(mirror: bool) -> None:
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(2)
    fixed, moved = rng.normal(size=(2, 7, 3))
    ways = [1, -1] if mirror else [1]
    least = min(Rotation.align_vectors(fixed - fixed.mean(0), way * (moved - moved.mean(0)))[1] for way in ways)
    assert np.linalg.norm(laid_upon(moved, fixed, mirror=mirror) - fixed) == pytest.approx(least, rel=1e-6)


TRIPLE = """2

{first} 0 0 0
O 0 0 1
2

C 0 0 0.1
{second} 0 0 {last}
2

C 0 0 0
O 0 0 1.2
"""


@each(
    ("changes", "message"),
    [
        ({"second": "N"}, r"line 5: \(transition state\) has other atoms or order of atoms than .* at line 1"),
        ({"first": "O"}, r"line 5: .*; give the three the same atoms in one order"),
        ({"second": "Xx"}, r"line 8: has the species 'Xx'; give the symbol of an element"),
        ({"last": "nan"}, r"reaction 1: has positions that are not finite; leave the reaction out"),
        ({"last": "far"}, r"line 8: is no atom with a species and a position; give extended XYZ"),
    ],
)
def test_triples_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = tmp_path / "wrong.xyz"
    path.write_text(TRIPLE.format(**{"first": "C", "second": "O", "last": "1.1", **changes}))
    with pytest.raises(Refusal, match=message):
        read_reactions(path)


def test_structures_that_are_no_triples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.xyz"
    path.write_text("1\n\nH 0 0 0\n" * 2)
    with pytest.raises(Refusal, match=r"structures: has 2 structures, which are no triples"):
        read_reactions(path)
    path.write_text("1\n\nH 0 0 0\n3\n\nH 0 0 0\n")
    with pytest.raises(Refusal, match=r"line 4: has '3', which is no number of atoms that follow"):
        read_reactions(path)


@each(
    ("name", "place", "value", "message"),
    [
        ("positions", (1, 1, 0, 0), np.nan, r"reaction 2: has positions that are not finite"),
        ("numbers", (0, slice(None)), 0, r"reaction 1: has atoms without a species"),
        ("numbers", (0, 2), 0, r"reaction 1: has atoms with a position and without a species"),
        ("numbers", (0, 2), 200, r"reaction 1: has atoms without a species \(numbers 1 to 200\)"),
        ("free", (0, slice(None)), False, r"reaction 1: has no free atom"),
        ("free", (0, 2), False, r"reaction 1: has an atom that is not free and moves by"),
    ],
)
def test_arrays_that_are_no_reactions_are_refused(
    tmp_path: Path, name: str, place: tuple[Any, ...], value: Any, message: str
) -> None:
    path, given = tmp_path / "wrong.npz", vars(molecules())
    given[name][place] = value
    np.savez(path, **given)
    with pytest.raises(Refusal, match=message):
        read_reactions(path)


def test_archives_lack_nothing(tmp_path: Path) -> None:
    path, given = tmp_path / "wrong.npz", vars(molecules())
    np.savez(path, positions=given["positions"], numbers=given["numbers"])
    with pytest.raises(Refusal, match=r"free: is not in the file"):
        read_reactions(path)
    np.savez(path, **{**given, "positions": given["positions"][:, :2]})
    with pytest.raises(Refusal, match=r"positions: is float32 \[4, 2, 5, 3\]; give floats \[M, 3, N, 3\]"):
        read_reactions(path)
    with pytest.raises(ValueError, match=r"path: .*cannot be read \(No such file or directory\); correct data.path"):
        config(path=tmp_path / "none.xyz")


def test_a_run_that_goes_on_wants_the_atoms_that_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "reactions.xyz"
    write_reactions(path, molecules())
    with pytest.raises(Refusal, match=r"numbers: hold atoms of the number 6, where the run has \[1, 8\]"):
        build(config(path=path, species=(1, 8)))
    with pytest.raises(Refusal, match=r"positions: have 5 atoms, where the run has 4"):
        build(config(path=path, atoms=4))
    with pytest.raises(ValueError, match=r"held_out: 4 leaves none of the 4 reactions; use 3 or less"):
        config(path=path, held_out=4)
