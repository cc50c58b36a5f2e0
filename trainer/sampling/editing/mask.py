"""The part of a picture that an edit must not change."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from trainer.data.picture import BadPicture, read_picture


def read_held(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Reads a mask, cut and resized as pictures are.

    Args:
        path: a picture; white is edited, black is held, and grey is held in part.
        shape: (C, H, W) of the pictures.

    Returns:
        float32 [1, 1, H, W] of how much of each pixel is held, 0 to 1.

    Raises:
        ValueError: it cannot be read, or all of it is held; names the field, the file and the remedy.
    """
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
    """How much of each value of a state is held.

    Args:
        held: float32 [1, 1, H, W] of the pixels.
        state_shape: (Z, h, w); where states are latents, a value stands for a part of the picture.

    Returns:
        float32 [1, 1, h, w]: the mean over the pixels that a value stands for.
    """
    return functional.interpolate(held, size=state_shape[1:], mode="area")
