"""Logs a run's steps: figures for the sinks, and lines of text."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from trainer.observe.speed import Stragglers, peak_memory
from trainer.training.rank import Training
from trainer.training.reduction import mean_terms, means
from trainer.training.schedule import due, learning_rate
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
