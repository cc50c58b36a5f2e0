"""The reward of a run's examples."""

from collections.abc import Callable

from torch import Tensor

from trainer.config.run import RunConfig
from trainer.evaluation.real import real_examples
from trainer.flow import reward
from trainer.flow.space import Space


def reward_of(config: RunConfig, chosen: reward.AnyConfig, space: Space) -> reward.CheckedReward:
    """Builds a reward for what the flow of a run draws.

    Args:
        config: the run, whose training examples a reward may learn from.
        chosen: the reward.
        space: of the states of the flow.

    Raises:
        FileError: a picture cannot be read.
        ValueError: the reward does not fit the examples.
    """
    return reward.build(chosen, inputs_of(config, lambda: space))


def inputs_of(config: RunConfig, space: Callable[[], Space]) -> reward.RewardInputs:
    """What a reward of a run's examples may be built from.

    Args:
        config: the run.
        space: of the states of its flow, made when training examples are asked for.
    """

    def labelled() -> tuple[Tensor, Tensor]:
        examples, labels = real_examples(config, space())
        if labels is None:
            labels = examples.new_zeros(len(examples)).long()
        return examples, labels

    latent = config.flow and config.flow.latent
    shape = latent.image_shape if latent else config.data.shape
    return reward.RewardInputs(tuple(shape), config.data.num_classes, labelled, config.run.seed)
