"""The network of a finished run, or of one that is still going on, from its newest whole checkpoint."""

from pathlib import Path

from moe.files import FileError
from trainer.checkpoint.directory import complete_steps
from trainer.checkpoint.weights import ROUTERS, check_weights, initialise_from
from trainer.checkpoint.whole import whole_alone
from trainer.config import ImageSample, PointSample, RunConfig, TextSample
from trainer.config_file import load_config
from trainer.engine.config import ParallelConfig
from trainer.engine.protocol import Network
from trainer.layout import Layout
from trainer.network import build_model, parameter_shapes

WEIGHTS = "ema.safetensors"


def newest_checkpoint(run_dir: Path) -> Path:
    """The folder of the newest checkpoint whose averaged weights, and what belongs to them, are as they were written.

    Args:
        run_dir: folder of the run.

    Raises:
        FileError: there is none.
    """
    inside = sorted(str(root.parent) for root in run_dir.glob("*/checkpoints") if complete_steps(root))
    if inside and not complete_steps(run_dir / "checkpoints"):
        remedy = f"give a run inside that has one: {', '.join(inside)}"
        raise FileError(run_dir / "checkpoints", "checkpoint", "there is no complete one", remedy)
    return whole_alone(run_dir / "checkpoints", (WEIGHTS, ROUTERS, "config.yaml", "placement.json"))


def weights_file(path: Path) -> Path:
    """The averaged weights that `model.init_from` names.

    Args:
        path: an ``ema.safetensors``, or the folder of a run, which stands for its newest whole checkpoint.

    Raises:
        FileError: the run has no whole checkpoint.
    """
    return newest_checkpoint(path) / WEIGHTS if (path / "checkpoints").is_dir() else path


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


def restored_flow(run_dir: Path) -> tuple[Path, RunConfig]:
    """The newest checkpoint of a run that draws images or points, and its configuration for one rank.

    Args:
        run_dir: folder of the run.

    Raises:
        FileError: there is no checkpoint, or its configuration is malformed.
        ValueError: the run draws something else.
    """
    folder = newest_checkpoint(run_dir)
    config = restored_config(folder, world_size=1)
    if not isinstance(config.sample, ImageSample | PointSample):
        verb = "generate" if isinstance(config.sample, TextSample) else "encode"
        raise ValueError(
            f"run_dir: {run_dir} holds a model of kind {config.model.kind}, which draws no images; use the {verb} verb"
        )
    return folder, config


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
