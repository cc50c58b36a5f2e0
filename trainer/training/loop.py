"""The training loop, the only one: draw, forward, backward, agree, update; then log, show and save."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from trainer.flow.coupling.protocol import gathered
from trainer.observe.speed import Stragglers, peak_memory
from trainer.trace.context import phase
from trainer.training.generators import seed_dropout
from trainer.training.rank import Training
from trainer.training.reduction import Exchange, mean_terms, means, totals
from trainer.training.schedule import due, learning_rate
from trainer.training.task import OfSources, Weighted
from trainer.training.validation import HeldOut
from trainer.training.weighting import effective_share, tilt_cautions, tilt_figures, tilts_of


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """Results of a step.

    Attributes:
        loss: mean loss of the global batch.
        weighted: points to which the weights of pairs belong, by name, for each micro batch.
        by_source: sums of losses by source of each micro batch, of a step that is logged.
        own_s: seconds of each rank's local work.
    """

    loss: float
    terms: Sequence[Mapping[str, Tensor]]
    weights: Sequence[Tensor | None]
    weighted: Sequence[Mapping[str, Tensor]]
    by_source: Sequence[Tensor]
    norm: float
    own_s: Sequence[float]
    stop: bool


class StepLog:
    """The figures of a run, step by step."""

    def __init__(self, run: Training) -> None:
        config = run.config
        self._run = run
        self._stragglers = Stragglers(config.guard.straggler_factor)
        self._held_out = HeldOut(config, run.layout, run.launch.rank, run.dataset, run.bad_examples)
        self._cautioned: set[str] = set()
        self._seconds: list[float] = []

    def add(self, step: int, figures: StepFigures, step_s: float) -> None:
        """Adds a step to the log, and sends its figures to the sinks if it is logged; collective."""
        self._stragglers.take(figures.own_s)
        self._seconds.append(step_s)
        for sink in self._run.sinks:
            sink.stepped(step, step_s)
        if self._run.logs(step):
            self._write(step, figures, fmean(self._seconds))
            self._seconds.clear()

    def _write(self, step: int, figures: StepFigures, step_s: float) -> None:
        """Sends the figures of a step to the sinks, with the mean time of the steps since the last one; collective."""
        run = self._run
        share = effective_share(figures.weights)
        tilts = tilts_of(figures.weighted, figures.weights, run.data_ranks)
        terms, by_source = mean_terms(figures.terms, figures.by_source)
        values = {
            "loss": figures.loss,
            **terms,
            **(means(by_source, run.sources, "loss") if by_source else {}),
            "grad_norm": figures.norm,
            "lr": learning_rate(run.config.optim, step),
            "skipped_steps": run.guard.skipped,
            **share,
            **tilt_figures(tilts),
            **run.speed.figures(step_s),
            "time.data_wait_s": run.prefetcher.waited_s(),
            **peak_memory(run.launch.device),
            **self._stragglers.figures(step),
            **run.expert_load.reduced(),
            **(run.migration.figures() if run.migration is not None else {}),
        }
        if due(step, [run.config.evaluate.every]):
            values |= self._held_out.figures(step, run.task, run.networks, run.launch.device)
        self._caution(step, {**run.task.cautions(values), **tilt_cautions(tilts)})
        values["bad_samples"] = run.bad_examples.count()
        for sink in run.sinks:
            sink.write(step, values)
            if run.expert_load.layers:
                sink.write_experts(run.expert_load.use())

    def _caution(self, step: int, lines: Mapping[str, str]) -> None:
        """Prints remarks about figures, each once a run."""
        for name, line in lines.items():
            if name not in self._cautioned and self._run.launch.rank == 0:
                print(f"step {step}: {line}", file=sys.stderr, flush=True)
            self._cautioned.add(name)


def train(run: Training, beat: Callable[[], None] = lambda: None) -> int:
    """Takes steps to the last, or until a rank is stopped or the guard gives up; returns the last one; collective.

    The last step is saved unless the guard gave up. `beat` is called after every step.
    """
    config, log, step = run.config, StepLog(run), run.started
    for step in range(run.started + 1, config.optim.steps + 1):
        begun = time.perf_counter()
        with run.profile.step(step):
            figures = take_step(run, step)
        log.add(step, figures, time.perf_counter() - begun)
        if run.guard.failure is not None:
            return step
        run.trace.after(step)
        if run.migration is not None:
            run.migration.after(step)
        if due(step, [config.sample.every]):
            run.show(step)
        stops = figures.stop and step % run.task.cycle == 0
        if step == config.optim.steps or stops or due(step, [config.checkpoint.every]):
            run.checkpointer.save(step)
        if stops:
            break
        beat()
    run.checkpointer.wait()
    return step


def take_step(run: Training, step: int) -> StepFigures:
    """Takes one optimiser step, unless the guard objects; collective."""
    losses: list[Tensor] = []
    terms: list[Mapping[str, Tensor]] = []
    by_source: list[Tensor] = []
    run.expert_load.start()
    share = run.shares.take(step)
    for local in range(run.num_losses):
        micro = run.loader.global_micro(0) * run.task.passes + local
        drawn = share.drawn[local]
        with run.trace.step(step, local, micro):
            with run.own_work.measured(), phase("forward"):
                seed_dropout(run.config.run.seed, "train", step, micro)
                computed = run.task.loss(run.engine.model, drawn)
                loss = computed.mean(share.weights[local])
            with phase("backward"):
                run.engine.backward(loss)
        losses.append(loss.detach())
        terms.append(computed.terms)
        sources = drawn.sources if isinstance(drawn, OfSources) else None
        if sources is not None and run.sources and run.logs(step):
            by_source.append(totals(computed.per_example, sources, len(run.sources), share.weights[local]))
    exchange = Exchange(losses, own_s=run.own_work.take(), stop=run.stop.made)
    with run.trace.update(step, run.num_losses - 1), phase("optimizer"):
        outcome = run.engine.step(
            learning_rate(run.config.optim, step),
            lambda norm: run.guard.objection(exchange.result().losses, norm),
        )
    agreed = exchange.result()
    if outcome.reason is None:
        run.guard.taken(agreed.losses, outcome.norm)
        run.average.update(step)
        for router in run.routers:
            router.update_bias()
    else:
        _skip(run, step, outcome.reason, outcome.norm, losses, share.examples)
    return StepFigures(
        loss=fmean(agreed.losses),
        terms=terms,
        weights=share.weights,
        weighted=[one.weighted for one in share.drawn if isinstance(one, Weighted)],
        by_source=by_source,
        norm=outcome.norm,
        own_s=agreed.own_s,
        stop=agreed.stop,
    )


def _skip(
    run: Training, step: int, reason: str, norm: float, losses: Sequence[Tensor], examples: Sequence[Tensor]
) -> None:
    """Drops a step's gradients, and writes down its losses and examples; collective."""
    for router in run.routers:
        router.forget()
    every_loss = gathered(torch.stack(list(losses)))
    every_example = gathered(torch.stack(list(examples)).to(losses[0].device))
    if run.launch.rank == 0:
        path = run.guard.note(step, reason, norm, every_loss.tolist(), every_example.tolist())
        print(f"step {step} is skipped: {reason}; see {path}", file=sys.stderr, flush=True)
    run.guard.skip(step)
