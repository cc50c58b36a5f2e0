"""What a step learns from. The training loop sees only `Task`."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.data import Batch
from trainer.flow import coupling, objective, path, target, time
from trainer.flow.objective import LossTerms, Model
from trainer.model.autoencoder_config import AutoencoderConfig
from trainer.model.gpt_config import GPTConfig


class Task(Protocol):
    """Turns a batch into a loss."""

    def step(self, model: Callable[..., Tensor], batch: Batch, *, generator: torch.Generator) -> LossTerms:
        """Computes the loss of one micro batch.

        Args:
            model: the network, possibly wrapped by the engine.
            batch: data on the device of the network.
            generator: where every draw of the step comes from.

        Returns:
            The loss terms.
        """
        ...

    def held_out_figures(self, loss: float) -> dict[str, float]:
        """What the mean loss over the held-out split says, by the names that metrics have."""
        ...


def build(config: RunConfig) -> Task:
    """The task that the kind of the model asks for."""
    match config.model:
        case GPTConfig():
            return NextTokenTask()
        case AutoencoderConfig() as model:
            return AutoencoderTask(model)
    return FlowTask(config)


class FlowTask(Task):
    """Flow matching, put together from coupling, time, path, target and objective."""

    def __init__(self, config: RunConfig) -> None:
        """Builds the parts that the configuration names."""
        assert config.flow is not None
        assert not isinstance(config.model, GPTConfig | AutoencoderConfig)
        self.coupling = coupling.build(config.flow.coupling)
        self.time = time.build(config.flow.time)
        self.path = path.build(config.flow.path)
        self.target = target.build(config.flow.target, path=self.path)
        self.objective = objective.build(config.flow.objective, target=self.target)
        self.label_dropout = config.model.label_dropout
        self.null_label = config.data.num_classes

    def step(self, model: Model, batch: Batch, *, generator: torch.Generator) -> LossTerms:
        """See `Task.step`."""
        condition = self._hide_labels(batch.condition, generator)
        pairs = self.coupling.draw(batch.x_1, condition, generator=generator)
        t = self.time.sample(len(batch.x_1), generator=generator, device=batch.x_1.device)
        sample = self.path.sample(pairs, t, generator=generator)
        return self.objective.loss(model, sample, pairs.condition, pairs.weight)

    def held_out_figures(self, loss: float) -> dict[str, float]:
        """See `Task.held_out_figures`."""
        return {"held_out_loss": loss}

    def velocity(self, model: Model, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The model's prediction as a velocity, whatever it was trained to predict; shapes as in the model."""
        return self.target.convert(model(x_t, t, condition), x_t, t, "velocity")

    def _hide_labels(self, condition: Tensor | None, generator: torch.Generator) -> Tensor | None:
        if condition is None:
            return None
        hidden = torch.rand(condition.shape, generator=generator) < self.label_dropout
        return condition.masked_fill(hidden.to(condition.device), self.null_label)


class NextTokenTask(Task):
    """Each byte of a window but the first, predicted from those before it; an example's loss is its mean in nats."""

    def step(
        self,
        model: Callable[..., Tensor],
        batch: Batch,
        *,
        generator: torch.Generator,  # noqa: ARG002
    ) -> LossTerms:
        """See `Task.step`; nothing is drawn but the network's own dropout."""
        return LossTerms(per_example=model(batch.x_1[:, :-1], batch.x_1[:, 1:]).mean(dim=1), terms={})

    def held_out_figures(self, loss: float) -> dict[str, float]:
        """See `Task.held_out_figures`; a token is a byte, so its loss in bits compares with what a compressor needs."""
        return {"held_out_loss": loss, "held_out_bits_per_byte": loss / math.log(2)}


class AutoencoderTask(Task):
    """Mean squared error of a pixel, and the weighted Kullback-Leibler divergence of a latent value from N(0, 1).

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, equation 10.
    """

    def __init__(self, model: AutoencoderConfig) -> None:
        """Takes the sizes of the latents and the weight from the network's configuration."""
        self._model = model

    def step(self, model: Callable[..., Any], batch: Batch, *, generator: torch.Generator) -> LossTerms:
        """See `Task.step`."""
        height, width = (length // self._model.factor for length in batch.x_1.shape[2:])
        shape = len(batch.x_1), self._model.latent_channels, height, width
        noise = torch.randn(shape, generator=generator).to(batch.x_1.device)
        images, mean, log_variance = model(batch.x_1, noise)
        error = (images - batch.x_1).square().flatten(1).mean(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)
        terms = {"error": error.mean(), "divergence": divergence.mean()}
        return LossTerms(per_example=error + self._model.kl_weight * divergence, terms=terms)

    def held_out_figures(self, loss: float) -> dict[str, float]:
        """See `Task.held_out_figures`."""
        return {"held_out_loss": loss}
