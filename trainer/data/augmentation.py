"""Flips and crops of images, drawn anew each time that one is trained on."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform
from netsim.foundation.settings import Section


class AugmentConfig(Section):
    """What is done to an image before it is trained on; held-out images stay as they are."""

    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability that it is mirrored left to right. 0.5 where left and right mean nothing; 0 for digits and text."""
    crop: NonNegativeInt = 0
    """Pixels that it is shifted by at most, up or down and left or right; its reflection fills what comes free."""


Augment = Annotated[AugmentConfig | None, Field(exclude_if=lambda augment: augment is None)]
"""None is not written: runs from before there were any keep their identity."""


def check_augment(augment: AugmentConfig | None, shape: tuple[int, ...]) -> None:
    """Refuses, with a ValueError, crops that an example's shape is too small for, and examples that are no images."""
    if augment is None:
        return
    if len(shape) != 3:
        raise ValueError(f"augment: is for images, and these examples have shape {list(shape)}; leave it out")
    side = min(shape[1:])
    if augment.crop >= side:
        problem = f"{augment.crop} pixels are too large a shift for an image of {side}"
        raise ValueError(f"augment.crop: {problem}; use {side // 8} to {side - 1}")


def augmented(augment: AugmentConfig, images: Tensor, ids: Tensor, positions: Tensor, *, seed: int) -> Tensor:
    """Flips and crops images [B, C, H, W].

    The draws of an image depend on the seed, on its id and on its position in the stream of all epochs alone: neither
    on the batch that it is in nor on the rank that reads it.
    """
    keys = fold_in(fold_in(torch.tensor(derive_seed(seed, "augment")), ids), positions)
    flipped, down, right = (uniform(fold_in(keys, number))[:, None] for number in range(3))
    rows = _reflected(_shift(down, augment.crop), images.shape[2])
    columns = _reflected(_shift(right, augment.crop), images.shape[3])
    columns = torch.where(flipped < augment.flip, columns.flip(1), columns)
    taken = images.gather(2, rows[:, None, :, None].expand_as(images))
    return taken.gather(3, columns[:, None, None].expand_as(images))


def _shift(drawn: Tensor, most: int) -> Tensor:
    """From -most to most, each equally likely."""
    return (drawn * (2 * most + 1)).long() - most


def _reflected(shift: Tensor, length: int) -> Tensor:
    """Which pixels [B, length] stand where, each picture shifted by its own [B, 1] and mirrored at its border."""
    places = (torch.arange(length) + shift).abs()
    return length - 1 - (length - 1 - places).abs()
