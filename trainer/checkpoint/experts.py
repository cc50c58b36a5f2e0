"""Experts on disk: one file for each MoE layer and logical expert, wherever the expert lives."""

from collections import defaultdict
from pathlib import Path

from safetensors.torch import save_file

from moe.files import replacing
from trainer.checkpoint.weights import read_tensors
from trainer.engine.protocol import Engine, Shard


def expert_path(folder: Path, layer: int, expert: int) -> Path:
    """File of one expert inside a checkpoint."""
    return folder / "experts" / f"layer_{layer:03d}_expert_{expert:05d}.safetensors"


def save_experts(folder: Path, engine: Engine, *, writes: bool) -> None:
    """Writes the experts of this rank; collective over the ranks that hold a copy.

    Args:
        folder: the checkpoint.
        engine: whose experts.
        writes: whether this rank is the one that writes its group's copy.
    """
    for (layer, expert), shards in _by_expert(engine).items():
        tensors = {
            f"{_parameter(shard)}:{kind}": value.cpu().contiguous()
            for shard in shards
            for kind, value in engine.expert_state(shard).items()
        }
        if writes:
            with replacing(expert_path(folder, layer, expert)) as temporary:
                save_file(tensors, temporary)


def load_experts(folder: Path, engine: Engine) -> None:
    """Fills the experts that this rank holds now, under whatever placement they were saved.

    Args:
        folder: the checkpoint.
        engine: whose experts.

    Raises:
        FileError: an expert's file is missing or damaged.
    """
    for (layer, expert), shards in _by_expert(engine).items():
        tensors = read_tensors(expert_path(folder, layer, expert))
        for shard in shards:
            prefix = f"{_parameter(shard)}:"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            engine.set_expert_state(shard, state)


def _by_expert(engine: Engine) -> dict[tuple[int, int], list[Shard]]:
    experts: dict[tuple[int, int], list[Shard]] = defaultdict(list)
    for shard in engine.shards():
        if shard.expert is not None:
            experts[shard.expert].append(shard)
    return experts


def _parameter(shard: Shard) -> str:
    assert shard.expert is not None
    return shard.name.partition(f".experts.{shard.expert[1]}.")[2]
