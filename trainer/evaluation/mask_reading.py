"""How well a symmetric flow reads masks, beside a threshold on the brightness of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from moe.report.figures import INK, STYLE, to_svg
from netsim.foundation.page import Facts, Figure, Section
from trainer.config.derived import drawable
from trainer.config.run import RunConfig
from trainer.data import Batch

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
        threshold: the same of the images' own brightness above or below the best threshold of the training images.
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
        blocks = [Facts(facts)]
        caption = "Held-out images, their masks, and the masks that are read in one evaluation."
        return Section("Masks it reads", [*blocks, Figure(self._chart(), caption)] if self.shown else blocks)

    def _chart(self) -> str:
        with mpl.rc_context(STYLE):
            picture = Picture(figsize=(11.0, 3.6), layout="constrained")
            grid = picture.subplots(3, PICTURES, squeeze=False)
            for axes in grid.flat:
                axes.set_axis_off()
            for number, column in enumerate(self.shown):
                for axes, image in zip(grid[:, number], column, strict=True):
                    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            for axes, heading in zip(grid[:, 0], ("image", "mask", "read"), strict=True):
                axes.set_title(heading, fontsize=9, color=INK, pad=2, loc="left")
            return to_svg(picture)


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
    """A number of noises, for a person."""
    return f"{number} noise{'s' * (number > 1)}"


def _overlap(read: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    union = (read | truth).sum()
    return float((read & truth).sum() / union) if union else 1.0


def _by_threshold(learned: Batch, batch: Batch) -> float:
    """Overlap of held-out masks with a threshold on the brightness that is the best one on the training images."""
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
