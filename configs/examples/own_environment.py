"""An environment of your own: bags of coins, worth more the nearer they come to a sum, and the fewer coins they hold.

An environment says which actions are possible in a state and where they lead. All its methods are functions of rows, on
the device of their arguments. It is tried on random walks before a run starts.
"""

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from trainer.task.environment import Environment


class Coins(Environment):
    """A state counts the coins of each value in the bag; an action adds one, and the last action stops."""

    objectives = ("near", "few")

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        values: tuple[int, ...] = (1, 5, 10)
        """Of the coins."""
        wanted: int = Field(default=23, ge=1)
        """The sum."""
        most: int = Field(default=8, ge=1)
        """Coins that the bag holds."""

    def __init__(self, config: Config) -> None:
        self.config, kinds = config, len(config.values)
        self.num_actions, self.num_features, self.max_actions = kinds + 1, kinds * config.most, config.most + 1

    def start(self, num: int) -> Tensor:
        """The empty bag."""
        return torch.zeros(num, len(self.config.values), dtype=torch.int64)

    def step(self, states_BS: Tensor, actions_B: Tensor) -> Tensor:
        """One coin more."""
        return states_BS + (torch.arange(states_BS.shape[1], device=states_BS.device) == actions_B[:, None])

    def allowed(self, states_BS: Tensor) -> Tensor:
        """Coins while there is room, and the stop at any time."""
        room = states_BS.sum(1, keepdim=True) < self.config.most
        return torch.cat([room.expand(-1, states_BS.shape[1]), torch.ones_like(room)], dim=1)

    def leading(self, states_BS: Tensor) -> Tensor:
        """Any coin in the bag may be the last one."""
        return states_BS > 0

    def features(self, states_BS: Tensor) -> Tensor:
        """As many ones as there are coins of each value."""
        return (states_BS[..., None] > torch.arange(self.config.most, device=states_BS.device)).flatten(1).float()

    def rewards(self, states_BS: Tensor) -> Tensor:
        """How near the sum is, and how empty the bag, each from 0 to 1."""
        values = torch.tensor(self.config.values, device=states_BS.device)
        missing = ((states_BS * values).sum(1) - self.config.wanted).abs().double()
        near = 1 / (1 + missing)
        return torch.stack([near, 1 - states_BS.sum(1).double() / self.config.most], dim=1)
