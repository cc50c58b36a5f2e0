"""The part of a picture that an edit must not change."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from trainer.data.picture import BadPicture, read_picture


def read_held(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Reads a mask, cut and resized as pictures are: float32 [1, 1, H, W], 0 (white, edited) to 1 (black, held)."""
    try:
        white = torch.from_numpy(read_picture(path, 1, *shape[1:]).copy()).float() / 255
    except BadPicture as error:
        remedy = "give a picture that is white where pictures are edited"
        raise ValueError(f"mask: {path} cannot be read ({error}); {remedy}") from error
    if not bool((white > 0).any()):
        raise ValueError(
            f"mask: {path} is black all over, so that nothing would be edited; make the part to edit white"
        )
    return 1 - white[None]


def held_states(held: Tensor, state_shape: tuple[int, ...]) -> Tensor:
    """Mean over the pixels [1, 1, H, W] that each value of a state (Z, h, w) stands for: float32 [1, 1, h, w]."""
    return functional.interpolate(held, size=state_shape[1:], mode="area")
