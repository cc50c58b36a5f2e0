"""A network for vectors whose head draws each vector.

Shape suffixes: B batch, D width, 1 the only token of an example.
"""

from typing import Any

from torch import Tensor

from trainer.config.model.transition import TransitionMLPConfig
from trainer.flow.condition import Condition
from trainer.flow.question import Question
from trainer.model.layer.flow_head import FlowHead
from trainer.model.mlp import MLP
from trainer.model.transition import answer


class TransitionMLP(MLP):
    """The features that residual blocks compute of a vector, and a head that is called with them.

    Shaul et al., "Transition Matching", arXiv 2506.23589, section 3.1 (difference transition matching).
    """

    def __init__(self, config: TransitionMLPConfig, *, num_values: int, **trunk: Any) -> None:
        super().__init__(config, num_values=num_values, **trunk)
        del self.unembed_values  # the head is in its place
        self.mean = config.mean_velocity
        self.head = FlowHead(config.head, values=num_values, features=config.hidden)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Tensor:
        """Computes the velocity of the flow, or what else is asked for; see :func:`trainer.model.transition.answer`."""
        return answer(self, x_t, t, condition, question)

    def velocities(self, tokens_B1D: Tensor, y: Tensor, s: Tensor) -> Tensor:
        return self.head(y[..., None, :], s, tokens_B1D)[..., 0, :]
