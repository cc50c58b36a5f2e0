"""Networks that learn features of images: by comparing views, and by prototypes of clusters.

Shape suffixes: B batch, C channels of an image, H W its pixels, F features, P projected values, W width, K clusters.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model.representation import NARROWING, ContrastiveConfig, PrototypesConfig
from trainer.model.autoencoder import Block
from trainer.model.dit import FeedForward
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, by_inputs, computing_dtype


class Contrastive(Network):
    """Features by residual blocks over pixel squares and a linear layer; two perceptrons follow them in training.

    Batches are not normalised, so that an example is the same in any batch and on any number of ranks.
    """

    def __init__(self, spec: NetworkSpec[ContrastiveConfig]) -> None:
        super().__init__()
        config, (channels, height, width) = spec.config, spec.image_shape
        self.factor = config.factor
        places = (height // config.factor) * (width // config.factor)
        self.enter = nn.Conv2d(channels * config.factor**2, config.hidden, 3, padding=1)
        self.blocks = nn.ModuleList(Block(config.hidden) for _ in range(config.num_layers))
        self.to_features = nn.Linear(places * config.hidden, config.features)
        self.projector = perceptron(config.features, 2 * config.projected, config.projected)
        self.predictor = perceptron(config.projected, config.projected // NARROWING, config.projected)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        layer, _, kind = name.rpartition(".")
        if kind == "bias" or layer.endswith(".second"):
            return Constant(0.0)
        return Constant(1.0) if layer.endswith("norm") or len(shape) == 1 else by_inputs(math.prod(shape[1:]))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Projections and predictions, float32 [B, P] both."""
        projected_BP = self.projector(functional.silu(self._encoded(x_BCHW)))
        return projected_BP.float(), self.predictor(projected_BP).float()

    def features(self, images: Tensor) -> Tensor:
        """The features of each image have mean 0 and variance 1, so that distances compare directions alone."""
        features_BF = self._encoded(images).float()
        return functional.layer_norm(features_BF, features_BF.shape[1:])

    def _encoded(self, x_BCHW: Tensor) -> Tensor:
        values = self.enter(functional.pixel_unshuffle(x_BCHW.to(self.enter.weight.dtype), self.factor))
        for block in self.blocks:
            values = block(values)
        return self.to_features(values.flatten(1))


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Prototypes(Network):
    """Residual blocks, and the cosines of their features with a prototype of each cluster."""

    def __init__(self, spec: NetworkSpec[PrototypesConfig]) -> None:
        super().__init__()
        config = spec.config
        self.temperature, self.standardises = config.temperature, len(spec.state_shape) > 1
        self.enter = nn.Linear(math.prod(spec.state_shape), config.hidden)
        self.blocks = nn.ModuleList(ResidualFeedForward(config) for _ in range(config.num_layers))
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
    """A linear layer whose weight rows are scaled to length 1; a module, so that engines gather its weights."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, functional.normalize(self.weight.float(), dim=-1))


class ResidualFeedForward(nn.Module):
    """A residual feed-forward layer; the identity at initialisation."""

    def __init__(self, config: PrototypesConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden)
        self.feed_forward = FeedForward(config.hidden, config.inner)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.feed_forward(self.norm(values))


NETWORKS: Builders = {ContrastiveConfig: Contrastive, PrototypesConfig: Prototypes}
