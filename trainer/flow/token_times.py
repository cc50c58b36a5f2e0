"""Times of tokens as times of the values that belong to them."""

import math

from torch import Tensor


def by_value(s: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The time of its token for each value of a state: [.., 1, H, W] of an image (C, H, W), [.., 1] of a vector.

    The times are [.., N]; the tokens of an image are equal squares that cover it row by row, a vector is one token.
    """
    if len(shape) == 1:
        return s
    _, height, width = shape
    side = math.isqrt(height * width // s.shape[-1])
    rows = s.unflatten(-1, (height // side, width // side))
    return rows.repeat_interleave(side, -2).repeat_interleave(side, -1).unsqueeze(-3)
