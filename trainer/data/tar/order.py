"""The order of an epoch of tars: shuffled, the same on any number of ranks, and read from front to back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def streamed_order(
    stretches: Sequence[NDArray[np.int64]], *, seed: int, epoch: int, global_batch: int, streams: int, shuffle: int
) -> NDArray[np.int64]:
    """Orders examples so that each rank reads a few tars from front to back, however many ranks there are.

    The tars are shuffled and laid end to end in a circle, which is cut at a random place and then into `streams` pieces
    of equal length, wherever that falls, so that neighbours part from epoch to epoch. Inside a stream, runs of
    `shuffle` neighbours are shuffled among each other. A step takes as many examples from each stream, and those of a
    stream lie side by side in the global batch: example j of the G of a step is one of stream floor(j S / G). Ranks
    take consecutive parts of the global batch, so rank r of W reads the streams from r S / W to (r + 1) S / W and
    nothing else, each of them step by step from its beginning to its end.

    The number of streams is a setting and W does not enter, so the order depends on step, seed, data and settings
    alone. Where S is less than W, ranks share streams, and what they read anew for each run of neighbours overlaps;
    each byte is read once where S is at least W. A step sees S places of the data set at once, and examples that lie
    within `shuffle` of each other come in random order; WebDataset's own shuffles are of that kind, with as many
    streams as it has workers.

    Args:
        stretches: the ids in each tar, in the order in which they lie there.
        streams: S, 1 or more; no more than G, `global_batch`, are used.

    Returns:
        int64 [N], all ids; example k is number (epoch * N + k) % G of its step.
    """
    generator = np.random.default_rng([seed, epoch])
    line = np.concatenate([stretches[tar] for tar in generator.permutation(len(stretches))])
    line = np.roll(line, generator.integers(len(line)))
    streams = min(streams, global_batch, 2**16)
    stream = ((epoch * len(line) + np.arange(len(line))) % global_batch * streams // global_batch).astype(np.uint16)
    lengths = np.bincount(stream, minlength=streams)
    place = np.arange(len(line)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    runs = np.cumsum(place % shuffle == 0)
    shuffled = line[np.argsort(runs + generator.random(len(line)), kind="stable")]
    order = np.empty_like(line)
    order[np.argsort(stream, kind="stable")] = shuffled
    return order
