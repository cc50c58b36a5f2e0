"""The training loop, the only one."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from moe.router.protocol import Router
from trainer.checkpoint.base import write_base
from trainer.checkpoint.contents import identity_of
from trainer.checkpoint.directory import step_folder, step_of
from trainer.checkpoint.intact import newest_intact_collective
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.placement import resumed_layout
from trainer.checkpoint.resuming import load_checkpoint
from trainer.checkpoint.saving import Checkpointer
from trainer.config.layout import Layout
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import describe
from trainer.config.rules.tasks import of_cycle
from trainer.config.run import RunConfig
from trainer.data import SPLITS, Dataset, Loader, TooManyBadExamples
from trainer.data.bad_examples import BadExampleList
from trainer.data.run_tokenizer import tokenizer_file
from trainer.distributed.engine.build import build_engine
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.groups import Launch, data_ranks, joined, limit_collectives
from trainer.distributed.process.debug import dump_failure
from trainer.distributed.process.stop import EX_TEMPFAIL, StopRequest
from trainer.distributed.process.verdict import conclude
from trainer.distributed.process.vigil import vigil_over_run
from trainer.distributed.process.watchdog import watchdog
from trainer.flow.coupling.gather import gathered
from trainer.model.build import bare_network
from trainer.model.parallel.parameters import HoldsExperts
from trainer.observe.expert_load import ExpertLoad
from trainer.observe.memory import peak_memory
from trainer.observe.profile import ProfileWindow
from trainer.observe.protocol import Sink
from trainer.observe.speed import Speed
from trainer.observe.stragglers import OwnWork, Stragglers
from trainer.trace.context import phase
from trainer.trace.session import TraceSession
from trainer.training import tilt
from trainer.training.by_source import means, totals
from trainer.training.data_record import verify
from trainer.training.failure import RunFailed
from trainer.training.generators import deterministic_operations, seed_dropout
from trainer.training.guard import Guard
from trainer.training.logged import due, logs
from trainer.training.networks import TrainingNetworks
from trainer.training.reduction import Exchange, mean_terms
from trainer.training.schedule import learning_rate
from trainer.training.shares import Shares, reading_ahead
from trainer.training.start import write_initial_weights
from trainer.training.task import OfSources, Task, Weighted
from trainer.training.validation import HeldOut
from trainer.training.weighting import effective_share

if TYPE_CHECKING:
    from trainer.training.migration.live import LiveMigration


def train(
    config: RunConfig,
    layout: Layout,
    launch: Launch,
    task: Callable[[], Task[Any]],
    dataset: Dataset,
    sinks: Callable[[int], list[Sink]],
    stop: StopRequest,
) -> int:
    """Trains until the last step of the run, from its newest whole checkpoint if there is one.

    Args:
        config: the run.
        layout: how it is laid out over the ranks.
        launch: what the launcher said.
        task: builds what the run learns, once the process groups exist.
        dataset: what the run learns from.
        sinks: opens what rank 0 sends figures to, from the step that the run goes on from; empty elsewhere.
        stop: listens from the first step on.

    Returns:
        0, or 75 if the run was told to stop: it has saved and wants to be started again.

    Raises:
        Refusal: the run cannot go on from the checkpoint that is whole.
        RunFailed: too many steps in a row had to be skipped, or too many examples are bad.
        Unreachable: the server of the examples does not answer.
    """
    folder, limits = config.run.dir, config.guard
    with watchdog(folder, launch.rank, limits.hang_timeout_s) as watch:
        try:
            with (
                joined(
                    launch,
                    expert_parallel=layout.expert_parallel,
                    tensor_parallel=layout.tensor_parallel,
                    relay_ranks=layout.relay_ranks,
                    timeout_s=limits.collective_timeout_s,
                ),
                vigil_over_run(folder, launch.rank, limits.collective_timeout_s),
            ):
                if config.run.verify_data and dataset.files:
                    verify(folder, dataset.files, watch.beat)
                resumes = newest_intact_collective(folder / "checkpoints", allow_rng_loss=config.run.allow_rng_loss)
                if resumes is not None:
                    Manifest.read(resumes).check_identity(resumes, identity_of(config))
                    layout = resumed_layout(config, layout, resumes)
                    if step_of(resumes) >= config.optim.steps:
                        if launch.rank == 0:
                            print(f"{folder}: finished at step {step_of(resumes)}; nothing to do", file=sys.stderr)
                        return 0
                training = _Training(config, layout, launch, task(), dataset, sinks(step_of(resumes)), resumes)
                limit_collectives(limits.collective_timeout_s)
                training.stop = stop
                stop.listen()  # a stop before that has nothing to save
                with deterministic_operations(config.run.deterministic):
                    stopped = training.run(watch.beat)
        except Exception as error:
            dump_failure(folder, launch.rank, launch.world_size, error)
            if isinstance(error, TooManyBadExamples):
                raise RunFailed(str(error)) from error
            raise
    training.trace.finish(stopped=stopped or training.guard.failure is not None)
    if training.guard.failure is not None:
        raise RunFailed(training.guard.failure)
    return EX_TEMPFAIL if stopped else 0


@dataclass(frozen=True)
class _StepFigures:
    """What a step leaves: mean loss of its batch, what that is made of in each micro batch, pair weights and what they
    weigh, sums of losses by source in each micro batch, norm of the gradient, whether the run is to stop."""

    loss: float
    terms: Sequence[Mapping[str, Tensor]]
    weights: Sequence[Tensor | None]
    weighted: Sequence[Mapping[str, Tensor]]
    by_source: Sequence[Tensor]
    norm: float
    stop: bool


class _Training:
    """One run on one rank."""

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        launch: Launch,
        task: Task[Any],
        dataset: Dataset,
        sinks: list[Sink],
        resumes: Path | None,
    ) -> None:
        self.config, self.layout, self.launch, self.dataset, self.sinks = config, layout, launch, dataset, sinks
        self.task = task
        self.sources = () if dataset.mix is None else tuple(dataset.mix.sources)
        refuse(of_cycle(config, task.cycle))
        self.module = bare_network(config, layout)
        write_base(self.module, config, launch.device, trains=True)
        layers = [module for module in self.module.modules() if isinstance(module, HoldsExperts)]
        self.routers = [cast(Router, layer.router) for layer in layers]
        losses = replace(layout, accumulation=layout.accumulation * task.passes)
        self.engine = build_engine(self.module, config, losses, launch.device)
        if resumes is None:
            write_initial_weights(self.engine, config)
        self.average = MovingAverage(self.engine, config.optim.ema_decay)
        self.networks = TrainingNetworks(self.engine, self.average)
        self.loader = self._train_loader()
        self.prefetcher = reading_ahead(
            task, self.loader, config.data_loading, seed=config.run.seed, device=launch.device
        )
        self.data_ranks = data_ranks()
        ranks_per_node = config.trace.ranks_per_node or launch.local_world_size
        self.expert_load = ExpertLoad(self.module, ranks_per_node, config.moe.dispatch if config.moe else "home")
        self.stop = StopRequest()
        self.guard = Guard(config.guard, config.run.dir / "guard")
        self.cautioned: set[str] = set()
        self.own_work = OwnWork(launch.device)
        self.stragglers = Stragglers(config.guard.straggler_factor)
        self.migration = self._live_migration()
        self.started = step_of(resumes)
        self.bad_examples = BadExampleList(
            config.run.dir / "bad_samples.txt",
            started=self.started,
            num_examples=sum(every.count(split) for every in (dataset, dataset.source) if every for split in SPLITS),
            max_bad_share=config.data_loading.max_bad_share,
        )
        self.held_out = HeldOut(config, layout, launch.rank, dataset, self.bad_examples)
        shared = {"guard": self.guard, "task": task}
        checkpoints = config.run.dir / "checkpoints"
        self.checkpointer = Checkpointer(
            checkpoints,
            config,
            layout,
            self.engine,
            self.average,
            self.migration,
            shared,
            tokenizer_file(config.data) if launch.rank == 0 else None,
        )
        if resumes is not None:
            load_checkpoint(resumes, config, layout, self.engine, self.average, self.migration, shared)
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
        self.speed = Speed(config, launch.world_size)
        self.profile = ProfileWindow(config.observe.profile, config.run.dir / "profile", launch.rank, self.started)

    def run(self, beat: Callable[[], None] = lambda: None) -> bool:
        """Takes the remaining steps, or those until it is told to stop or has to give up.

        Args:
            beat: called after every step.

        Returns:
            Whether it was stopped before the last step.
        """
        config = self.config
        self._greet()
        seconds: list[float] = []
        for step in range(self.started + 1, config.optim.steps + 1):
            begun = time.perf_counter()
            with self.profile.step(step):
                figures = self._step(step)
            seconds.append(time.perf_counter() - begun)
            for sink in self.sinks:
                sink.stepped(step, seconds[-1])
            if self._logs(step):
                self._log(step, figures, fmean(seconds))
                seconds.clear()
            if self.guard.failure is not None:
                return False
            self.trace.after(step)
            if self.migration is not None:
                self.migration.after(step)
            if due(step, [config.sample.every]):
                self._sample(step)
            stops = figures.stop and step % self.task.cycle == 0
            if step == config.optim.steps or stops or due(step, [config.checkpoint.every]):
                self.checkpointer.save(step)
            if stops:
                self.checkpointer.wait()
                stopped = step < config.optim.steps
                if stopped:
                    nodes = self.launch.world_size // self.launch.local_world_size
                    conclude(EX_TEMPFAIL, self.stop.farewell(config.run.dir, f"saved at step {step}", nodes))
                return stopped
            beat()
        self.checkpointer.wait()
        return False

    def _logs(self, step: int) -> bool:
        """Whether the figures of a step go to the sinks."""
        config = self.config
        return logs(step, steps=config.optim.steps, intervals=(config.observe.log_every, config.evaluate.every))

    def _step(self, step: int) -> _StepFigures:
        """Takes one optimiser step, unless the guard objects."""
        losses: list[Tensor] = []
        terms: list[Mapping[str, Tensor]] = []
        by_source: list[Tensor] = []
        self.expert_load.start()
        share = self.shares.take(step)
        for local in range(self.layout.accumulation * self.task.passes):
            micro = self.loader.global_micro(0) * self.task.passes + local
            drawn = share.drawn[local]
            with self.trace.step(step, local, micro):
                with self.own_work.measured(), phase("forward"):
                    seed_dropout(self.config.run.seed, "train", step, micro)
                    computed = self.task.loss(self.engine.model, drawn)
                    loss = computed.mean(share.weights[local])
                with phase("backward"):
                    self.engine.backward(loss)
            losses.append(loss.detach())
            terms.append(computed.terms)
            sources = drawn.sources if isinstance(drawn, OfSources) else None
            if sources is not None and self.sources and self._logs(step):
                by_source.append(totals(computed.per_example, sources, len(self.sources), share.weights[local]))
        exchange = Exchange(losses, own_s=self.own_work.take(), stop=self.stop.made)
        with self.trace.update(step, self.layout.accumulation * self.task.passes - 1), phase("optimizer"):
            outcome = self.engine.step(
                learning_rate(self.config.optim, step),
                lambda norm: self.guard.objection(exchange.result().losses, norm),
            )
        agreed = exchange.result()
        if outcome.reason is None:
            self.guard.taken(agreed.losses, outcome.norm)
            self.average.update(step)
            for router in self.routers:
                router.update_bias()
        else:
            self._skip(step, outcome.reason, outcome.norm, losses, share.examples)
        self.stragglers.take(agreed.own_s)
        weighted = [one.weighted for one in share.drawn if isinstance(one, Weighted)]
        loss = fmean(agreed.losses)
        return _StepFigures(loss, terms, share.weights, weighted, by_source, outcome.norm, agreed.stop)

    def _skip(self, step: int, reason: str, norm: float, losses: list[Tensor], examples: list[Tensor]) -> None:
        """Forgets a step that was not taken, and writes down what it was made of; collective."""
        for router in self.routers:
            router.forget()
        every_loss, every_example = gathered(torch.stack(losses)), gathered(torch.stack(examples).to(losses[0].device))
        if self.launch.rank == 0:
            path = self.guard.note(step, reason, norm, every_loss.tolist(), every_example.tolist())
            print(f"step {step} is skipped: {reason}; see {path}", file=sys.stderr, flush=True)
        self.guard.skip(step)

    def _log(self, step: int, figures: _StepFigures, step_s: float) -> None:
        """Sends the figures of a step to the sinks, with the mean time of the steps since the last one; collective."""
        share = effective_share(figures.weights)
        tilts = tilt.tilts(figures.weighted, figures.weights, self.data_ranks)
        terms, by_source = mean_terms(figures.terms, figures.by_source)
        values = {
            "loss": figures.loss,
            **terms,
            **(means(by_source, self.sources, "loss") if by_source else {}),
            "grad_norm": figures.norm,
            "lr": learning_rate(self.config.optim, step),
            "skipped_steps": self.guard.skipped,
            **share,
            **tilt.figures(tilts),
            **self.speed.figures(step_s),
            "time.data_wait_s": self.prefetcher.waited_s(),
            **peak_memory(self.launch.device),
            **self.stragglers.figures(step),
            **self.expert_load.reduced(),
            **(self.migration.figures() if self.migration is not None else {}),
        }
        if due(step, [self.config.evaluate.every]):
            values |= self.held_out.figures(step, self.task, self.networks, self.launch.device)
        self._caution(step, {**self.task.cautions(values), **tilt.cautions(tilts)})
        values["bad_samples"] = self.bad_examples.count()
        for sink in self.sinks:
            sink.write(step, values)
            if self.expert_load.layers:
                sink.write_experts(self.expert_load.use())

    def _caution(self, step: int, lines: Mapping[str, str]) -> None:
        """Prints remarks about figures, each once a run."""
        for name, line in lines.items():
            if name not in self.cautioned and self.launch.rank == 0:
                print(f"step {step}: {line}", file=sys.stderr, flush=True)
            self.cautioned.add(name)

    def _sample(self, step: int) -> None:
        """Lets the task show in samples/ what it has learned; collective."""
        name = step_folder(Path(), step).name
        self.task.show(self.networks, self.config.run.dir / "samples" / name, seed=self.config.run.seed)

    def _live_migration(self) -> "LiveMigration | None":
        if self.config.moe is None or self.config.moe.migration is None:
            return None
        from trainer.training.migration.live import LiveMigration  # brings Megatron, which takes seconds to import

        return LiveMigration(self.config, self.layout, self.engine, self.average)

    def _train_loader(self) -> Loader:
        return Loader(
            self.dataset,
            global_batch=self.config.optim.global_batch,
            micro_batch=self.layout.micro_batch,
            rank=self.layout.data_rank(self.launch.rank),
            world_size=self.layout.data_parallel,
            seed=self.config.run.seed,
            max_bad_share=self.config.data_loading.max_bad_share,
        )

    def _greet(self) -> None:
        if self.launch.rank == 0:
            origin = f"resumes after step {self.started}" if self.started else "starts"
            print(f"{self.config.run.dir}: {origin}; {describe(self.config, self.layout)}", file=sys.stderr, flush=True)
