"""A network for vectors.

Shape suffixes: B batch, P values of a vector, D width, 1 the only token of an example.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import MLPConfig
from trainer.config.model.mlp import INPUT_WAVES
from trainer.flow.condition import Condition
from trainer.model.dit import FeedForward
from trainer.model.frozen import computing_dtype
from trainer.model.layer.conditioning import modulate, steering, time_embedding, with_waves
from trainer.model.layer.initial import Initial, steered
from trainer.model.network import Network, NetworkSpec


class MLP(Network):
    """Residual blocks over a vector, steered by time and class as a diffusion transformer's are, without attention.

    The input joins its values with sines and cosines of them, so that sharp edges in few dimensions can be learned.
    Every block starts as the identity and the output starts at zero.

    Source: Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, section 3 (steering); Tancik et al.,
    "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains", 2020 (input).
    """

    def __init__(
        self,
        config: MLPConfig,
        *,
        num_values: int,
        num_classes: int,
        feed_forward: Callable[[int], nn.Module],
        num_fields: int = 1,
        num_context_values: int = 0,
    ) -> None:
        super().__init__()
        self.hidden, self.null_label = config.hidden, num_classes
        num_read = num_values + num_context_values
        self.embed_values = nn.Linear(num_read * (1 + 2 * INPUT_WAVES), config.hidden)
        self.embed_time = time_embedding(config.hidden)
        self.embed_label = nn.Embedding(num_classes + 1, config.hidden)
        self.blocks = nn.ModuleList(Block(config, feed_forward(layer)) for layer in range(config.num_layers))
        self.final_modulation = nn.Linear(config.hidden, 2 * config.hidden)
        self.unembed_values = nn.Linear(config.hidden, num_fields * num_values)

    @classmethod
    def build(cls, spec: NetworkSpec[MLPConfig]) -> Self:
        """Builds the network of a run; without a mixture its feed-forward layers are dense."""
        config = spec.config
        return cls(
            config,
            num_values=spec.num_values,
            num_classes=spec.num_classes,
            feed_forward=spec.mixture or (lambda _: FeedForward(config.hidden, config.inner)),
            num_fields=spec.num_fields,
        )

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return steered(name, shape, at_zero=("unembed_values",))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Float32 [B, num_fields P] of states [B, P] at times [B]."""
        return self.unembed_values(self.tokens(x_t, t, condition))[:, 0].float()

    def tokens(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Features of vectors [B, 1, D], which the prediction is made of."""
        dtype = computing_dtype(self)
        steering_BD = steering(self, t, condition.label, dtype)
        seen = x_t.float() if condition.context is None else torch.cat([x_t, condition.context], dim=1).float()
        tokens_B1D = self.embed_values(with_waves(seen).to(dtype))[:, None]
        for block in self.blocks:
            tokens_B1D = block(tokens_B1D, steering_BD)
        shift, scale = self.final_modulation(steering_BD)[:, None].chunk(2, dim=-1)
        return modulate(tokens_B1D, shift, scale)


class Block(nn.Module):
    """A feed-forward layer, shifted, scaled and gated by the steering vector."""

    def __init__(self, config: MLPConfig, feed_forward: nn.Module) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.modulation = nn.Linear(config.hidden, 3 * config.hidden)
        self.feed_forward = feed_forward

    def forward(self, tokens_B1D: Tensor, steering_BD: Tensor) -> Tensor:
        """Returns the tokens [B, 1, D] after the block, given the steering vector [B, D]."""
        shift, scale, gate = self.modulation(steering_BD)[:, None].chunk(3, dim=-1)
        fed = self.feed_forward(modulate(tokens_B1D, shift, scale))
        return tokens_B1D + gate * functional.dropout(fed, self.dropout, self.training)
