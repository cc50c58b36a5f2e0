"""A network that learns features by comparing views.

Shape suffixes: B batch, C channels of an image, H W its pixels, F features, P projected values.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model.representation import NARROWING, ContrastiveConfig
from trainer.model.autoencoder import Block
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, by_inputs


class Contrastive(Network):
    """Residual blocks over squares of pixels and a linear layer: features; two perceptrons behind them for training.

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
        """Each image's have mean 0 and variance 1, so that distances are those of directions."""
        features_BF = self._encoded(images).float()
        return functional.layer_norm(features_BF, features_BF.shape[1:])

    def _encoded(self, x_BCHW: Tensor) -> Tensor:
        values = self.enter(functional.pixel_unshuffle(x_BCHW.to(self.enter.weight.dtype), self.factor))
        for block in self.blocks:
            values = block(values)
        return self.to_features(values.flatten(1))


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


NETWORKS: Builders = {ContrastiveConfig: Contrastive}
