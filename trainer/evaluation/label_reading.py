"""Classes and masks that a symmetric flow reads from held-out images, in one evaluation of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import trainer.data
from moe.seeds import fold_in
from netsim.foundation.page import Block, Facts, Figure, Section
from netsim.foundation.sheet import Column, sheet
from trainer.config.derived import drawable
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.evaluation.clustering import confusion_chart
from trainer.evaluation.quality import ClassJudge
from trainer.evaluation.readings import Reading
from trainer.flow import Condition
from trainer.flow.coupling import Symmetric
from trainer.flow.coupling.protocol import keyed_normals
from trainer.flow.label_field import Channels
from trainer.sampling.conditioning import names_or_numbers
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import keys_of

PICTURES = 10
"""Images that a page shows with their masks."""
THRESHOLDS = 64
"""Levels of brightness among which the rival takes the best one on the training images."""


@dataclass(frozen=True, eq=False)
class MaskReading:
    """How well masks are read.

    Attributes:
        images: held-out images that were read.
        overlap: intersection over union of what is above 0, over all pixels and channels, by the number of noises whose
            fields are averaged.
        threshold: the same overlap for a threshold on the images' brightness, the best one on the training images.
        shown: some images [H, W] or [H, W, 3] in [0, 1], each with its mask and the mask that is read, [H, W] of the
            first channel; empty where examples are no images.
    """

    images: int
    overlap: dict[int, float]
    threshold: float
    shown: Sequence[tuple[NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_]]]
    name: ClassVar[str] = "masks"

    def to_dict(self) -> dict[str, Any]:
        overlap = {str(noises): value for noises, value in self.overlap.items()}
        return {"images": self.images, "intersection_over_union": overlap, "threshold": self.threshold}

    def remarks(self) -> list[str]:
        values = ", ".join(f"{value:.3f} with {noises_in_words(number)}" for number, value in self.overlap.items())
        rival = f"a threshold on the brightness {self.threshold:.3f}"
        return [f"masks of {self.images:,} held-out images: intersection over union {values}; {rival}"]

    def section(self) -> Section:
        facts = [
            (noises_in_words(number).capitalize(), f"{value:.3f}", "intersection over union of the masks that are read")
            for number, value in self.overlap.items()
        ]
        facts.append(("Threshold", f"{self.threshold:.3f}", "on the brightness of the image, best on training images"))
        caption = "Held-out images, their masks, and the masks that are read in one evaluation."
        shown = [Figure(self._sheet(), caption)] if self.shown else []
        return Section("Masks it reads", [Facts(facts), *shown])

    def _sheet(self) -> str:
        columns = [Column("", [image, mask.astype(float), read.astype(float)]) for image, mask, read in self.shown]
        return sheet(columns, rows=("image", "mask", "read"), name="masks")


def read_masks(
    config: RunConfig, learned: Batch, batch: Batch, fields: Mapping[int, torch.Tensor], channels: int
) -> MaskReading:
    """Compares the first channels of fields [N, P, H, W], by number of noises, with the contexts of held-out images."""
    assert batch.context is not None
    assert learned.context is not None
    truth = (batch.context > 0).numpy()
    read = {noises: (field[:, :channels] > 0).numpy() for noises, field in fields.items()}
    most = max(read)
    shown = [
        (image, truth[n, 0], read[most][n, 0]) for n, image in enumerate(as_shown(config, batch.x_1.numpy()[:PICTURES]))
    ]
    overlap = {noises: _overlap(one, truth) for noises, one in read.items()}
    return MaskReading(len(truth), overlap, _by_threshold(learned, batch), shown)


def as_shown(config: RunConfig, images: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Images [N, C, H, W] in [-1, 1] as [H, W] or [H, W, 3] in [0, 1]; none of latents and of other channels."""
    if images.ndim != 4 or not drawable(config) or config.data_are_latents:
        return []
    shown = (images.transpose(0, 2, 3, 1).clip(-1, 1) + 1) / 2
    return [image.squeeze(-1) if image.shape[-1] == 1 else image for image in shown]


def noises_in_words(number: int) -> str:
    """A number of noises in words."""
    return f"{number} noise{'s' * (number > 1)}"


def _overlap(read: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    union = (read | truth).sum()
    return float((read & truth).sum() / union) if union else 1.0


def _by_threshold(learned: Batch, batch: Batch) -> float:
    """Returns the overlap of held-out masks with a threshold on the brightness, the best one on training images."""
    assert learned.context is not None
    assert batch.context is not None
    bright, masks = learned.x_1.mean(1, keepdim=True).numpy(), (learned.context > 0).numpy()
    levels = np.linspace(bright.min(), bright.max(), THRESHOLDS + 2)[1:-1]
    side, level = max(
        ((side, level) for side in (1, -1) for level in levels),
        key=lambda one: _overlap(np.broadcast_to(one[0] * (bright - one[1]) > 0, masks.shape), masks),
    )
    unseen, truth = batch.x_1.mean(1, keepdim=True).numpy(), (batch.context > 0).numpy()
    return _overlap(np.broadcast_to(side * (unseen - level) > 0, truth.shape), truth)


TOGETHER = 250
"""Images that are read at once."""
MOST_IMAGES = 10_000
ROWS, COLUMNS = 2, 12
"""Rows and columns of the sheet of misread images."""
AVERAGED = 8
"""Noises whose codes are averaged before they are decoded."""


@dataclass(frozen=True, eq=False)
class LabelReading:
    """How well classes are read.

    Attributes:
        images: held-out images that were read.
        accuracy: share that is read as its class, by the number of noises whose codes are averaged.
        regression: the same of a logistic regression on the training images alone.
        confusion: int [K, K] images by class and by the class that is read with `AVERAGED` noises.
        misread: some images [H, W] or [H, W, 3] in [0, 1] that are read wrong, each with the class that is read; empty
            where examples are no images.
        names: of the classes.
    """

    images: int
    accuracy: dict[int, float]
    regression: float
    confusion: NDArray[np.int64]
    misread: Sequence[tuple[NDArray[np.floating], int]]
    names: Sequence[str]
    name: ClassVar[str] = "labels"

    def to_dict(self) -> dict[str, Any]:
        accuracy = {str(noises): share for noises, share in self.accuracy.items()}
        return {
            "images": self.images,
            "accuracy": accuracy,
            "logistic_regression": self.regression,
            "confusion": self.confusion.tolist(),
        }

    def remarks(self) -> list[str]:
        shares = ", ".join(f"{share:.1%} with {noises_in_words(number)}" for number, share in self.accuracy.items())
        rival = f"logistic regression on pixels {self.regression:.1%}"
        return [f"classes of {self.images:,} held-out images read in one evaluation: {shares}; {rival}"]

    def section(self) -> Section:
        facts = [
            (noises_in_words(number), f"{share:.1%}", "of the images are read as their class")
            for number, share in self.accuracy.items()
        ]
        facts.append(("Logistic regression", f"{self.regression:.1%}", "on the pixels of the training images"))
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        row, column = (int(place) for place in np.unravel_index(wrong.argmax(), wrong.shape))
        most = ""
        if wrong.any():
            most = f"{self.names[row]} is read as {self.names[column]} most often ({wrong.max()} times). "
        caption = f"Shares of the images of a class, which is a row, by the class that is read with {AVERAGED} noises."
        blocks: list[Block] = [
            Facts(facts),
            Figure(confusion_chart(self.confusion, self.names, "class that is read"), f"{caption} {most}".strip()),
        ]
        if self.misread:
            blocks.append(Figure(self._wrong(), "Images that are read wrong, above the class that is read."))
        return Section("What it reads", blocks)

    def _wrong(self) -> str:
        columns = [self.misread[column::COLUMNS] for column in range(min(COLUMNS, len(self.misread)))]
        rows, places = len(columns[0]), list[Column]()
        for column in columns:
            images, names = [image for image, _ in column], [self.names[read] for _, read in column]
            empty = rows - len(column)
            places.append(Column("", [*images, *[None] * empty], [*names, *[""] * empty]))
        return sheet(places, name="misread")


def read_labels(flow: TrainedFlow, *, seed: int, progress: Callable[[str], None]) -> list[Reading]:
    """Reads the classes and masks of held-out images with `AVERAGED` noises each; empty if states have no label."""
    coupling, config = flow.parts.coupling, flow.config
    if not isinstance(coupling, Symmetric):
        return []
    dataset = trainer.data.build(config.data)
    learned = dataset.get(trainer.data.first_data_points(dataset, "train", MOST_IMAGES))
    ids = trainer.data.first_data_points(dataset, "held_out", MOST_IMAGES)
    batch = dataset.get(ids)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[int, list[torch.Tensor]] = {1: [], AVERAGED: []}
    for rows in torch.arange(len(ids)).split(TOGETHER):
        progress(f"reading labels of {len(ids)} held-out images, {int(rows[0])} done")
        images = flow.parts.states_of(batch.x_1[rows].to(flow.device), generator)
        codes = torch.stack([_codes(flow, images, rows, noise, seed=seed) for noise in range(AVERAGED)])
        for noises, of_noises in parts.items():
            of_noises.append(codes[:noises].mean(0))
    fields = {noises: torch.cat(of_noises) for noises, of_noises in parts.items()}
    readings: list[Reading] = []
    read = {noises: coupling.field().decode(field, config.data.num_classes) for noises, field in fields.items()}
    classes = {noises: one.numpy() for noises, one in read.items() if one is not None}
    if classes:
        readings.append(_of_classes(config, learned, batch, classes))
    if isinstance(coupling.label, Channels):
        readings.append(read_masks(config, learned, batch, fields, coupling.label.num))
    return readings


def _of_classes(config: RunConfig, learned: Batch, batch: Batch, read: Mapping[int, NDArray[np.int64]]) -> LabelReading:
    assert batch.labels is not None
    assert learned.labels is not None
    truth = batch.labels.numpy()
    confusion = np.zeros((config.data.num_classes,) * 2, np.int64)
    np.add.at(confusion, (truth, read[AVERAGED]), 1)
    judge = ClassJudge(learned.x_1.numpy(), learned.labels.numpy())
    return LabelReading(
        len(truth),
        {noises: float((one == truth).mean()) for noises, one in read.items()},
        judge.accuracy(batch.x_1.numpy(), truth),
        confusion,
        _pictures(config, batch.x_1.numpy(), read[AVERAGED], read[AVERAGED] != truth),
        names_or_numbers(config),
    )


def _pictures(
    config: RunConfig, images: NDArray[np.floating], read: NDArray[np.int64], wrong: NDArray[np.bool_]
) -> list[tuple[NDArray[np.floating], int]]:
    """Returns the first misread images of [N, C, H, W] in [-1, 1] with the class read; none if they cannot be shown."""
    some = np.flatnonzero(wrong)[: ROWS * COLUMNS]
    return list(zip(as_shown(config, images[some]), read[some].tolist(), strict=False))


@torch.no_grad()
def _codes(flow: TrainedFlow, images: torch.Tensor, rows: torch.Tensor, noise: int, *, seed: int) -> torch.Tensor:
    """Returns the codes [B, P, *rest] at t = 0, one step back from images [B, C, *rest] and noise, on the CPU."""
    planes = flow.parts.fields["label"]
    drawn = keyed_normals((planes, *images.shape[2:]), fold_in(keys_of(rows, "reading", seed=seed), noise))
    assert isinstance(flow.parts.coupling, Symmetric)
    drawn = flow.parts.coupling.field().fill(drawn.to(flow.device))
    time = torch.ones(len(images), device=flow.device)
    velocity = flow.model(torch.cat([images, drawn], dim=1), time, Condition()).to(drawn.dtype)
    return (drawn - velocity[:, -planes:]).cpu()
