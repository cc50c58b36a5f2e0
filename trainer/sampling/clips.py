"""Clips as an animated GIF and as a contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from netsim.foundation.files import replacing
from trainer.config.run import RunConfig
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.pictures import image_grid

MILLISECONDS = 250
"""For which a frame is shown."""
LEAST_SIDE = 96
"""Pixels to which small frames of a GIF are enlarged."""
MOST_ACROSS = 8
"""Clips side by side in a GIF."""


def show_clips(config: RunConfig, clips: Tensor, conditioning: Conditioning, path: Path) -> None:
    """Writes clips [N, T C, H, W]: a sheet with a row a clip to `path`, a PNG, and a GIF of all of them beside it.

    A row begins with the frame that the network reads, where it reads one, and has the frames behind it.
    """
    channels = config.frame_channels
    frames = clips.unflatten(1, (-1, channels))
    shown = frames
    if conditioning.seen is not None:
        first = conditioning.seen.picture[:, None, :channels]
        shown = np.concatenate([first, frames], axis=1)
    columns = shown.shape[1]
    numbers = [f"frame {number}" for number in range(1, frames.shape[1] + 1)]
    headings = tuple(["read"] * (columns - len(numbers)) + numbers)
    image_grid(np.asarray(shown).reshape(-1, *shown.shape[2:]), columns, path, headings)
    _animate(np.asarray(frames), path.with_suffix(".gif"))


def _animate(clips: np.ndarray, path: Path) -> None:
    """Writes clips [N, T, C, H, W] beside each other, with a line between them."""
    from PIL import Image

    number, length, channels, height, width = clips.shape
    across, larger = min(number, MOST_ACROSS), max(1, LEAST_SIDE // max(height, width))
    down = -(-number // across)
    cells = np.round((np.nan_to_num(clips).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    cells = cells.repeat(larger, axis=3).repeat(larger, axis=4)
    high, wide = height * larger + 1, width * larger + 1
    pictures = []
    for frame in range(length):
        canvas = np.full((down * high - 1, across * wide - 1, channels), 255, np.uint8)
        for place in range(number):
            top, left = place // across * high, place % across * wide
            canvas[top : top + high - 1, left : left + wide - 1] = cells[place, frame].transpose(1, 2, 0)
        pictures.append(Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas))
    with replacing(path) as temporary:
        options = {"save_all": True, "append_images": pictures[1:], "duration": MILLISECONDS, "loop": 0}
        pictures[0].save(temporary, format="GIF", **options)
