"""Flow matching."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.config.model import AutoencoderConfig, BlockwiseConfig, BlockwiseMLPConfig, GPTConfig
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import Condition, context, coupling, objective, path, target, time
from trainer.flow.coupling import Pairs
from trainer.flow.field import NetworkField, Predict, SegmentField, guided
from trainer.flow.objective import LossTerms, Model
from trainer.flow.path import PathSample
from trainer.task.latent_space import build as build_space
from trainer.task.protocol import Task
from trainer.task.teacher import Teacher


class DrawnPoints(NamedTuple):
    """Points of the path.

    Attributes:
        log_weight: see `Drawn`.
        sample: where the network is asked, and what it should say.
        condition: what it is told.
    """

    log_weight: Tensor | None
    sample: PathSample
    condition: Condition


class FlowTask(Task):
    """Flow matching, put together from coupling, time, path, target and objective."""

    def __init__(self, config: RunConfig) -> None:
        """Builds the parts that the configuration names."""
        assert config.flow is not None
        assert not isinstance(config.model, GPTConfig | AutoencoderConfig)
        self.space = build_space(config)
        self.context = config.flow.context and context.build(config.flow.context)
        self.data_scale = config.flow.data_scale
        self.coupling = coupling.build(config.flow.coupling)
        self.time = time.build(config.flow.time)
        self.path = path.build(config.flow.path)
        self.target = target.build(config.flow.target, path=self.path)
        chosen = config.flow.objective
        teacher = Teacher(chosen.teacher) if isinstance(chosen, objective.AlignedConfig) else None
        self.objective = objective.build(chosen, target=self.target, path=self.path, teacher=teacher)
        self.network, self.label_dropout = config.model, config.model.label_dropout
        self.null_label = config.data.num_classes

    def draw(
        self, batches: Sequence[Batch], generators: Sequence[torch.Generator], ranks: dist.ProcessGroup | None = None
    ) -> list[DrawnPoints]:
        """See `Task.draw`; the coupling decides which micro batches are paired together."""
        conditions, states, sources = [], [], []
        for batch, generator in zip(batches, generators, strict=True):
            conditions.append(self._condition(batch, generator))
            states.append(self.state_of(batch, generator))
            sources.append(batch.x_0)
        paired = self.coupling.draw_step(states, conditions, generators=generators, x_0=sources, ranks=ranks)
        together = zip(paired, batches, generators, strict=True)
        return [self._points(pairs, batch.interval, generator) for pairs, batch, generator in together]

    def loss(self, model: Model, drawn: DrawnPoints) -> LossTerms:
        """See `Task.loss`."""
        return self.objective.loss(model, drawn.sample, drawn.condition)

    def held_out_figures(self, loss: float) -> dict[str, float]:
        """See `Task.held_out_figures`."""
        return {"held_out_loss": loss}

    def field(self, model: Model, condition: Condition, guidance: float) -> NetworkField:
        """What a sampler follows to draw examples of a condition.

        Args:
            model: the network.
            condition: of the examples.
            guidance: scale of classifier-free guidance, 0 or more; it is away from no class, with the same context.
        """
        nothing = condition
        if condition.label is not None:
            nothing = replace(condition, label=torch.full_like(condition.label, self.null_label))

        def bind(network: Callable[[Tensor, Tensor, Condition], Tensor]) -> Predict:
            return guided(network, condition, nothing, guidance)

        if not isinstance(self.network, BlockwiseConfig | BlockwiseMLPConfig):
            return NetworkField(bind(model), self.target)
        approximates = isinstance(self.network, BlockwiseConfig) and self.network.residual_layers > 0
        return SegmentField(bind(model), self.target, model, bind, self.network.segments, approximates)

    def state_of(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The states [B, *D] that paths to some examples end at."""
        state = self.space.encode(batch.x_1, generator=generator)
        return state if self.data_scale == 1 else self.data_scale * state

    def data_of(self, x: Tensor) -> Tensor:
        """The states [B, *D] at the end of a path, in the units of the space that they live in."""
        return x if self.data_scale == 1 else x / self.data_scale

    def told(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        """The context of each of some images [B, C, H, W]; None where the network is told of nothing."""
        if self.context is None:
            return None
        return self.context.draw(images, self.space, generator=generator).context

    def _condition(self, batch: Batch, generator: torch.Generator) -> Condition:
        return Condition(self._hide_labels(batch.labels, generator), self.told(batch.x_1, generator))

    def _points(self, pairs: Pairs, interval: Tensor | None, generator: torch.Generator) -> DrawnPoints:
        t = self.time.sample(pairs.x_1.shape[0], generator=generator, device=pairs.x_1.device)
        if interval is not None:
            pairs = pairs._replace(interval=interval)
            start, end = interval.to(t).unbind(1)
            t = start + (end - start) * t
        sample = self.path.sample(pairs, t, generator=generator)
        return DrawnPoints(pairs.log_weight, sample, pairs.condition)

    def _hide_labels(self, labels: Tensor | None, generator: torch.Generator) -> Tensor | None:
        if labels is None:
            return None
        hidden = torch.rand(labels.shape, generator=generator) < self.label_dropout
        return labels.masked_fill(hidden.to(labels.device), self.null_label)
