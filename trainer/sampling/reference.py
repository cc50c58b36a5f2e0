"""The frozen flow of another run."""

from __future__ import annotations

from functools import cached_property

import torch

from trainer.checkpoint.frozen_run import FrozenRun
from trainer.flow import Condition
from trainer.flow.sampler import Field
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts


class Reference(FrozenRun):
    """Averaged weights of another run, ready to draw."""

    @cached_property
    def parts(self) -> FlowParts:
        """The flow of the run, without its network."""
        return FlowParts(self.config)

    def flow(self, device: torch.device) -> TrainedFlow:
        """The flow with its network on a device."""
        return TrainedFlow(self.config, self.parts, self.model(device), self.folder.name)

    def field(self, condition: Condition, guidance: float, device: torch.device) -> Field:
        """The field that a sampler follows to draw examples of a condition; see `FlowParts.field`."""
        return self.parts.field(self.model(device), condition, guidance)
