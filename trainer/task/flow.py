"""Flow matching."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from moe.host_copies import to_device
from trainer.checkpoint.pretrained import OBJECTIVE, references_of
from trainer.config.derived import drawable, task_names
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.config.task import FlowTaskConfig
from trainer.data import Batch
from trainer.flow import Condition, objective, time
from trainer.flow.condition import random_keys
from trainer.flow.coupling import Pairs
from trainer.flow.objective import LossTerms, Model
from trainer.flow.path import PathSample
from trainer.model.feature_extractor.teacher import Teacher
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.sampling.conditioning import tasks_of
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.sampling.preview import preview
from trainer.sampling.trained import Reference
from trainer.training.task import Builders, Networks, Task
from trainer.training.weighting import few_count


class DrawnPoints(NamedTuple):
    """Points of the path: states at which the network is called, their training targets, and the conditioning."""

    log_weight: Tensor | None
    sample: PathSample
    condition: Condition

    @property
    def sources(self) -> Tensor | None:
        """The tasks of the conditions, since couplings reorder conditions together with the data."""
        return self.condition.task

    @property
    def weighted(self) -> Mapping[str, Tensor]:
        return {} if self.log_weight is None else {"data": self.sample.x_1, "source": self.sample.x_0}


class FlowTask(Task[DrawnPoints]):
    """Flow matching, composed of coupling, time, path, target and objective."""

    def __init__(self, config: RunConfig) -> None:
        assert config.flow is not None
        self.config = config
        self.parts = FlowParts(config)
        self.coupling = self.parts.coupling
        self.time = time.build(config.flow.time)
        chosen, parts = config.flow.objective, self.parts
        teacher = Teacher(chosen.teacher) if isinstance(chosen, objective.Aligned) else None
        named = [Reference.of_run(one) for field, one in references_of(config).items() if field.startswith(OBJECTIVE)]
        inputs = objective.ObjectiveInputs(
            target=parts.target,
            path=parts.path,
            teacher=teacher,
            reference=named[0] if named else None,
            chain=parts.chain,
            tokens=config.model.tokens(config.state_shape),
            start=getattr(self.coupling, "start", None),
            fields=self.parts.fields,
        )
        self.objective = chosen.build(inputs)
        self.objective_draws = getattr(self.objective, "draws", False)  # a user's need not have the attribute
        self.label_dropout: float = getattr(config.model, "label_dropout", 0.0)  # every network of flows has it
        self.reads_tasks = bool(task_names(config))

    def source(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Standard normal source points, if the coupling uses such and the batch has no source; otherwise None."""
        if batch.x_0 is not None or not getattr(self.coupling, "normal_source", False):
            return None
        assert self.config.flow is not None
        latent = self.config.flow.latent is not None
        shape = self.config.state_shape if latent else batch.x_1.shape[1:]
        return torch.randn(len(batch.x_1), *shape, generator=generator)

    def draw(
        self, batches: Sequence[Batch], generators: Sequence[torch.Generator], ranks: dist.ProcessGroup | None = None
    ) -> list[DrawnPoints]:
        """Pairs micro batches singly or together, as the coupling's scope says."""
        conditions, states, sources = [], [], []
        for batch, generator in zip(batches, generators, strict=True):
            conditions.append(self._condition(batch, generator))
            states.append(self.parts.states_of(batch.x_1, generator))
            sources.append(batch.x_0)
        paired = self.coupling.draw_step(states, conditions, generators=generators, x_0=sources, ranks=ranks)
        together = zip(paired, batches, generators, strict=True)
        return [self._points(pairs, batch.interval, generator) for pairs, batch, generator in together]

    def loss(self, model: Model, drawn: DrawnPoints) -> LossTerms:
        return self.objective.loss(model, drawn.sample, drawn.condition)

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:
        """Writes drawn samples in the form that the section ``sample`` sets, such as a grid of images."""
        if isinstance(self.config.sample, ImageSample) and not drawable(self.config):
            return
        with networks.average() as model:
            preview(TrainedFlow(self.config, self.parts, model), stem.with_suffix(".png"), seed=seed)

    def measure(self, networks: Networks, spec: MeasurementSpec, progress: Progress) -> Measurement:
        """Measures sample quality by function evaluations, straightness of paths, and likelihood."""
        from trainer.evaluation.measurement import FlowMeasurement  # scikit-learn takes a second to import

        with networks.average() as model:
            flow = TrainedFlow(self.config, self.parts, model, spec.checkpoint)
            return FlowMeasurement.of(flow, spec, progress)

    def cautions(self, figures: Mapping[str, float]) -> Mapping[str, str]:
        line = few_count(figures.get("effective_share", 1.0))
        return {} if line is None else {"effective_share": line}

    def _condition(self, batch: Batch, generator: torch.Generator) -> Condition:
        given = self.parts.of_any_caption(Condition(batch.labels, caption=batch.captions))
        labels, captions = given.label, given.caption
        if labels is not None or captions is not None:
            drawn = torch.rand(len(batch.x_1), generator=generator) < self.label_dropout
            hidden = to_device(drawn, batch.x_1.device)
            labels = None if labels is None else labels.masked_fill(hidden, self.parts.null_label)
            if captions is not None and not self.config.encodes_captions:
                captions = captions.masked_fill(hidden[:, None], 0.0)
        context = self.parts.context_of(batch, generator)
        # Where no adapters read the task, losses by source do.
        task = tasks_of(self.config, batch) if self.reads_tasks else batch.sources
        return Condition(labels, context, caption=captions, task=task)

    def _points(self, pairs: Pairs, interval: Tensor | None, generator: torch.Generator) -> DrawnPoints:
        t = self.time.sample(pairs.x_1.shape[0], generator=generator, device=pairs.x_1.device)
        if interval is not None:
            pairs = pairs._replace(interval=interval)
            start, end = interval.to(t).unbind(1)
            t = start + (end - start) * t
        sample = self.parts.path.sample(pairs, t, generator=generator)
        if self.objective_draws:
            sample = sample._replace(keys=to_device(random_keys(len(t), generator), t.device))
        return DrawnPoints(pairs.log_weight, sample, pairs.condition)


TASKS: Builders = {FlowTaskConfig: FlowTask}
