"""Checkpoints of experts that were parameters of their own: files carry the matrices of single experts, as before."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.ranks import run_ranks
from tests.trainer.training.migration.migrated import EXPERTS, LAYERS, Run, configuration
from trainer.checkpoint.resuming import fill
from trainer.checkpoint.storage import SavedState, write_index, write_pieces
from trainer.checkpoint.writers import share
from trainer.model.parallel.state import Region, StatePiece

WIDTH, INNER = 16, 24
SHAPES = {"linear_fc1.weight": (INNER, WIDTH), "linear_fc2.weight": (WIDTH, INNER)}
MATRICES = {
    f"blocks.{layer}.feed_forward.experts.{expert}.{name}": shape
    for layer, expert, (name, shape) in itertools.product(range(LAYERS), range(EXPERTS), SHAPES.items())
}
"""In the order of the parameters of such a network."""
KINDS = ("weight", "exp_avg", "exp_avg_sq")
DIVISIONS = {"every rank whole": (0, 1), "runs of a stack": (1, 1), "shared among ranks": (2, 2)}
"""ZeRO stage, and ranks that share the experts."""


def value(name: str, kind: str) -> Tensor:
    """What a tensor of the checkpoint holds."""
    seed = list(MATRICES).index(name) * len(KINDS) + KINDS.index(kind)
    return torch.randn(MATRICES[name], generator=torch.Generator().manual_seed(seed))


def pieces_of_single_parameters(rank: int, num_ranks: int) -> list[StatePiece]:
    """What a rank of ZeRO 1 held when each matrix was a parameter: a run of all of them laid end to end."""
    total = sum(math.prod(shape) for shape in MATRICES.values())
    partition = -(-total // (2 * num_ranks)) * 2
    begin, end, offset, pieces = rank * partition, (rank + 1) * partition, 0, []
    for name, shape in MATRICES.items():
        first, last = max(begin - offset, 0), min(end - offset, math.prod(shape))
        for kind in KINDS if first < last else ():
            run = value(name, kind).view(-1)[first:last].clone()
            pieces += [StatePiece(name, kind, shape, *one) for one in Region.whole(shape, first).rectangles(run)]
        offset += math.prod(shape)
    return pieces


def write(folder: Path, rank: int, pieces: list[StatePiece]) -> None:
    """Saves the pieces of all ranks."""
    assert dist.group.WORLD is not None
    folder.mkdir(exist_ok=True)
    write_pieces(folder, rank, share(pieces, dist.group.WORLD)[0])
    write_index(folder, dist.get_world_size())
    dist.barrier()


def read_and_written(rank: int, world_size: int, folder: Path) -> dict[str, int]:
    """Reads pieces of single parameters with engines of stacks and writes theirs; returns the pieces of each."""
    from trainer.distributed.groups import divide_ranks, unite_ranks

    old = pieces_of_single_parameters(rank, world_size)
    write(folder / "old", rank, old)
    found = {"old": len(old)}
    for name, (stage, expert) in DIVISIONS.items():
        divide_ranks(expert, 1)
        run = Run(configuration(zero_stage=stage, expert_parallel=expert), world_size)
        pieces = [piece for piece in run.engine.state() if piece.name in MATRICES]
        assert len(pieces) == sum(".experts." in piece.name for piece in run.engine.state())
        fill(folder / "old", rank, pieces)
        run.engine.state_loaded(3)
        write(folder / name, rank, pieces)
        for shard in run.engine.shards():
            assert shard.expert is None or torch.equal(shard.tensor, value(shard.name, "weight"))
        found[name] = len(pieces)
        unite_ranks()
    dist.barrier()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, int]]:
    return run_ranks(read_and_written, 2, folder)


def test_engines_of_stacks_read_them_and_write_the_same(folder: Path, found: list[dict[str, int]]) -> None:
    assert set(found[0]) == {"old", *DIVISIONS}
    for written, kind in itertools.product(found[0], KINDS):
        saved = SavedState(folder / written).of_kind(kind)
        tensors = {name: tensor.values() for name, tensor in saved.items()}
        assert tensors.keys() == MATRICES.keys(), written
        for name, tensor in tensors.items():
            assert torch.equal(tensor, value(name, kind)), (written, name)


def test_a_rank_holds_its_experts_only(found: list[dict[str, int]]) -> None:
    everything = len(MATRICES) * len(KINDS)
    for rank in found:
        assert rank["every rank whole"] == everything
        assert rank["shared among ranks"] == everything / 2
        assert rank["runs of a stack"] < everything
