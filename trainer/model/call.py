"""A call of a network for one example on the meta device, whose tensors have shapes and no values."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.derived import task_names
from trainer.config.model import transition
from trainer.config.run import RunConfig
from trainer.config.task import FlowTaskConfig
from trainer.flow import Condition
from trainer.flow.objective import Aligned, CausalTransition, EncodedSource, Transition
from trainer.flow.question import FromSource, HeadVelocities, NextStates, Question, WithProjection
from trainer.model.transition import chain_of


def call_on_meta(
    network: nn.Module, config: RunConfig, *questions: Question, segment: int | None = None
) -> tuple[Tensor, ...]:
    """What a network on the meta device returns for one example and some questions.

    Args:
        segment: of time that a sampler is in; None: the time of the example decides.
    """
    with torch.device("meta"):
        inputs: list[Any] = [
            torch.empty(1, *one.shape, dtype=torch.int64 if one.integer else torch.float32)
            for one in config.model.inputs(config.state_shape)
        ]
        if config.flow is not None:
            context = None if config.context_shape is None else torch.empty(1, *config.context_shape)
            caption = torch.empty(1, config.caption_width) if config.caption_width else None
            task = torch.empty(1, dtype=torch.int64) if task_names(config) else None
            inputs += [Condition(context=context, segment=segment, caption=caption, task=task), *questions]
        output = network(*inputs)
    return output if isinstance(output, tuple) else (output,)


def questions_in_training(config: RunConfig) -> tuple[Question, ...]:
    """The questions, on the meta device, that the objective of a run asks its network for one example."""
    if config.flow is None or not isinstance(config.task, FlowTaskConfig):
        return ()
    with torch.device("meta"):
        match config.flow.objective:
            case Aligned():
                return (WithProjection(),)
            case CausalTransition(draws=draws) if isinstance(config.model, transition.CausalTransitionConfig):
                chain = chain_of(config.model, config.state_shape)
                following = torch.empty(chain.read_at_once, 1, *chain.shape)
                times = torch.empty(draws, chain.read_at_once, 1, chain.num_tokens)
                return (NextStates(following, following.expand(draws, *following.shape), times),)
            case EncodedSource():
                return (FromSource(torch.empty(1, *config.state_shape), lambda x_0: x_0),)
            case Transition(draws=draws):
                tokens = config.model.tokens(config.state_shape)
                return (HeadVelocities(torch.empty(draws, 1, *config.state_shape), torch.empty(draws, 1, tokens)),)
    return ()
