"""Classes and masks that a symmetric flow reads from held-out images, in one evaluation of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

import trainer.data
from moe.report.figures import INK, STYLE, to_svg
from moe.seeds import fold_in
from netsim.foundation.page import Facts, Figure, Section
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.evaluation.mask_reading import as_shown, noises_in_words, read_masks
from trainer.evaluation.quality import ClassJudge
from trainer.evaluation.reading import Reading
from trainer.flow import Condition
from trainer.flow.coupling import Symmetric
from trainer.flow.coupling.protocol import keyed_normals
from trainer.flow.label_field import Channels
from trainer.sampling.conditioning import names_or_numbers
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import keys_of

TOGETHER = 250
"""Images that are read at once."""
MOST_IMAGES = 10_000
ROWS, COLUMNS = 4, 6
"""Of the pictures of images that are read wrong."""
AVERAGED = 8
"""Noises whose codes are averaged before they are decoded."""


@dataclass(frozen=True, eq=False)
class LabelReading:
    """How well classes are read.

    Attributes:
        images: held-out images that were read.
        accuracy: share that is read as its class, by the number of noises whose codes are averaged.
        regression: the same of a logistic regression on the training images, which knows nothing else.
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
        caption = f"Left: images by class and by the class that is read with {AVERAGED} noises. {most}"
        caption += "Right: images that are read wrong, under the class that is read." if self.misread else ""
        return Section("What it reads", [Facts(facts), Figure(self._chart(), caption.strip())])

    def _chart(self) -> str:
        count = len(self.names)
        with mpl.rc_context(STYLE):
            picture = Picture(figsize=(11.0, 4.6), layout="constrained")
            left, right = np.asarray(picture.subfigures(1, 2)).tolist()
            axes = left.subplots()
            shares = self.confusion / self.confusion.sum(1, keepdims=True).clip(1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(count), self.names, rotation=45 if max(map(len, self.names)) > 2 else 0)
            axes.set_yticks(range(count), self.names)
            axes.set(xlabel="read", ylabel="class")
            for row, column in np.argwhere(self.confusion > 0).tolist():
                ink, number = "white" if shares[row, column] > 0.5 else INK, str(self.confusion[row, column])
                axes.text(column, row, number, ha="center", va="center", color=ink, fontsize=8)
            if self.misread:
                grid = right.subplots(ROWS, COLUMNS, squeeze=False)
                for axes in grid.flat:
                    axes.set_axis_off()
                for axes, (image, read) in zip(grid.flat, self.misread, strict=False):
                    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
                    axes.set_title(self.names[read], fontsize=8, color=INK, pad=2)
            return to_svg(picture)


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
    """The first wrong ones of images [N, C, H, W] in [-1, 1]; none of latents and of what has other channels."""
    some = np.flatnonzero(wrong)[: ROWS * COLUMNS]
    return list(zip(as_shown(config, images[some]), read[some].tolist(), strict=False))


@torch.no_grad()
def _codes(flow: TrainedFlow, images: torch.Tensor, rows: torch.Tensor, noise: int, *, seed: int) -> torch.Tensor:
    """The codes [B, P, *rest] at t = 0 that one step back from images [B, C, *rest] and noise leads to, on the CPU."""
    planes = flow.parts.fields["label"]
    drawn = keyed_normals((planes, *images.shape[2:]), fold_in(keys_of(rows, "reading", seed=seed), noise))
    assert isinstance(flow.parts.coupling, Symmetric)
    drawn = flow.parts.coupling.field().fill(drawn.to(flow.device))
    time = torch.ones(len(images), device=flow.device)
    velocity = flow.model(torch.cat([images, drawn], dim=1), time, Condition()).to(drawn.dtype)
    return (drawn - velocity[:, -planes:]).cpu()
