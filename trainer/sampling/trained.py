"""The averaged weights of a trained run, on one process or on ranks that share its network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError

import trainer.data
from trainer.checkpoint.intact import ATTEMPTS, is_pruned, newest_checkpoint, with_newest
from trainer.checkpoint.pretrained import FrozenRun, check_restorable, check_sharing, restore, restored_layout
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.rules.drawing import of_drawn_together
from trainer.config.rules.objection import refuse
from trainer.config.rules.pairing import of_context
from trainer.config.run import RunConfig
from trainer.config.sample import ExampleSample, FlowSample, ObjectSample, SurfaceSample, TextSample
from trainer.data import PairsConfig
from trainer.distributed.groups import Launch, joined
from trainer.flow import Condition, sampler
from trainer.flow.sampler import Field
from trainer.model.network import Network
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts, check_latents


class Reference(FrozenRun):
    """Averaged weights of another run, ready to draw."""

    @cached_property
    def parts(self) -> FlowParts:
        """The parts of the run's flow besides its network."""
        return FlowParts(self.config)

    def flow(self, device: torch.device) -> TrainedFlow:
        """The flow with its network on a device."""
        return TrainedFlow(self.config, self.parts, self.model(device), self.folder.name)

    def field(self, condition: Condition, guidance: float, device: torch.device) -> Field:
        """The field that a sampler follows to draw examples of a condition."""
        return self.parts.field(self.model(device), condition, guidance)


@dataclass(frozen=True)
class Restored:
    """A network from a checkpoint."""

    folder: Path
    config: RunConfig
    layout: Layout
    model: Network


def restored_together(
    run_dir: Path, launch: Launch, placed: Callable[[Layout], Layout] = lambda layout: layout
) -> Restored:
    """Restores the newest intact checkpoint, the same on every rank; collective, inside joined process groups.

    The first rank chooses. If the run has deleted the checkpoint before all ranks have read it, it chooses again.
    """
    for _ in range(ATTEMPTS):
        chosen: list[Path | str] = [""]
        if launch.rank == 0:
            try:
                chosen = [newest_checkpoint(run_dir)]
            except ValueError as error:
                chosen = [str(error)]
        dist.broadcast_object_list(chosen)
        (folder,) = chosen
        if isinstance(folder, str):
            raise ValueError(folder)
        restored, problem, pruned = None, "", False
        try:
            config = load_run(folder)
            layout = placed(restored_layout(config, folder, launch.world_size))
            restored = Restored(folder, config, layout, restore(config, layout, folder))
        except (OSError, ValueError, SafetensorError) as error:
            problem, pruned = str(error), is_pruned(folder)
        problems: list[tuple[str, bool]] = [("", False)] * launch.world_size
        dist.all_gather_object(problems, (problem, pruned))
        if not any(problem for problem, _ in problems):
            assert restored is not None
            return restored
        if not any(gone for _, gone in problems):
            raise ValueError(next(problem for problem, _ in problems if problem))
    raise ValueError(f"run_dir: {run_dir} deletes its checkpoints faster than they are read; raise its checkpoint.keep")


def restored_flow(run_dir: Path) -> tuple[Path, RunConfig]:
    """The newest checkpoint of a run that draws images or points, and its configuration."""
    return with_newest(run_dir, lambda folder: (folder, _config_of(run_dir, folder)))


def _config_of(run_dir: Path, folder: Path) -> RunConfig:
    """The configuration of a checkpoint of a run that draws images or points."""
    config = load_run(folder)
    if not isinstance(config.sample, FlowSample):
        measured = dict.fromkeys((SurfaceSample, ExampleSample), "evaluate")
        verbs = {TextSample: "generate", ObjectSample: "sample", **measured}
        verb = verbs.get(type(config.sample), "encode")
        raise ValueError(
            f"run_dir: {run_dir} holds a model of kind {config.model.kind}, which draws no images; use the {verb} verb"
        )
    return config


def compared_with(config: RunConfig, data: trainer.data.AnyConfig | None) -> RunConfig:
    """The run with `data` to compare its samples with; refuses data of another shape or with other classes."""
    if data is None or config.flow is None:
        return config
    of_latents = isinstance(config.data, PairsConfig) and config.data.latents is not None
    for name in ("num_classes",) if of_latents else ("shape", "num_classes"):
        drawn, real = getattr(config.data, name), getattr(data, name)
        if drawn != real:
            raise ValueError(
                f"data.{name}: {config.run.dir} draws {drawn}, and the data have {real}; give its own data"
            )
    flow = config.flow.model_copy(update={"source": config.source_data})
    compared = config.model_copy(update={"data": data, "flow": flow})
    if of_latents:
        refuse(of_context(compared))
    return compared


@dataclass(frozen=True)
class SharedFlow:
    """A trained flow that the ranks of a launch draw from together."""

    flow: TrainedFlow
    layout: Layout
    launch: Launch


@contextmanager
def shared(run_dir: Path, chosen: sampler.AnyConfig) -> Iterator[SharedFlow]:
    """Restores the averaged weights of a run's newest intact checkpoint on the ranks of this launch.

    One process holds the whole network. Several share it as the ranks of the run did, experts under its placement.
    """
    launch = Launch.from_environment()

    def checked(folder: Path) -> tuple[RunConfig, Layout]:
        config = _config_of(run_dir, folder)
        check_sharing(config, launch.world_size)
        check_restorable(config, folder)
        return config, restored_layout(config, folder, launch.world_size)

    config, layout = with_newest(run_dir, checked)
    if launch.world_size > 1:
        refuse(of_drawn_together(config, chosen))
    check_latents(config)
    with joined(
        launch,
        expert_parallel=layout.expert_parallel,
        tensor_parallel=layout.tensor_parallel,
        relay_ranks=layout.relay_ranks,
    ):
        restored = restored_together(run_dir, launch)
        model = restored.model.to(launch.device)
        flow = TrainedFlow(restored.config, FlowParts(restored.config), model, restored.folder.name)
        yield SharedFlow(flow, restored.layout, launch)


@dataclass(frozen=True)
class TrainedNetwork:
    """The averaged weights of a run of any task, in evaluation mode on the device of this process."""

    config: RunConfig
    model: Network
    checkpoint: str


@contextmanager
def opened_network(
    run_dir: Path, read: Callable[[Path], RunConfig] = load_run, check: Callable[[RunConfig], None] = lambda _: None
) -> Iterator[TrainedNetwork]:
    """Restores the averaged weights of a run's newest intact checkpoint, whole on each process.

    `read` gives the configuration of a checkpoint, and `check` refuses it before any process group is joined.
    """

    def checked(folder: Path) -> RunConfig:
        config = read(folder)
        check_restorable(config, folder)
        return config

    config, launch = with_newest(run_dir, checked), Launch.from_environment()
    check(config)
    with joined(launch):
        folder, model = with_newest(run_dir, lambda folder: (folder, restore(config, Layout.single(config), folder)))
        yield TrainedNetwork(config, model.to(launch.device), folder.name)


@contextmanager
def opened(run_dir: Path, data: trainer.data.AnyConfig | None = None) -> Iterator[TrainedFlow]:
    """Restores the flow of a run on this process alone, its samples compared with other data if given."""

    def check(config: RunConfig) -> None:
        compared_with(config, data)
        check_latents(config)

    with opened_network(run_dir, partial(_config_of, run_dir), check) as network:
        compared = compared_with(network.config, data)
        yield TrainedFlow(compared, FlowParts(compared), network.model, network.checkpoint)
