"""Saving and resuming a run."""

import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from moe.files import FileError, replacing
from trainer.checkpoint.directory import Identity, mark_complete, prune, step_folder
from trainer.checkpoint.experts import load_experts, save_experts
from trainer.checkpoint.placement import placement_now
from trainer.checkpoint.weights import read_tensors
from trainer.config import RunConfig
from trainer.ema import MovingAverage
from trainer.engine.config import DeepSpeedConfig
from trainer.engine.protocol import Engine
from trainer.layout import Layout


class Kept(Protocol):
    """A part of the run with something to remember, the same on every rank."""

    def state(self) -> dict[str, Any]:
        """What it must know to go on: plain values."""
        ...

    def load(self, state: dict[str, Any] | None) -> None:
        """Takes up what :meth:`state` gave, or starts afresh."""
        ...


class Migrating(Protocol):
    """Live migration, as far as a checkpoint needs it.

    Attributes:
        version: migrations of the run so far.
    """

    @property
    def version(self) -> int: ...

    def state(self) -> dict[str, Any]:
        """What this rank must know to go on: tensors and plain values."""
        ...

    def load(self, state: dict[str, Any] | None) -> None:
        """Takes up what :meth:`state` gave, or starts afresh; collective."""
        ...


def identity_of(config: RunConfig, layout: Layout) -> Identity:
    """What a checkpoint of this run has in common with every continuation of it."""
    sections = {
        "data": config.data.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json", exclude={"init_from", "dropout", "label_dropout"}),
        "moe": config.moe.model_dump(
            mode="json", include={"num_experts", "top_k", "expert_hidden", "shared_expert_hidden"}, exclude_none=True
        )
        if config.moe
        else {"num_experts": 0},
    }
    return Identity(
        world_size=layout.world_size,
        expert_parallel=layout.expert_parallel,
        zero_stage=config.engine.zero_stage if isinstance(config.engine, DeepSpeedConfig) else None,
        precision=config.engine.precision,
        network={f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()},
    )


def save_checkpoint(
    root: Path,
    step: int,
    config: RunConfig,
    layout: Layout,
    engine: Engine,
    average: MovingAverage,
    migration: Migrating | None = None,
    guard: Kept | None = None,
) -> Path:
    """Saves everything that the run needs to go on; collective.

    Args:
        root: the run's checkpoints folder, on a file system that all ranks share.
        step: optimiser steps done.
        config: the run.
        layout: how it is laid out.
        engine: weights and optimiser state.
        average: moving average of the weights.
        migration: what moves experts in the run, if anything does.
        guard: what judges the steps of the run.

    Returns:
        The folder, complete.
    """
    rank, folder = dist.get_rank(), step_folder(root, step)
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()
    engine.save(folder / "engine")
    save_experts(folder, engine, writes=rank < layout.expert_parallel)
    with replacing(folder / _rank_file(rank)) as temporary:
        torch.save(_rank_state(step, migration, guard), temporary)
    averages = gather_averages(layout.expert_parallel, engine, average)
    if rank == 0:
        with replacing(folder / "ema.safetensors") as temporary:
            save_file(averages, temporary, metadata={"step": str(step)})
        with replacing(folder / "routers.safetensors") as temporary:
            save_file(router_state(engine.module), temporary)
        with replacing(folder / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")
        if layout.placement is not None:
            placement = placement_now(layout.placement, engine.slot_to_expert(), migration.version if migration else 0)
            placement.write(folder / "placement.json")
    dist.barrier()
    if rank == 0:
        mark_complete(folder, step, identity_of(config, layout))
        prune(root, config.checkpoint.keep)
    return folder


def load_checkpoint(
    folder: Path,
    *,
    allow_rng_loss: bool,
    engine: Engine,
    average: MovingAverage,
    migration: Migrating | None = None,
    guard: Kept | None = None,
) -> None:
    """Takes a run up where a checkpoint left it; collective, and bit for bit.

    Args:
        folder: a complete checkpoint of the same identity; the placement may differ.
        allow_rng_loss: go on although this rank's own file is missing.
        engine: receives weights and optimiser state.
        average: receives the moving average.
        migration: receives what it knew; if the run moves experts, `engine` must have been built with the layout
            of :func:`trainer.checkpoint.placement.resumed_layout`.
        guard: receives what it knew.

    Raises:
        FileError: a file is missing or damaged.
    """
    own = folder / _rank_file(dist.get_rank())
    if not own.exists() and not allow_rng_loss:
        raise FileError(
            own, "rank state", "is missing", "delete the checkpoint, or set run.allow_rng_loss=true for another run"
        )
    engine.load(folder / "engine")
    load_experts(folder, engine)
    average.load(read_tensors(folder / "ema.safetensors"))
    state = torch.load(own, weights_only=True) if own.exists() else {}
    if migration is not None:
        migration.load(state.get("migration"))
    if guard is not None:
        guard.load(state.get("guard"))
    if state:
        _set_rank_state(state)


def router_state(module: nn.Module) -> dict[str, Tensor]:
    """What routers have learned besides their weights (a bias, average potentials), by name; equal on all ranks."""
    buffers = {name for name, _ in module.named_buffers()}
    return {
        name: value.detach().cpu().clone()
        for name, value in module.state_dict().items()
        if name in buffers and ".router." in name
    }


def gather_averages(expert_parallel: int, engine: Engine, average: MovingAverage) -> dict[str, Tensor]:
    """Brings the moving average of every parameter together on rank 0; collective.

    Args:
        expert_parallel: ranks that share the experts of a layer.
        engine: which knows how parameters are divided and where the experts live.
        average: this rank's pieces.

    Returns:
        On rank 0, whole tensors on the CPU by logical name; elsewhere this rank's own.
    """
    whole, averages, slot_to_expert = {}, average.averages, engine.slot_to_expert()
    for shard in engine.shards():
        value = engine.full(shard, averages[shard.name])
        if shard.expert is None:
            whole[shard.name] = value.cpu()
        elif dist.get_rank() < expert_parallel:
            layer, expert = shard.expert
            experts = _same_slots(slot_to_expert[layer], expert, expert_parallel)
            for other, piece in zip(experts, _gather_experts(value), strict=False):  # no pieces but on rank 0
                whole[shard.name.replace(f".experts.{expert}.", f".experts.{other}.")] = piece.cpu()
    return whole


def _gather_experts(value: Tensor) -> list[Tensor]:
    from megatron.core import parallel_state

    group = parallel_state.get_expert_model_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    pieces = [torch.empty_like(value) for _ in range(group.size())] if group.rank() == 0 else None
    dist.gather(value, pieces, dst=0, group=group)
    return pieces or []


def _same_slots(slot_to_expert: NDArray[np.int64], expert: int, num_ranks: int) -> list[int]:
    """Experts that the ranks hold in the slot where one of them holds `expert`, in the order of ranks."""
    by_rank = slot_to_expert.reshape(num_ranks, -1)
    return by_rank[:, (by_rank == expert).any(axis=0)].ravel().tolist()


def _rank_file(rank: int) -> str:
    return f"rank_{rank:05d}.pt"


def _rank_state(step: int, migration: Migrating | None, guard: Kept | None) -> dict[str, Any]:
    state: dict[str, Any] = {"step": step, "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    if migration is not None:
        state["migration"] = migration.state()
    if guard is not None:
        state["guard"] = guard.state()
    return state


def _set_rank_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])
