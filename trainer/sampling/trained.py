"""A trained flow, ready to draw."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trainer.data
from trainer.checkpoint.intact import newest_checkpoint
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.run import ImageSample, PointSample, RunConfig, TextSample
from trainer.distributed.groups import Launch, joined
from trainer.model.network import Network
from trainer.model.pretrained import check_restorable, restore
from trainer.task import FlowTask
from trainer.task.latent_space import check_latents


def restored_flow(run_dir: Path) -> tuple[Path, RunConfig]:
    """The newest checkpoint of a run that draws images or points, and its configuration.

    Args:
        run_dir: folder of the run.

    Raises:
        FileError: there is no checkpoint, or its configuration is malformed.
        ValueError: the run draws something else.
    """
    folder = newest_checkpoint(run_dir)
    config = load_config(folder / "config.yaml")
    if not isinstance(config.sample, ImageSample | PointSample):
        verb = "generate" if isinstance(config.sample, TextSample) else "encode"
        raise ValueError(
            f"run_dir: {run_dir} holds a model of kind {config.model.kind}, which draws no images; use the {verb} verb"
        )
    return folder, config


@dataclass(frozen=True)
class OpenRun:
    """A trained flow, ready to draw on this process.

    Attributes:
        checkpoint: name of the checkpoint.
        config: the run, with the data that it is measured against.
        task: knows what the network predicts.
        model: the network with its averaged weights, in evaluation mode.
    """

    checkpoint: str
    config: RunConfig
    task: FlowTask
    model: Network


@contextmanager
def opened(run_dir: Path, data: trainer.data.AnyConfig | None = None) -> Iterator[OpenRun]:
    """Restores the averaged weights of a run's newest whole checkpoint on this process alone.

    Args:
        run_dir: folder of the run.
        data: the real ones; None: the run's own.

    Yields:
        The flow; inside, process groups are joined.

    Raises:
        ValueError: the run has no complete checkpoint or follows no flow, or its examples have another shape or other
            classes than the data.
    """
    folder, config = restored_flow(run_dir)
    check_restorable(config, folder)
    if data is not None:
        for name in ("shape", "num_classes"):
            found, wanted = getattr(config.data, name), getattr(data, name)
            if found != wanted:
                raise ValueError(f"data.{name}: {run_dir} draws {found}, and the data have {wanted}; give its own data")
    check_latents(config)
    with joined(Launch.from_environment()):
        task, model = FlowTask(config), restore(config, Layout.single(config), folder)
        compared = config
        if data is not None and config.flow is not None:
            flow = config.flow.model_copy(update={"source": config.starts_at})
            compared = config.model_copy(update={"data": data, "flow": flow})
        yield OpenRun(folder.name, compared, task, model)
