"""Conditions of examples that are drawn: classes, tasks, visible parts of images, and states that paths begin at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch
from torch import Tensor

import trainer.data
from trainer.config.derived import task_names
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.data import Batch
from trainer.flow import Condition
from trainer.flow.context import Seen
from trainer.sampling.flow import FlowParts, keys_of, source_examples

SHOWN = 10
"""Names that an error message lists."""


def chosen_classes(config: RunConfig, words: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the classes in `words`, in their order; a word holds names or numbers, perhaps with commas."""
    if not words:
        return ()
    count, names = config.data.num_classes, config.data.class_names
    if _of_held_out(config):
        raise ValueError("--class: the run draws for held-out examples, which have their classes; leave it out")
    if count == 0:
        raise ValueError("--class: the data of the run have no classes; leave it out")
    classes: list[int] = []
    for word in (part.strip() for text in words for part in ([text] if text in names else text.split(","))):
        number = class_number(config, "--class", word)
        if number in classes:
            raise ValueError(f"--class: {word} is asked for twice; give each class once")
        classes.append(number)
    return tuple(classes)


def class_number(config: RunConfig, field: str, word: str) -> int:
    """The number of the class `word`, a name or else a number; a refusal names `field`."""
    count, names = config.data.num_classes, config.data.class_names
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < count:
        return int(word)
    raise ValueError(f"{field}: there is no class {word}; {_remedy(word, count, names)}")


def names_or_numbers(config: RunConfig) -> tuple[str, ...]:
    """Names of the classes 0, 1, ... of a run; their numbers where they have none."""
    return config.data.class_names or tuple(map(str, range(config.data.num_classes)))


def _remedy(word: str, count: int, names: Sequence[str]) -> str:
    numbers = f"a number from 0 to {count - 1}"
    if not names or tuple(names) == tuple(map(str, range(count))):
        return f"give {numbers}"
    near = get_close_matches(word, names, n=1)
    if near:
        return f"perhaps {near[0]} is meant"
    listed = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    return f"give one of {listed}, or {numbers}"


def tasks_of(config: RunConfig, batch: Batch) -> Tensor | None:
    """The tasks int64 [B] of data examples; None: the run has no tasks. Refuses data without tasks."""
    names = task_names(config)
    if not names:
        return None
    if batch.sources is not None:
        return batch.sources
    if len(names) == 1:
        return torch.zeros_like(batch.ids, device=batch.x_1.device)
    raise ValueError(
        f"data: its examples have no sources, of which the adapters tell {len(names)} apart; give each batch its "
        "`sources`, or set model.adapters.tasks=1"
    )


def tasks_in_turn(config: RunConfig, num: int, together: int = 1) -> Tensor | None:
    """Tasks int64 [num] of drawn examples in turn, each for `together` examples; None: the run has no tasks."""
    names = task_names(config)
    return torch.arange(num) // together % len(names) if names else None


def with_tasks(config: RunConfig, condition: Condition, examples: Tensor) -> Condition:
    """The condition with tasks: those that it has, or tasks in turn by example; unchanged if the run has no tasks."""
    names = task_names(config)
    return condition if condition.task is not None or not names else replace(condition, task=examples % len(names))


def task_number(config: RunConfig, word: str) -> int:
    """The number of the task `word`, a name or else a number."""
    names = task_names(config)
    if not names:
        raise ValueError(f"--task: {word}, and the run has no routed adapters, which tell tasks apart; leave it out")
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise ValueError(f"--task: there is no task {word}; give one of {', '.join(names)}")


@dataclass(frozen=True)
class Conditioning:
    """The conditions of N examples that are drawn.

    Attributes:
        seen: the visible part of an image for each example; None: nothing is visible.
        originals: the whole images [N, C, H, W] of these parts; None where nothing is visible.
        beginnings: images [N, C, H, W] that paths begin at; None if they begin at noise, or examples are no images.
        captions: the requested captions, which examples have in turn; empty: none were requested.
    """

    condition: Condition
    seen: Seen | None = None
    originals: Tensor | None = None
    beginnings: Tensor | None = None
    captions: tuple[str, ...] = ()

    @property
    def labels(self) -> Tensor:
        """Classes int64 [N]; all 0 where there are no classes."""
        assert self.condition.label is not None
        return self.condition.label

    def of_task(self, task: int) -> Conditioning:
        """The same conditions for one task of routed adapters."""
        return replace(self, condition=replace(self.condition, task=torch.full_like(self.labels, task)))

    def completed(self, images: Tensor) -> Tensor:
        """The drawn images [N, C, H, W] with the visible pixels put back."""
        return images if self.seen is None else self.seen.completed(images)

    def columns(self) -> int:
        """Number of images in a row of a grid: one a class or caption if these are in turn, else a square grid."""
        if self.captions:
            return len(self.captions)
        labels = self.labels.tolist()
        turn = len(set(labels))
        in_turn = all(label == labels[place % turn] for place, label in enumerate(labels))
        return turn if turn > 1 and in_turn else math.isqrt(len(labels) - 1) + 1

    def headings(self, names: tuple[str, ...], columns: int) -> tuple[str, ...]:
        """Captions or class names above columns; empty without any, or if a column has several classes."""
        if self.captions:
            return self.captions
        of_columns = [set(self.labels[column::columns].tolist()) for column in range(columns)]
        if not names or any(len(labels) != 1 for labels in of_columns):
            return ()
        return tuple(names[label] for labels in of_columns for label in labels)

    def pictures(self, images: Tensor, columns: int) -> Tensor:
        """Images in rows of a grid: beginnings, visible parts, `images` [N, C, H, W], originals; white fills rows."""
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
    """Conditions of `num` examples: the classes in turn (0 if there are none), each cycle with the next task, if any.

    Where examples need a context or a caption, the first held-out images give it, perhaps fewer than `num`. The seed
    and the number of an example determine the hidden pixels. `shown`: whether a person will see the examples beside the
    beginnings of their paths, which are then drawn too.
    """
    if not _of_held_out(config):
        chosen = torch.tensor(classes or range(max(1, config.data.num_classes)))
        label = chosen[torch.arange(num) % len(chosen)]
        condition = Condition(label=label, task=tasks_in_turn(config, num, len(chosen)))
        return Conditioning(condition, beginnings=_beginnings(config, num, seed) if shown else None)
    batch = _held_out(config, num)
    images = batch.x_1
    label = torch.zeros(len(images), dtype=torch.int64) if batch.labels is None else batch.labels
    condition = Condition(label, batch.context, caption=batch.captions, task=tasks_of(config, batch))
    if parts.context is None:
        if batch.context is None or batch.context.shape[2:] != images.shape[2:] or config.data_are_latents:
            return Conditioning(condition)
        picture = batch.context.mean(1, keepdim=True).expand_as(images)
        seen = Seen(batch.context, picture, torch.ones_like(images[:, :1], dtype=torch.bool))
        return Conditioning(condition, seen, images)
    keys = [key & (2**63 - 1) for key in keys_of(torch.arange(len(images)), "context", seed=seed).tolist()]
    context = parts.context.for_drawing()
    each = [
        context.draw(image[None], parts.space, generator=torch.Generator().manual_seed(key))
        for key, image in zip(keys, images, strict=True)
    ]
    together = Seen(
        context=torch.cat([one.context for one in each]),
        picture=torch.cat([one.picture for one in each]),
        hole=torch.cat([one.hole for one in each]),
    )
    return Conditioning(
        replace(condition, context=together.context), together, images, _beginnings(config, len(images), seed)
    )


def _of_held_out(config: RunConfig) -> bool:
    """Whether the conditions of drawn examples have to come from held-out examples."""
    flow = config.flow
    given = config.data_context_shape is not None
    return flow is not None and (given or flow.context is not None or flow.captions is not None)


def _held_out(config: RunConfig, num: int) -> trainer.data.Batch:
    """The first held-out examples, at most `num`."""
    dataset = trainer.data.build(config.data, captions=config.flow and config.flow.captions)
    return dataset.get(trainer.data.first_data_points(dataset, "held_out", num))


def _beginnings(config: RunConfig, num: int, seed: int) -> Tensor | None:
    if config.source_data is None or not isinstance(config.sample, ImageSample):
        return None
    return source_examples(config, torch.arange(num), seed=seed)
