"""Contents of a checkpoint besides the state of parameters, placement included."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moe.placement.placement import Placement, SolverRecord
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.manifest import REMEDY
from trainer.config.layout import Layout
from trainer.config.rules.plan import with_homes_first
from trainer.config.run import RunConfig
from trainer.model.parallel.state import StatePiece


def placement_now(start: Placement, slot_to_expert: NDArray[np.int64], version: int) -> Placement:
    """Returns the placement after migrations: `start` if no expert has moved, else one with "live migration" as solver.

    Args:
        slot_to_expert: logical expert of each slot now, [MoE layers, slots].
        version: migrations of the run so far.
    """
    layers = slot_to_expert.reshape(start.num_layers, start.num_ranks, -1).tolist()
    rank_experts = tuple(tuple(map(tuple, ranks)) for ranks in layers)
    if rank_experts == start.rank_experts:
        return start
    solver = SolverRecord(name=f"live migration {version}", seed=0)
    changes = {"rank_experts": rank_experts, "objective": None, "solver": solver, "trace_sha256": None}
    return start.model_copy(update=changes)


def resumed_layout(config: RunConfig, layout: Layout, folder: Path) -> Layout:
    """The layout of a resuming run, with its experts where they are.

    With migration the experts are where the checkpoint has them: `moe.placement` says only where they start.
    Without `moe.migration`, or where other numbers of ranks share the experts, the configuration decides, and experts
    that were saved elsewhere are moved on loading.
    """
    if config.moe is None or config.moe.migration is None:
        return layout
    path = folder / "placement.json"
    saved, planned = Placement.read(path), layout.placement
    assert planned is not None
    for field in ("num_layers", "num_experts"):
        own, wanted = getattr(saved, field), getattr(planned, field)
        if own != wanted:
            raise Refusal(path, field, f"is {own} but the run has {wanted}", REMEDY)
    if saved.num_ranks != planned.num_ranks:
        return layout
    saved = with_homes_first(saved, path, config.moe.dispatch)
    if config.moe.dispatch == "hierarchical":  # process groups and costs are those of the nodes of this start
        nodes = ("num_nodes", "ranks_per_node", "cost_matrix")
        saved = saved.model_copy(update={field: getattr(planned, field) for field in nodes})
    return replace(layout, placement=saved)


class Stateful(Protocol):
    """Keeps tensors of every parameter, divided over the ranks, such as the moving average of the weights."""

    def state(self) -> list[StatePiece]:
        """Returns this rank's pieces of the tensors; writing to a piece changes the tensor itself."""
        ...


class StatefulOptimizer(Stateful, Protocol):
    """Keeps the weights and the optimiser's state of every parameter, as a training engine does.

    Attributes:
        module: the network.
        updates: how often the optimiser has changed the weights.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def updates(self) -> int: ...

    def state_loaded(self, updates: int) -> None:
        """Adopts the values that were written to the pieces of :meth:`state`; collective.

        Args:
            updates: how often the optimiser had changed the weights when the state was saved.
        """
        ...

    def slot_to_expert(self) -> NDArray[np.int64]:
        """Logical expert in each slot of an expert-parallel group, [MoE layers, experts]; empty where all is dense."""
        ...


class Resumable(Protocol):
    """A part of the training loop with state of its own, the same on every rank."""

    def state(self) -> dict[str, Any]:
        """Returns the state to save, as tensors and plain values."""
        ...

    def load(self, state: dict[str, Any] | None) -> None:
        """Restores what :meth:`state` gave, or starts afresh; collective."""
        ...


class Migrating(Resumable, Protocol):
    """Live migration as a checkpoint needs it: a part of the loop whose state differs from rank to rank.

    Attributes:
        version: migrations of the run so far.
    """

    @property
    def version(self) -> int: ...


def identity_of(config: RunConfig) -> dict[str, Any]:
    """The settings that every continuation of a run shares with its checkpoints, by dotted key."""
    sections = {
        "data": config.data.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json", exclude={"init_from", "dropout", "label_dropout"}),
        "moe": config.moe.model_dump(
            mode="json", include={"num_experts", "top_k", "expert_hidden", "shared_expert_hidden"}, exclude_none=True
        )
        if config.moe
        else {"num_experts": 0},
        "engine": config.engine.model_dump(mode="json", include={"precision"}),
        "flow": config.flow.model_dump(mode="json") if config.flow else {},
        "task": config.task.model_dump(mode="json"),
    }
    return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}


def identity_digest(config: RunConfig) -> str:
    """Returns a hash, seed included, of the settings that all continuations of a run share and no other run has."""
    shared = {**identity_of(config), "run.seed": config.run.seed}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def division_of(config: RunConfig, layout: Layout) -> dict[str, Any]:
    """Returns the settings that decide how a run divides its state over the ranks, by dotted key."""
    engine = config.engine.model_dump(mode="json", include={"kind", "zero_stage"})
    parallel = config.parallel.model_dump(mode="json")
    return {
        "world_size": layout.world_size,
        **{f"engine.{key}": value for key, value in engine.items()},
        **{f"parallel.{key}": value for key, value in parallel.items()},
    }


def router_state(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that routers learn besides their weights (a bias, average potentials), by name; equal on all ranks."""
    buffers = {name for name, _ in module.named_buffers()}
    return {
        name: value.detach().cpu().clone()
        for name, value in module.state_dict().items()
        if name in buffers and ".router." in name
    }


def rank_file(rank: int) -> str:
    """Path of the file of one rank in a checkpoint."""
    return f"ranks/rank_{rank:05d}.pt"


def rank_state(step: int, migration: Migrating | None) -> dict[str, Any]:
    """The state of this rank that no other rank has: its random numbers, and that of live migration."""
    state: dict[str, Any] = {"step": step, "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    if migration is not None:
        state["migration"] = migration.state()
    return state


def set_rank_state(state: Mapping[str, Any], migration: Migrating | None) -> None:
    """Restores what :func:`rank_state` gave, nothing where it is empty; collective."""
    if migration is not None:
        migration.load(state.get("migration"))
    if "rng" in state:
        torch.set_rng_state(state["rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])


def packed(state: Mapping[str, Any]) -> bytes:
    """Serialises tensors and plain values; equal values give equal bytes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpacked(path: Path) -> dict[str, Any]:
    """Reads a file of bytes that :func:`packed` made; refuses content that would run code."""
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # whatever the damage leads to
        raise Refusal(path, "state", f"cannot be read ({type(error).__name__})", REMEDY) from error
