"""One rank of a run, put together: network, engine, data, checkpoints and records."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from moe.router.protocol import Router
from trainer.checkpoint.base import modules_weights, write_base
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.intact import weights_file
from trainer.checkpoint.resuming import load_checkpoint
from trainer.checkpoint.saving import Checkpointer
from trainer.config.layout import Layout
from trainer.config.rules.objection import refuse
from trainer.config.rules.tasks import of_cycle
from trainer.config.run import RunConfig
from trainer.data import SPLITS, Dataset, Loader
from trainer.data.loader import BadExampleList
from trainer.data.text_windows import tokenizer_file
from trainer.distributed.engine import build_engine
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.distributed.groups import Launch, data_ranks
from trainer.distributed.process.signals import StopRequest
from trainer.model.build import bare_network
from trainer.model.flops import training_flops
from trainer.model.parallel.state import HoldsExperts
from trainer.model.values import (
    DrawnValues,
    GivenValues,
    SavedModules,
    SavedValues,
    fill,
    kept_weights,
    load_routers,
)
from trainer.model.weight_files import open_weights
from trainer.observe.expert_load import ExpertLoad
from trainer.observe.protocol import Sink
from trainer.observe.speed import OwnWork, ProfileWindow, Speed
from trainer.trace.session import TraceSession
from trainer.training.guard import Guard
from trainer.training.rank import Training
from trainer.training.shares import Shares, reading_ahead
from trainer.training.task import Task, TrainingNetworks

if TYPE_CHECKING:
    from trainer.training.migration.live import LiveMigration


def write_initial_weights(engine: Engine, config: RunConfig, begun: Mapping[str, Tensor] | None = None) -> None:
    """Writes this rank's initial weights, one parameter after the other; nothing is sent.

    Weights are drawn, or the rank's part of `model.init_from` is read. Routed adapters may begin with the modules of
    another run. Parameters in `begun` replace drawn ones.
    """
    kept = kept_weights(engine.shards(), engine.state(("weight",)))
    drawn = DrawnValues(engine.module, config.run.seed)
    modules = modules_weights(config)
    if modules is not None:
        with open_weights(modules) as weights:
            fill(kept, SavedModules(weights, routing=drawn))
        return
    if config.model.init_from is None:
        fill(kept, drawn)
        fill(kept, GivenValues(begun or {}))
        return
    path = weights_file(config.model.init_from)
    with open_weights(path) as weights:
        fill(kept, SavedValues(weights, otherwise=drawn, new=config.model.new_parameters))
    load_routers(engine.module, path.parent)


def assembled(
    config: RunConfig,
    layout: Layout,
    launch: Launch,
    task: Task[Any],
    dataset: Dataset,
    sinks: Sequence[Sink],
    resumes: Path | None,
    stop: StopRequest | None = None,
) -> Training:
    """Builds a rank of a run, and loads the checkpoint `resumes`, if any; collective."""
    device, started, num_losses = launch.device, step_of(resumes), layout.accumulation * task.passes
    refuse(of_cycle(config, task.cycle))
    module = bare_network(config, layout)
    write_base(module, config, device, trains=True)
    layers = [layer for layer in module.modules() if isinstance(layer, HoldsExperts)]
    engine = build_engine(module, config, replace(layout, accumulation=num_losses), device)
    if resumes is None:
        write_initial_weights(engine, config, task.first_weights(dataset))
    average = MovingAverage(engine, config.optim.ema_decay)
    networks = TrainingNetworks(engine, average)
    loader = Loader(
        dataset,
        global_batch=config.optim.global_batch,
        micro_batch=layout.micro_batch,
        rank=layout.data_rank(launch.rank),
        world_size=layout.data_parallel,
        seed=config.run.seed,
        max_bad_share=config.data_loading.max_bad_share,
    )
    prefetcher = reading_ahead(task, loader, config.data_loading, seed=config.run.seed, device=device)
    ranks_per_node = config.trace.ranks_per_node or launch.local_world_size
    expert_load = ExpertLoad(module, ranks_per_node, config.moe.dispatch if config.moe else "home")
    guard, own_work, ranks = Guard(config.guard, config.run.dir / "guard"), OwnWork(device), data_ranks()
    migration = _live_migration(config, layout, engine, average)
    bad_examples = BadExampleList(
        config.run.dir / "bad_samples.txt",
        started=started,
        num_examples=sum(every.count(split) for every in (dataset, dataset.source) if every for split in SPLITS),
        max_bad_share=config.data_loading.max_bad_share,
    )
    saved = config, layout, engine, average, migration, {"guard": guard, "task": task}
    tokenizer = tokenizer_file(config.data) if launch.rank == 0 else None
    checkpointer = Checkpointer(config.run.dir / "checkpoints", *saved, tokenizer)
    if resumes is not None:
        load_checkpoint(resumes, *saved)
    trace = TraceSession(config, layout, launch, engine, started)
    shares = Shares(
        task=task,
        networks=networks,
        loader=loader,
        prefetcher=prefetcher,
        bad_examples=bad_examples,
        trace=trace,
        own_work=own_work,
        ranks=ranks,
        seed=config.run.seed,
        device=device,
    )
    return Training(
        config=config,
        layout=layout,
        launch=launch,
        task=task,
        dataset=dataset,
        sinks=sinks,
        stop=stop or StopRequest(),
        started=started,
        num_losses=num_losses,
        sources=() if dataset.mix is None else tuple(dataset.mix.sources),
        engine=engine,
        routers=[cast(Router, layer.router) for layer in layers],
        average=average,
        networks=networks,
        loader=loader,
        prefetcher=prefetcher,
        data_ranks=ranks,
        shares=shares,
        bad_examples=bad_examples,
        guard=guard,
        own_work=own_work,
        expert_load=expert_load,
        speed=Speed(config, training_flops(config) if sinks else None, launch.world_size),
        trace=trace,
        profile=ProfileWindow(config.observe.profile, config.run.dir / "profile", launch.rank, started),
        checkpointer=checkpointer,
        migration=migration,
    )


def _live_migration(
    config: RunConfig, layout: Layout, engine: Engine, average: MovingAverage
) -> "LiveMigration | None":
    if config.moe is None or config.moe.migration is None:
        return None
    from trainer.training.migration.live import LiveMigration  # imports Megatron, which takes seconds

    return LiveMigration(config, layout, engine, average)
