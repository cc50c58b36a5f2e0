"""The flow of a run as a sampler sees it: the space of its states, its path, and the field that its network gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from trainer.config.model import BlockwiseConfig, BlockwiseMLPConfig, CausalTransitionConfig
from trainer.config.run import RunConfig
from trainer.flow import Condition, context
from trainer.flow.field import CausalField, NetworkField, Predict, SegmentField, TransitionField, guided
from trainer.flow.sampler import Field
from trainer.model.transition import chain_of
from trainer.sampling.latent_space import build as build_space


class FlowParts:
    """What drawing needs of a flow besides its network.

    Attributes:
        space: from examples to the states of the flow and back.
        context: what of an image the network reads beside the state; None if nothing.
        data_scale: the factor between the data and the states at the ends of paths.
        chain: the states that a causal network draws; None: the network predicts a quantity at a state.
    """

    def __init__(self, config: RunConfig) -> None:
        assert config.flow is not None
        self.space = build_space(config)
        self.context = config.flow.context and context.build(config.flow.context)
        self.data_scale = config.flow.data_scale
        self.path = config.flow.path.build()
        self.target = config.flow.target.build(self.path)
        self.null_label = config.data.num_classes
        self._network = config.model
        model = config.model
        self.chain = chain_of(model, config.state_shape) if isinstance(model, CausalTransitionConfig) else None

    def field(self, model: Callable[..., Tensor], condition: Condition, guidance: float) -> Field:
        """The field of examples of a condition; guidance leads away from no class and no caption, with the same
        context.
        """
        unlabelled = condition
        if condition.label is not None:
            unlabelled = replace(condition, label=torch.full_like(condition.label, self.null_label))
        if condition.caption is not None:
            unlabelled = replace(unlabelled, caption=torch.zeros_like(condition.caption))

        if self.chain is not None:
            return CausalField(model, condition, unlabelled, guidance, self.chain)

        def bind(network: Callable[[Tensor, Tensor, Condition], Tensor]) -> Predict:
            return guided(network, condition, unlabelled, guidance)

        if "transition" in self._network.objective_kinds:
            return TransitionField.bound(model, self.target, condition, unlabelled, guidance)
        if not isinstance(self._network, BlockwiseConfig | BlockwiseMLPConfig):
            return NetworkField(bind(model), self.target)
        approximates = isinstance(self._network, BlockwiseConfig) and self._network.residual_layers > 0
        return SegmentField(bind(model), self.target, model, bind, self._network.segments, approximates)

    def states_of(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """The states [B, *D] that paths to some examples [B, *shape] end at."""
        state = self.space.encode(examples, generator=generator)
        return state if self.data_scale == 1 else self.data_scale * state

    def data_of(self, x: Tensor) -> Tensor:
        """The states [B, *D] at the end of a path, in the units of the space that they live in."""
        return x if self.data_scale == 1 else x / self.data_scale

    def context_of(self, images: Tensor, generator: torch.Generator) -> Tensor | None:
        """The context of each of some images [B, C, H, W]; None where the network reads none."""
        if self.context is None:
            return None
        return self.context.draw(images, self.space, generator=generator).context
