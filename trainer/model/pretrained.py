"""The network of a finished run, or of one that is still going on, from its newest whole checkpoint."""

from pathlib import Path

from trainer.config.engine import ParallelConfig
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.model.build import build_model, parameter_shapes
from trainer.model.network import Network
from trainer.model.weights import WEIGHTS, check_weights, initialise_from


def restored_config(folder: Path, world_size: int) -> RunConfig:
    """The configuration under which a checkpoint's network is used, and no longer trained.

    Args:
        folder: a complete checkpoint.
        world_size: ranks that use it. One rank holds all experts in order; several share them as the run did.

    Raises:
        FileError: the configuration is missing or malformed.
    """
    config = load_config(folder / "config.yaml")
    placement = folder / "placement.json" if world_size > 1 else None
    micro = config.optim.micro_batch or config.optim.global_batch
    batch = {"global_batch": world_size * micro, "micro_batch": micro}
    return config.model_copy(
        update={
            "moe": config.moe and config.moe.model_copy(update={"placement": placement}),
            "optim": config.optim.model_copy(update=batch),
            "parallel": config.parallel if world_size > 1 else ParallelConfig(),
        }
    )


def check_restorable(config: RunConfig, folder: Path) -> None:
    """Refuses a checkpoint that :func:`restore` could not use.

    Args:
        config: from :func:`restored_config`.
        folder: the checkpoint.

    Raises:
        FileError: its averaged weights are missing, malformed or those of another network.
    """
    check_weights(folder / WEIGHTS, parameter_shapes(config))


def restore(config: RunConfig, layout: Layout, folder: Path) -> Network:
    """Builds this rank's network with the averaged weights and the routers of a checkpoint, in evaluation mode.

    Args:
        config: from :func:`restored_config`.
        layout: how the ranks share the experts.
        folder: the checkpoint.
    """
    model = build_model(config, layout).eval()
    initialise_from(model, folder / WEIGHTS)
    return model
