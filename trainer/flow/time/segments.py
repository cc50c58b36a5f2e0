"""Equal segments of time.

Segment m of M holds the times from m / M up to, but not including, (m + 1) / M; the last one holds t = 1 too.
"""

import torch
from torch import Tensor


def segment_of(t: Tensor, segments: int) -> Tensor:
    """The segment of each time; a time at an edge belongs to the segment that starts there.

    Args:
        t: [B] times in [0, 1].
        segments: M, at least 1.

    Returns:
        int64 [B], 0 to M - 1.
    """
    edges = torch.arange(1, segments, dtype=t.dtype, device=t.device) / segments  # not t M, which would be rounded
    return torch.bucketize(t, edges, right=True)


def start_of(segment: Tensor, segments: int, like: Tensor) -> Tensor:
    """The first time of each segment int64 [B] of M, [B] in the type of `like`."""
    return segment.to(like.dtype) / segments


def share_behind(t: Tensor, segment: Tensor | int, segments: int) -> Tensor:
    """The elapsed share of its segment at each time [B]: 0 at the first time of the segment, 1 at its end."""
    return (t * segments - segment).clamp(0, 1)
