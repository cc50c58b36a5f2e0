"""A diffusion transformer whose head draws each patch.

Shape suffixes: B batch, N tokens (patches), D width.
"""

from typing import Any

from torch import Tensor

from trainer.config.model.transition import TransitionDiTConfig
from trainer.flow.condition import Condition
from trainer.flow.question import Question
from trainer.model.dit import DiT
from trainer.model.layer.flow_head import FlowHead
from trainer.model.transition import answer


class TransitionDiT(DiT):
    """The features of patches that a diffusion transformer computes, and a head that is called for each patch alone.

    Shaul et al., "Transition Matching", arXiv 2506.23589, section 3.1 (difference transition matching).
    """

    def __init__(
        self,
        config: TransitionDiTConfig,
        *,
        shape: tuple[int, int, int],
        **trunk: Any,
    ) -> None:
        super().__init__(config, shape=shape, **trunk)
        del self.unembed_patches  # the head is in its place
        values = shape[0] * config.patch_size**2
        self.mean = config.mean_velocity
        self.head = FlowHead(config.head, values=values, features=config.hidden)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Tensor:
        """Computes the velocity of the flow, or what else is asked for; see :func:`trainer.model.transition.answer`."""
        return answer(self, x_t, t, condition, question)

    def velocities(self, tokens_BND: Tensor, y: Tensor, s: Tensor) -> Tensor:
        patches = self.grid.patches(y.flatten(0, -4)).unflatten(0, y.shape[:-3])
        found = self.head(patches, s, tokens_BND)
        return self.grid.images(found.flatten(0, -3)).unflatten(0, y.shape[:-3])
