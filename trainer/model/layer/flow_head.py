"""A velocity for each token, by a perceptron that reads the token's features.

Shape suffixes: N tokens, P values of a token's state, H features of a token.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model.mlp import INPUT_WAVES
from trainer.config.model.transition import HeadConfig
from trainer.model.layer.conditioning import with_waves
from trainer.model.layer.initial import Constant, Initial, xavier


class FlowHead(nn.Module):
    """The velocity of a flow over the values of a token, given its features; tokens know nothing of each other.

    State and time join with sines and cosines of them, so that a narrow distribution can be learned. The output starts
    at zero. Shaul et al., "Transition Matching", arXiv 2506.23589, section 3 (a head that samples each token).
    """

    def __init__(self, config: HeadConfig, *, values: int, features: int) -> None:
        super().__init__()
        self.read_state = nn.Linear((values + 1) * (1 + 2 * INPUT_WAVES), config.hidden)
        self.read_features = nn.Linear(features, config.hidden, bias=False)
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden) for _ in range(config.layers - 1))
        self.output = nn.Linear(config.hidden, values)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return Constant(0.0) if name.endswith("bias") or name.startswith("output") else xavier(shape)

    def forward(self, y: Tensor, s: Tensor, features: Tensor) -> Tensor:
        """Velocities, float32 [.., N, P], of states y [.., N, P] at times s [.., N]; features may have fewer
        dimensions before N.
        """
        state = torch.cat([y.float(), s.float()[..., None]], dim=-1)
        hidden = self.read_state(with_waves(state).to(features.dtype)) + self.read_features(features)
        for layer in self.layers:
            hidden = layer(functional.silu(hidden))
        return self.output(functional.silu(hidden)).float()
