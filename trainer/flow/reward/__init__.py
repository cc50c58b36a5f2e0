"""Rewards of drawn examples: the protocol, its implementations, their configuration, `build`."""

from trainer.flow.own import OwnReward
from trainer.flow.reward.protocol import Reward, RewardInputs

__all__ = ["OwnReward", "Reward", "RewardInputs"]
