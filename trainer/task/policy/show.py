"""Pictures of what a policy draws, with what each example is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from trainer.config.sample import ImageSample
from trainer.flow.reward import Reward
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.grid_layout import CELL_PIXELS
from trainer.sampling.headings import headings_above
from trainer.sampling.image_grid import image_grid
from trainer.sampling.scatter import scatter_plot

MINUS = "\N{MINUS SIGN}"
"""Lines break behind a hyphen."""


def show_rewards(now: TrainedFlow, before: TrainedFlow | None, reward: Reward, path: Path, *, seed: int) -> None:
    """Draws the ``sample`` of a flow, with rewards; rank 0 writes it; collective.

    A grid of images has a column a class; below each image is its reward, above each row that of `before`, the flow
    that it began as, from the same noise. Points have a plot for each flow.
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
        words = [
            f"{name} {value:.2f}".replace("-", "\N{MINUS SIGN}")
            for name, own in rewards.items()
            for value in own.tolist()
        ]
        told = with_words(torch.cat([*examples.values()]), words).chunk(len(examples))
        rows = zip(*(one.split(columns) for one in told), strict=True)
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
    """Rewards [N] on the CPU."""
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
