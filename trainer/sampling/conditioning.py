"""What examples are drawn for: classes in turn, or what is known of held-out images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import trainer.data
from moe.random.seed import derive_seed
from trainer.config.run import ImageSample, RunConfig
from trainer.flow import Condition
from trainer.flow.context import Seen
from trainer.sampling.source import starts
from trainer.task import FlowTask


@dataclass(frozen=True)
class Given:
    """What each of N examples is drawn for.

    Attributes:
        condition: what the network is told.
        seen: what is known of an image of each; None: nothing.
        originals: those images [N, C, H, W]; None where nothing is known of any.
        beginnings: images [N, C, H, W] that paths begin at; None: they begin at noise, or the examples are no images.
    """

    condition: Condition
    seen: Seen | None = None
    originals: Tensor | None = None
    beginnings: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """int64 [N]; where there are no classes, all 0."""
        assert self.condition.label is not None
        return self.condition.label

    def completed(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] that were drawn, with the pixels that are known of them in their places."""
        return images if self.seen is None else self.seen.completed(images)

    def pictures(self, images: Tensor, columns: int) -> Tensor:
        """What a grid shows, row by row.

        Args:
            images: [N, C, H, W] completed ones.
            columns: images a row.

        Returns:
            The images; above each row one of what they began at, and one of what is known of them, and below it one of
            originals, as far as there are any, with white where the last rows have no more.
        """
        known = None if self.seen is None else self.seen.picture
        shown = [part for part in (self.beginnings, known, images, self.originals) if part is not None]
        if len(shown) == 1:
            return images
        white = torch.ones_like(images[:1]).expand(-len(images) % columns, -1, -1, -1)
        rows = (torch.cat([part, white]).split(columns) for part in shown)
        return torch.cat([row for together in zip(*rows, strict=True) for row in together])


def given(config: RunConfig, task: FlowTask, num: int, *, seed: int) -> Given:
    """Chooses what examples are drawn for.

    Args:
        config: the run.
        task: knows what is told of an image.
        num: examples.
        seed: of what is drawn to hide parts of images; it and the number of an example decide.

    Returns:
        Classes in turn (0 where there are none); where a network is told something of an image, the first so many of
        those held out, fewer if there are fewer.
    """
    if task.context is None:
        label = torch.arange(num) % max(1, config.data.num_classes)
        return Given(Condition(label=label), beginnings=_beginnings(config, num, seed))
    dataset = trainer.data.build(config.data)
    batch = dataset.get(trainer.data.first_data_points(dataset, "held_out", num))
    images, labels = batch.x_1, batch.labels
    seen = [
        task.context.draw(
            image[None], task.space, generator=torch.Generator().manual_seed(derive_seed(seed, "context", number))
        )
        for number, image in enumerate(images)
    ]
    together = Seen(
        context=torch.cat([one.context for one in seen]),
        picture=torch.cat([one.picture for one in seen]),
        hole=torch.cat([one.hole for one in seen]),
    )
    label = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    condition = Condition(label=label, context=together.context)
    return Given(condition, together, images, _beginnings(config, len(images), seed))


def _beginnings(config: RunConfig, num: int, seed: int) -> Tensor | None:
    if config.starts_at is None or not isinstance(config.sample, ImageSample):
        return None
    return starts(config, torch.arange(num), seed=seed)
