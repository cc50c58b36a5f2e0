"""Rewards of drawn examples: the protocol, its implementations, their configuration, `build`.

reward = build(config, RewardInputs(shape=(1, 8, 8), num_classes=10, labelled=read, seed=0))
rewards = reward(examples, condition)  # [B]
"""

from typing import Annotated, ClassVar

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.reward.checked import CheckedReward
from trainer.flow.reward.classifier import Classifier, ClassifierConfig, fitted
from trainer.flow.reward.distance import Distance, DistanceConfig, target_of
from trainer.flow.reward.ink import Ink, InkConfig
from trainer.flow.reward.protocol import Reward, RewardInputs


class OwnReward(OwnClass, frozen=True):
    """A class that keeps `Reward`; its constructor may take any part of `RewardInputs`."""

    protocol: ClassVar[str] = "trainer.flow.reward.Reward"
    passed: ClassVar[tuple[str, ...]] = ("shape", "num_classes", "labelled", "seed")


AnyConfig = InkConfig | DistanceConfig | ClassifierConfig | OwnReward
Config = Annotated[AnyConfig, KindOrClass()]


def build(config: AnyConfig, inputs: RewardInputs) -> CheckedReward:
    """The reward that `config.kind` or `config.class` names, held to the protocol in every call.

    Raises:
        Refusal: a picture cannot be read.
        ValueError: it does not fit the examples, or a user's class refuses its settings.
    """
    return CheckedReward(_built(config, inputs), config.kind, differentiable=is_differentiable(config))


def is_differentiable(config: AnyConfig) -> bool:
    """Whether a reward has a gradient in the examples; a class of a user's may say ``differentiable = False``."""
    return not isinstance(config, OwnReward) or bool(getattr(config.imported(), "differentiable", True))


def _built(config: AnyConfig, inputs: RewardInputs) -> Reward:
    match config:
        case InkConfig():
            return Ink(config)
        case DistanceConfig():
            return Distance(target_of(config, inputs))
        case ClassifierConfig():
            return fitted(config, inputs)
        case OwnReward():
            return build_own(
                config,
                shape=inputs.shape,
                num_classes=inputs.num_classes,
                labelled=inputs.labelled,
                seed=inputs.seed,
            )


__all__ = [
    "AnyConfig",
    "CheckedReward",
    "Classifier",
    "ClassifierConfig",
    "Config",
    "Distance",
    "DistanceConfig",
    "Ink",
    "InkConfig",
    "OwnReward",
    "Reward",
    "RewardInputs",
    "build",
    "is_differentiable",
]
