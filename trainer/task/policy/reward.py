"""The reward of a run, built from its own data."""

import torch
from torch import Tensor

from trainer.config.run import RunConfig
from trainer.evaluation.real import real_examples
from trainer.flow import reward
from trainer.flow.space import Space


def reward_of(config: RunConfig, chosen: reward.AnyConfig, space: Space) -> reward.CheckedReward:
    """A reward for the draws of a run; one that learns from examples does so from the first of the training split."""

    def labelled() -> tuple[Tensor, Tensor]:
        examples, labels = real_examples(config, space)
        return examples, torch.zeros(len(examples), dtype=torch.int64) if labels is None else labels

    inputs = reward.RewardInputs(config.decoded_shape, config.data.num_classes, labelled, config.run.seed)
    return reward.build(chosen, inputs)
