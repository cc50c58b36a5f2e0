"""The network of a finished run, or of one that is still going on, from its newest intact checkpoint."""

from pathlib import Path

import torch

from moe.placement.placement import Placement
from trainer.checkpoint.base import check_base, write_base
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.model.build import bare_network, parameter_shapes
from trainer.model.network import Network
from trainer.model.values import check_weights, give_memory, initialise_from
from trainer.model.weight_files import WEIGHTS


def restored_layout(config: RunConfig, folder: Path, world_size: int) -> Layout:
    """How ranks share a trained network that they use: one holds all of it, several share it as the run's ranks did.

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
