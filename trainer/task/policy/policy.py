"""Shared parts of tasks that draw from their own flow and learn from the draws: reward, base and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from trainer.config.derived import drawable
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.config.task import AdjointMatchingConfig, GRPOConfig
from trainer.data import Batch
from trainer.evaluation.judgement import real_examples
from trainer.flow import Condition, reward
from trainer.flow.context import Seen, Space
from trainer.flow.reward import CheckedReward, Reward
from trainer.flow.sampler import Field
from trainer.model.adapted import without_adapters
from trainer.model.network import Network
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.sampling.conditioning import Conditioning, tasks_of
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.sampling.pictures import CELL_PIXELS, headings_above, image_grid, scatter_plot
from trainer.sampling.preview import preview
from trainer.sampling.trained import Reference
from trainer.training.task import D, MicroBatchTask, Networks


def reward_of(config: RunConfig, chosen: reward.AnyConfig, space: Space) -> reward.CheckedReward:
    """The reward of a run's draws; a fitted reward learns from the first training examples."""

    def labelled() -> tuple[Tensor, Tensor]:
        examples, labels = real_examples(config, space)
        return examples, torch.zeros(len(examples), dtype=torch.int64) if labels is None else labels

    inputs = reward.RewardInputs(config.decoded_shape, config.data.num_classes, labelled, config.run.seed)
    return chosen.build(inputs)


MINUS = "\N{MINUS SIGN}"
"""A minus sign, at which lines do not break, as they do after a hyphen."""


def show_rewards(now: TrainedFlow, before: TrainedFlow | None, reward: Reward, path: Path, *, seed: int) -> None:
    """Draws the ``sample`` of a flow, with rewards; rank 0 writes it; collective.

    A grid of images has a column a class; below each image is its reward. Above each row is a row of `before`, the flow
    before training, from the same noise. Points have a plot for each flow.
    """
    sample, config = now.sample, now.config
    images = isinstance(sample, ImageSample)
    columns = config.data.num_classes or (sample.per_class if images else 1)
    conditioning = now.conditioning(columns * sample.per_class if images else sample.num, seed=seed, shown=False)
    flows = {"base": before, "now": now}
    drawn = {
        name: flow.draw(conditioning.condition, guidance=sample.guidance, seed=seed)
        for name, flow in flows.items()
        if flow is not None
    }
    if dist.get_rank() > 0:
        return
    examples = {name: now.decode(states, conditioning) for name, states in drawn.items()}
    rewards = {name: _rewards(reward, shown, conditioning, now.device) for name, shown in examples.items()}
    if images:
        values = [(name, value) for name, values_of_kind in rewards.items() for value in values_of_kind.tolist()]
        words = [f"{name} {value:.2f}".replace("-", MINUS) for name, value in values]
        labelled = with_words(torch.cat([*examples.values()]), words).chunk(len(examples))
        rows = zip(*(one.split(columns) for one in labelled), strict=True)
        headings = conditioning.headings(config.data.class_names, columns)
        image_grid(torch.cat([row for pair in rows for row in pair]).numpy(), columns, path, headings)
    else:
        _plot(now, examples, rewards, path)


def with_words(images: Tensor, words: Sequence[str]) -> Tensor:
    """Images [N, C, H', W'] above strips of one height in which words are written; small images are enlarged first."""
    factor = max(1, CELL_PIXELS // max(images.shape[-2:]))
    enlarged = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    num, channels, _, width = enlarged.shape
    strip = headings_above(words, width, 0, num * width)
    values = torch.from_numpy(strip.astype(np.float32)) / 127.5 - 1
    cells = values.view(-1, num, width).transpose(0, 1)[:, None].expand(-1, channels, -1, -1)
    return torch.cat([enlarged, cells], dim=2)


def _rewards(reward: Reward, examples: Tensor, conditioning: Conditioning, device: torch.device) -> Tensor:
    with torch.no_grad():
        return reward(examples.to(device), conditioning.condition.to(device)).float().cpu()


def _plot(flow: TrainedFlow, examples: dict[str, Tensor], rewards: dict[str, Tensor], path: Path) -> None:
    """Plots the points of each flow beside as many of the data."""
    dataset = trainer.data.build(flow.config.data)
    num = len(next(iter(examples.values())))
    real = dataset.get(trainer.data.first_data_points(dataset, "train", num)).x_1
    panels = {"data": (real.numpy(), None)}
    panels |= {
        f"{name}: mean reward {float(rewards[name].mean()):.3g}": (points.numpy(), None)
        for name, points in examples.items()
    }
    scatter_plot(panels, path, fitting=panels.keys())


class PolicyTask(MicroBatchTask[D]):
    """A task with rewards whose flow starts from a base, the run `reference` (None if adapted or absent)."""

    def __init__(self, config: RunConfig, chosen: GRPOConfig | AdjointMatchingConfig) -> None:
        self.config, self.parts = config, FlowParts(config)
        self.reward = None if chosen.reward is None else reward_of(config, chosen.reward, self.parts.space)
        another = chosen.base if config.model.adapters is None else None
        self.reference = None if another is None else Reference.of_run(another)
        self._guidance = chosen.guidance

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:
        """Writes examples of the base and of this run from the same noise, with their rewards."""
        if isinstance(self.config.sample, ImageSample) and not drawable(self.config):
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
        """Measures the flow, and the mean rewards of drawn and of real examples."""
        from trainer.evaluation.measurement import FlowMeasurement  # scikit-learn takes a second to import

        with networks.average() as model:
            flow = TrainedFlow(self.config, self.parts, model, spec.checkpoint)
            return FlowMeasurement.of(flow, spec, progress, self.reward)

    def state(self) -> dict[str, Any]:
        """Settles the reward's check first, so that no checkpoint follows a reward that is not finite."""
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

    def prompts_of(self, batch: Batch, generator: torch.Generator) -> tuple[Condition, Seen | None]:
        """Conditions of the draws, with nothing dropped, and the visible part of an image for each, if any."""
        seen = None
        if self.parts.context is not None:
            seen = self.parts.context.draw(batch.x_1, self.parts.space, generator=generator)
        context = batch.context if seen is None else seen.context
        return Condition(batch.labels, context, caption=batch.captions, task=tasks_of(self.config, batch)), seen

    @contextmanager
    def base_of(self, model: Network) -> Iterator[Network | None]:
        """The base network: the run's own without its adapters if it has some, else the reference's; None: no base."""
        if self.config.model.adapters is not None:
            with without_adapters(model):
                yield model
        else:
            yield None if self.reference is None else self.reference.model(next(model.parameters()).device)
