"""Conditions that samples are drawn for: the classes in turn, or the contexts of held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import trainer.data
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.flow import Condition
from trainer.flow.context import Seen
from trainer.sampling.flow import FlowParts
from trainer.sampling.source import keys_of, source_samples
from trainer.sampling.tasks import tasks_in_turn, tasks_of


@dataclass(frozen=True)
class Conditioning:
    """The conditions of N examples that are drawn.

    Attributes:
        seen: the visible part of an image of each; None: nothing is visible.
        originals: those images [N, C, H, W]; None where nothing is visible of any.
        beginnings: images [N, C, H, W] that paths begin at; None: they begin at noise, or the examples are no images.
        captions: those that a person asked for, which the examples have in turn; empty: nobody did.
    """

    condition: Condition
    seen: Seen | None = None
    originals: Tensor | None = None
    beginnings: Tensor | None = None
    captions: tuple[str, ...] = ()

    @property
    def labels(self) -> Tensor:
        """int64 [N]; where there are no classes, all 0."""
        assert self.condition.label is not None
        return self.condition.label

    def of_task(self, task: int) -> Conditioning:
        """The same conditions for one task of routed adapters."""
        return replace(self, condition=replace(self.condition, task=torch.full_like(self.labels, task)))

    def completed(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] that were drawn, with their visible pixels in their places."""
        return images if self.seen is None else self.seen.completed(images)

    def columns(self) -> int:
        """Images a row of a grid: one for each class or caption in turn, or else as many as there are rows."""
        if self.captions:
            return len(self.captions)
        labels = self.labels.tolist()
        turn = len(set(labels))
        in_turn = all(label == labels[place % turn] for place, label in enumerate(labels))
        return turn if turn > 1 and in_turn else math.isqrt(len(labels) - 1) + 1

    def headings(self, names: tuple[str, ...], columns: int) -> tuple[str, ...]:
        """Captions or class names above the columns of a grid; empty where there are none, or a column has several
        classes.
        """
        if self.captions:
            return self.captions
        of_columns = [set(self.labels[column::columns].tolist()) for column in range(columns)]
        if not names or any(len(labels) != 1 for labels in of_columns):
            return ()
        return tuple(names[label] for labels in of_columns for label in labels)

    def pictures(self, images: Tensor, columns: int) -> Tensor:
        """Rows of a grid: beginnings and visible parts, images [N, C, H, W], originals, as far as there are any; white
        fills rows.
        """
        visible = None if self.seen is None else self.seen.picture
        shown = [part for part in (self.beginnings, visible, images, self.originals) if part is not None]
        if len(shown) == 1:
            return images
        white = torch.ones_like(images[:1]).expand(-len(images) % columns, -1, -1, -1)
        rows = (torch.cat([part, white]).split(columns) for part in shown)
        return torch.cat([row for together in zip(*rows, strict=True) for row in together])


def conditioning_for(
    config: RunConfig, parts: FlowParts, num: int, *, seed: int, classes: Sequence[int] = (), shown: bool = True
) -> Conditioning:
    """Conditions of examples: the classes in turn (0 where there are none), each turn of the next task of a run with
    tasks.

    Where the network reads a context, those of the first held-out images, perhaps fewer than `num`.

    Args:
        config: the run.
        parts: of its flow; its context hides parts of images.
        num: examples.
        seed: with the number of an example, it decides what is hidden of an image.
        classes: those that are drawn; empty: all.
        shown: whether a person will see the examples beside what their paths begin at, which is then drawn too.
    """
    captions = config.flow and config.flow.captions
    if parts.context is None and captions is not None:
        batch = _held_out(config, num)
        label = torch.zeros(len(batch.x_1), dtype=torch.int64) if batch.labels is None else batch.labels
        return Conditioning(Condition(label=label, caption=batch.captions, task=tasks_of(config, batch)))
    if parts.context is None:
        chosen = torch.tensor(classes or range(max(1, config.data.num_classes)))
        label = chosen[torch.arange(num) % len(chosen)]
        condition = Condition(label=label, task=tasks_in_turn(config, num, len(chosen)))
        return Conditioning(condition, beginnings=_beginnings(config, num, seed) if shown else None)
    batch = _held_out(config, num)
    images, labels = batch.x_1, batch.labels
    keys = [key & (2**63 - 1) for key in keys_of(torch.arange(len(images)), "context", seed=seed).tolist()]
    seen = [
        parts.context.draw(image[None], parts.space, generator=torch.Generator().manual_seed(key))
        for key, image in zip(keys, images, strict=True)
    ]
    together = Seen(
        context=torch.cat([one.context for one in seen]),
        picture=torch.cat([one.picture for one in seen]),
        hole=torch.cat([one.hole for one in seen]),
    )
    label = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    task = tasks_of(config, batch)
    condition = Condition(label=label, context=together.context, caption=batch.captions, task=task)
    return Conditioning(condition, together, images, _beginnings(config, len(images), seed))


def _held_out(config: RunConfig, num: int) -> trainer.data.Batch:
    """The first held-out examples, at most so many."""
    dataset = trainer.data.build(config.data, captions=config.flow and config.flow.captions)
    return dataset.get(trainer.data.first_data_points(dataset, "held_out", num))


def _beginnings(config: RunConfig, num: int, seed: int) -> Tensor | None:
    if config.source_data is None or not isinstance(config.sample, ImageSample):
        return None
    return source_samples(config, torch.arange(num), seed=seed)
