"""What a step learns from: flow matching, put together from its parts."""

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.data import Batch
from trainer.flow import coupling, objective, path, target, time
from trainer.flow.objective import LossTerms, Model


class FlowTask:
    """Coupling, time, path, target and objective of one method; the training loop sees only `step`."""

    def __init__(self, config: RunConfig) -> None:
        """Builds the parts that the configuration names."""
        self.coupling = coupling.build(config.flow.coupling)
        self.time = time.build(config.flow.time)
        self.path = path.build(config.flow.path)
        self.target = target.build(config.flow.target, path=self.path)
        self.objective = objective.build(config.flow.objective, target=self.target)
        self.label_dropout = config.model.label_dropout
        self.null_label = config.data.num_classes

    def step(self, model: Model, batch: Batch, *, generator: torch.Generator) -> LossTerms:
        """Computes the loss of one micro batch.

        Args:
            model: the network, possibly wrapped by the engine.
            batch: data on the device of the network.
            generator: where every draw of the step comes from.

        Returns:
            The loss terms.
        """
        condition = self._hide_labels(batch.condition, generator)
        pairs = self.coupling.draw(batch.x_1, condition, generator=generator)
        t = self.time.sample(len(batch.x_1), generator=generator, device=batch.x_1.device)
        sample = self.path.sample(pairs, t, generator=generator)
        return self.objective.loss(model, sample, pairs.condition, pairs.weight)

    def velocity(self, model: Model, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The model's prediction as a velocity, whatever it was trained to predict; shapes as in the model."""
        return self.target.convert(model(x_t, t, condition), x_t, t, "velocity")

    def _hide_labels(self, condition: Tensor | None, generator: torch.Generator) -> Tensor | None:
        if condition is None:
            return None
        hidden = torch.rand(condition.shape, generator=generator) < self.label_dropout
        return condition.masked_fill(hidden.to(condition.device), self.null_label)
