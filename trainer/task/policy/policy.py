"""What tasks share that draw from their own flow and learn from what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config.derived import drawable
from trainer.config.run import RunConfig
from trainer.config.sample import PointSample
from trainer.config.task import AdjointMatchingConfig, GRPOConfig
from trainer.data import Batch
from trainer.flow import Condition
from trainer.flow.context import Seen
from trainer.flow.reward import CheckedReward
from trainer.flow.sampler import Field
from trainer.model.adapted import without_adapters
from trainer.model.network import Network
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.sampling.preview import preview
from trainer.sampling.reference import Reference
from trainer.sampling.tasks import tasks_of
from trainer.sampling.trained import compared_with
from trainer.task.policy.reward import reward_of
from trainer.task.policy.show import show_rewards
from trainer.training.task import D, Networks, Task


class PolicyTask(Task[D]):
    """A task whose flow continues from a base, and whose examples are worth something.

    `reference` is the base's run; None: it names none, or adapts it.
    """

    def __init__(self, config: RunConfig, chosen: GRPOConfig | AdjointMatchingConfig) -> None:
        self.config, self.parts = config, FlowParts(config)
        self.reward = None if chosen.reward is None else reward_of(config, chosen.reward, self.parts.space)
        another = chosen.base if config.model.adapters is None else None
        self.reference = None if another is None else Reference.of_run(another)
        self._guidance = chosen.guidance

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:
        """Examples of the base and of this run from the same noise, with their rewards."""
        if not isinstance(self.config.sample, PointSample) and not drawable(self.config):
            return
        path = stem.with_suffix(".png")
        with networks.average() as model:
            now = TrainedFlow(self.config, self.parts, model)
            if self.reward is None:
                preview(now, path, seed=seed)
                return
            with self.base_of(model) as base:
                before = None if base is None else replace(now, model=base)
                show_rewards(now, before, self.reward, path, seed=seed)

    def measure(self, networks: Networks, spec: MeasurementSpec, progress: Progress) -> Measurement:
        """That of a flow, and the mean reward of what is drawn beside that of real examples."""
        from trainer.evaluation.measurement import FlowMeasurement  # scikit-learn takes a second to import

        with networks.average() as model:
            compared = compared_with(self.config, spec.data)
            parts = self.parts if spec.data is None else FlowParts(compared)
            flow = TrainedFlow(compared, parts, model, spec.checkpoint)
            return FlowMeasurement.of(flow, spec, progress, self.reward)

    def state(self) -> dict[str, Any]:
        """No checkpoint is saved after a reward that is not finite."""
        if isinstance(self.reward, CheckedReward):
            self.reward.settle()
        return {}

    def field(self, model: Callable[..., Any], condition: Condition) -> Field:
        """The field that the task draws and learns by, with its guidance."""
        return self.parts.field(model, condition, self._guidance)

    def rewards(self, ends: Tensor, condition: Condition, seen: Seen | None) -> Tensor:
        """Rewards [N] of states [N, *D] at the ends of trajectories; there is a reward."""
        assert self.reward is not None
        examples = self.parts.space.decode(self.parts.data_of(ends))
        return self.reward(examples if seen is None else seen.completed(examples), condition).float()

    def asked(self, batch: Batch, generator: torch.Generator) -> tuple[Condition, Seen | None]:
        """Conditions of the draws, of which nothing is hidden, and what is visible of an image for each."""
        seen = None
        if self.parts.context is not None:
            seen = self.parts.context.draw(batch.x_1, self.parts.space, generator=generator)
        context = None if seen is None else seen.context
        return Condition(batch.labels, context, caption=batch.captions, task=tasks_of(self.config, batch)), seen

    @contextmanager
    def base_of(self, model: Network) -> Iterator[Network | None]:
        """The network that the run continues from, its own without adapters where it has some; None: it names none."""
        if self.config.model.adapters is not None:
            with without_adapters(model):
                yield model
        else:
            yield None if self.reference is None else self.reference.model(next(model.parameters()).device)
