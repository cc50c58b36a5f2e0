"""Times of tokens as times of the values that belong to them."""

import math

from torch import Tensor


def by_value(s: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Gives each value of a state the time of its token.

    The tokens of an image are equal squares that cover it row by row; a vector is one token.

    Args:
        s: [.., N] times of the tokens.
        shape: (C, H, W) of an image, or (P,) of a vector.

    Returns:
        [.., 1, H, W], or [.., 1], which broadcasts with the state.
    """
    if len(shape) == 1:
        return s
    _, height, width = shape
    side = math.isqrt(height * width // s.shape[-1])
    rows = s.unflatten(-1, (height // side, width // side))
    return rows.repeat_interleave(side, -2).repeat_interleave(side, -1).unsqueeze(-3)
