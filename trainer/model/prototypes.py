"""A network that tells clusters apart by prototypes.

Shape suffixes: B batch, W width, K clusters.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model.representation import PrototypesConfig
from trainer.model.dit import FeedForward
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, by_inputs, computing_dtype


class Prototypes(Network):
    """Residual blocks, and the cosines of what they make with a prototype of each cluster."""

    def __init__(self, spec: NetworkSpec[PrototypesConfig]) -> None:
        super().__init__()
        config = spec.config
        self.temperature, self.standardises = config.temperature, len(spec.state_shape) > 1
        self.enter = nn.Linear(math.prod(spec.state_shape), config.hidden)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.prototypes = Directions(config.hidden, config.clusters, bias=False)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        if name.endswith("norm.weight"):
            return Constant(1.0)
        if name.endswith("bias") or name.endswith("feed_forward.2.weight"):
            return Constant(0.0)
        return by_inputs(shape[1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and features [B, W] of length 1 of examples [B, *D], both float32."""
        features_BW = self.features(x)
        return self.prototypes(features_BW) / self.temperature, features_BW

    def features(self, images: Tensor) -> Tensor:
        values = images.flatten(1).float()
        if self.standardises:
            values = functional.layer_norm(values, values.shape[1:])
        values = self.enter(values.to(computing_dtype(self)))
        for block in self.blocks:
            values = block(values)
        return functional.normalize(values.float(), dim=-1)


class Directions(nn.Linear):
    """Products with directions, whatever the lengths of the weights; a module, so that engines gather what it needs."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, functional.normalize(self.weight.float(), dim=-1))


class Block(nn.Module):
    """A feed-forward layer added to what came in; the identity at first."""

    def __init__(self, config: PrototypesConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden)
        self.feed_forward = FeedForward(config.hidden, config.inner)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.feed_forward(self.norm(values))


NETWORKS: Builders = {PrototypesConfig: Prototypes}
