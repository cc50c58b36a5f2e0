"""The network of another run: restored from its newest intact checkpoint, or frozen and called by this one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
import torch.distributed as dist
from pydantic import BaseModel

from moe.placement.placement import Placement
from netsim.foundation.own_class import OwnClass
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.checkpoint.base import check_base, with_digest, write_base
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest
from trainer.config.derived import expert_parameters
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.task import TrajectoryBalanceTaskConfig
from trainer.model.build import bare_network, dense_parameters, frozen_parameters, parameter_shapes
from trainer.model.network import Network
from trainer.model.values import check_weights, give_memory, initialise_from
from trainer.model.weight_files import WEIGHTS


def restored_layout(config: RunConfig, folder: Path, world_size: int) -> Layout:
    """Returns how ranks share a trained network: one rank holds all of it, several share it as the run's ranks did.

    `world_size` is 1, or a multiple of the ranks that share the network.
    """
    if world_size == 1:
        return Layout.single(config)
    expert, tensor = config.parallel.expert, config.parallel.tensor
    placement = None if config.moe is None else Placement.read(folder / "placement.json")
    return Layout(
        world_size=world_size,
        expert_parallel=expert,
        expert_data_parallel=world_size // tensor // expert,
        tensor_parallel=tensor,
        micro_batch=1,
        accumulation=1,
        placement=placement,
        relay_ranks=None if config.moe is None or placement is None else placement.relay_ranks(config.moe.dispatch),
    )


def check_sharing(config: RunConfig, world_size: int) -> None:
    """Refuses, with a ValueError, ranks that cannot share a trained network as the run's ranks did."""
    together = config.parallel.expert * config.parallel.tensor
    if world_size > 1 and world_size % together:
        raise ValueError(
            f"ranks: {world_size} do not share the network as the run's {together} did; "
            f"start one, or a multiple of {together}"
        )


def check_restorable(config: RunConfig, folder: Path) -> None:
    """Refuses a checkpoint that :func:`restore` cannot use."""
    check_base(config)
    check_weights(folder / WEIGHTS, parameter_shapes(config))


def restore(config: RunConfig, layout: Layout, folder: Path, weights: str = WEIGHTS) -> Network:
    """Builds this rank's network with the averaged weights and the routers of a folder, in evaluation mode."""
    model = bare_network(config, layout).eval()
    give_memory(model, lambda parameter: torch.empty(parameter.shape, dtype=parameter.dtype))
    write_base(model, config, torch.device("cpu"), trains=False)
    initialise_from(model, folder / weights)
    return model


OBJECTIVE = "flow.objective."
"""What the names of the fields of an objective begin with."""
BASE = "task.base"
"""The run that another one continues."""


class FrozenRun:
    """Averaged weights of another run: in evaluation mode and without gradients.

    A network with experts is divided as its own run divided it, since the process groups are those of this process. A
    dense network is whole on every rank.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._models: dict[torch.device, Network] = {}

    @classmethod
    def of_run(cls, config: ReferenceConfig) -> Self:
        """The newest intact checkpoint of a run, with the weights that the section names."""
        reference = cls(newest_checkpoint(config.run))
        if config.digest is not None and config.digest != reference.digest:
            raise Refusal(
                reference.folder / WEIGHTS,
                "digest",
                f"is {reference.digest} but the run began with {config.digest}",
                "bring that checkpoint back, or start another run",
            )
        return reference

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the averaged weights."""
        return Manifest.read(self.folder).weights_sha256()

    @cached_property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return load_run(self.folder)

    def model(self, device: torch.device) -> Network:
        """The network on a device; inside joined process groups."""
        if device not in self._models:
            ranks = 1 if self.config.moe is None or not dist.is_initialized() else dist.get_world_size()
            with torch.random.fork_rng([device] if device.type == "cuda" else []):  # asked first amid dropout's draws
                network = restore(self.config, restored_layout(self.config, self.folder, ranks), self.folder)
            self._models[device] = network.requires_grad_(False).to(device)
        return self._models[device]

    def describe(self) -> str:
        """One line for a person: where the network is from, and how much memory it takes on a rank."""
        config = self.config
        experts = config.model.num_layers * config.moe.num_experts // config.parallel.expert if config.moe else 0
        elements = sum(dense_parameters(config)) + frozen_parameters(config) + experts * expert_parameters(config)
        return f"reference {self.folder}: {config.model.kind}, {4 * elements / 1e6:,.1f} MB on each rank"


def references_of(config: RunConfig) -> dict[str, ReferenceConfig]:
    """The references of a run's task and of its flow's objective, by the dotted name of their field."""
    sections = {"task.": _settings(config.task)}
    if config.flow is not None:
        sections[OBJECTIVE] = _settings(config.flow.objective)
    return {
        place + name: value
        for place, settings in sections.items()
        for name, value in settings
        if isinstance(value, ReferenceConfig)
    }


def held_by(config: RunConfig) -> dict[str, ReferenceConfig]:
    """Returns the references whose networks a run calls in training: not a base that gives only first weights."""
    asks = isinstance(config.task, OwnClass) or any(call.reference for call in config.task.calls)
    return {field: value for field, value in references_of(config).items() if field != BASE or asks}


def pinned(config: RunConfig) -> RunConfig:
    """Returns the configuration with the digests of its references, so that a run resumes with the same ones only."""
    config = with_digest(config)
    references = {
        field: value.model_copy(update={"digest": FrozenRun.of_run(value).digest})
        for field, value in references_of(config).items()
        if field in held_by(config) or value.digest is None or value.run.exists()
    }
    changed = {"task": _updated(config.task, _in(references, "task."))}
    if isinstance(config.task, TrajectoryBalanceTaskConfig) and config.task.log_reward is not None:
        measured = config.task.log_reward.pinned()
        return config.model_copy(update={"task": config.task.model_copy(update={"log_reward": measured})})
    if config.flow is not None:
        objective = _updated(config.flow.objective, _in(references, OBJECTIVE))
        changed["flow"] = config.flow.model_copy(update={"objective": objective})
    return config.model_copy(update=changed) if references else config


def _in(references: Mapping[str, ReferenceConfig], place: str) -> dict[str, ReferenceConfig]:
    """Returns the references whose dotted field begins with `place`, by the rest of the name."""
    return {field.removeprefix(place): value for field, value in references.items() if field.startswith(place)}


def _settings(section: BaseModel) -> BaseModel:
    """Returns the settings of a part: the section itself, or `settings` inside it for a user's class."""
    return section.settings if isinstance(section, OwnClass) else section


def _updated(section: BaseModel, changes: Mapping[str, ReferenceConfig]) -> BaseModel:
    settings = _settings(section).model_copy(update=changes)
    return section.model_copy(update={"settings": settings}) if isinstance(section, OwnClass) else settings
