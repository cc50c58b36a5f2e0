"""One rank of a run, put together: network, engine, data, checkpoints and records."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from moe.router.protocol import Router
from trainer.checkpoint.base import write_base
from trainer.checkpoint.directory import step_folder, step_of
from trainer.checkpoint.intact import weights_file
from trainer.checkpoint.modules import modules_weights
from trainer.checkpoint.resuming import load_checkpoint
from trainer.checkpoint.saving import Checkpointer
from trainer.config.layout import Layout
from trainer.config.rules.objection import refuse
from trainer.config.rules.tasks import of_cycle
from trainer.config.run import RunConfig
from trainer.data import SPLITS, Dataset, Loader
from trainer.data.bad_examples import BadExampleList
from trainer.data.run_tokenizer import tokenizer_file
from trainer.distributed.engine.build import build_engine
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.engine.protocol import Engine
from trainer.distributed.groups import Launch, data_ranks
from trainer.distributed.process.stop import StopRequest
from trainer.model.build import bare_network
from trainer.model.parallel.state import HoldsExperts
from trainer.model.values import DrawnValues, SavedModules, SavedValues, fill, kept_weights, load_routers
from trainer.model.weight_files import open_weights
from trainer.observe.expert_load import ExpertLoad
from trainer.observe.profile import ProfileWindow
from trainer.observe.protocol import Sink
from trainer.observe.speed import OwnWork
from trainer.trace.session import TraceSession
from trainer.training.guard import Guard
from trainer.training.networks import TrainingNetworks
from trainer.training.schedule import logs
from trainer.training.shares import Shares, reading_ahead
from trainer.training.task import Task

if TYPE_CHECKING:
    from trainer.training.migration.live import LiveMigration


def write_initial_weights(engine: Engine, config: RunConfig) -> None:
    """Writes this rank's weights one parameter after the other; nothing is sent.

    They are drawn, or what the rank keeps of those in `model.init_from` is read. Routed adapters may begin with the
    modules of another run.
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
        return
    path = weights_file(config.model.init_from)
    with open_weights(path) as weights:
        fill(kept, SavedValues(weights, otherwise=drawn, new=config.model.new_parameters))
    load_routers(engine.module, path.parent)


class Training:
    """One rank of a run, at the step that it starts or resumes after.

    Attributes:
        num_losses: losses that this rank computes in a step: micro batches times passes of the task.
        sources: names of the sources of a mixture.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        launch: Launch,
        task: Task[Any],
        dataset: Dataset,
        sinks: Sequence[Sink],
        resumes: Path | None,
        stop: StopRequest | None = None,
    ) -> None:
        """Builds everything, and loads the checkpoint `resumes`, if any; collective."""
        self.config, self.layout, self.launch, self.dataset, self.sinks = config, layout, launch, dataset, sinks
        self.task, self.stop, self.started = task, stop or StopRequest(), step_of(resumes)
        self.num_losses = layout.accumulation * task.passes
        self.sources = () if dataset.mix is None else tuple(dataset.mix.sources)
        refuse(of_cycle(config, task.cycle))
        module = bare_network(config, layout)
        write_base(module, config, launch.device, trains=True)
        layers = [layer for layer in module.modules() if isinstance(layer, HoldsExperts)]
        self.routers = [cast(Router, layer.router) for layer in layers]
        self.engine = build_engine(module, config, replace(layout, accumulation=self.num_losses), launch.device)
        if resumes is None:
            write_initial_weights(self.engine, config)
        self.average = MovingAverage(self.engine, config.optim.ema_decay)
        self.networks = TrainingNetworks(self.engine, self.average)
        self.loader = Loader(
            dataset,
            global_batch=config.optim.global_batch,
            micro_batch=layout.micro_batch,
            rank=layout.data_rank(launch.rank),
            world_size=layout.data_parallel,
            seed=config.run.seed,
            max_bad_share=config.data_loading.max_bad_share,
        )
        self.prefetcher = reading_ahead(
            task, self.loader, config.data_loading, seed=config.run.seed, device=launch.device
        )
        self.data_ranks = data_ranks()
        ranks_per_node = config.trace.ranks_per_node or launch.local_world_size
        self.expert_load = ExpertLoad(module, ranks_per_node, config.moe.dispatch if config.moe else "home")
        self.guard = Guard(config.guard, config.run.dir / "guard")
        self.own_work = OwnWork(launch.device)
        self.migration = self._live_migration()
        self.bad_examples = BadExampleList(
            config.run.dir / "bad_samples.txt",
            started=self.started,
            num_examples=sum(every.count(split) for every in (dataset, dataset.source) if every for split in SPLITS),
            max_bad_share=config.data_loading.max_bad_share,
        )
        shared = {"guard": self.guard, "task": task}
        tokenizer = tokenizer_file(config.data) if launch.rank == 0 else None
        saved = config, layout, self.engine, self.average, self.migration, shared
        self.checkpointer = Checkpointer(config.run.dir / "checkpoints", *saved, tokenizer)
        if resumes is not None:
            load_checkpoint(resumes, *saved)
        self.trace = TraceSession(config, layout, launch, self.engine, self.started)
        self.shares = Shares(
            task=task,
            networks=self.networks,
            loader=self.loader,
            prefetcher=self.prefetcher,
            bad_examples=self.bad_examples,
            trace=self.trace,
            own_work=self.own_work,
            ranks=self.data_ranks,
            seed=config.run.seed,
            device=launch.device,
        )
        self.profile = ProfileWindow(config.observe.profile, config.run.dir / "profile", launch.rank, self.started)

    def logs(self, step: int) -> bool:
        """Whether the figures of a step go to the sinks."""
        config = self.config
        return logs(step, steps=config.optim.steps, intervals=(config.observe.log_every, config.evaluate.every))

    def show(self, step: int) -> None:
        """Lets the task show in samples/ what it has learned; collective."""
        name = step_folder(Path(), step).name
        self.task.show(self.networks, self.config.run.dir / "samples" / name, seed=self.config.run.seed)

    def _live_migration(self) -> "LiveMigration | None":
        if self.config.moe is None or self.config.moe.migration is None:
            return None
        from trainer.training.migration.live import LiveMigration  # imports Megatron, which takes seconds

        return LiveMigration(self.config, self.layout, self.engine, self.average)
