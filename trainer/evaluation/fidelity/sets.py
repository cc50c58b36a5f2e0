"""Features of a whole set of examples, block by block, shared out over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from trainer.evaluation.fidelity.gaussian import Gaussian
from trainer.evaluation.fidelity.moments import Moments
from trainer.evaluation.fidelity.precision_recall import parts_of_ranks
from trainer.model.feature_extractor.extractor import Extractor

Group = dist.ProcessGroup | None


class Source(Protocol):
    """Where the examples of a set come from.

    Attributes:
        num: of them.
        together: all ranks must be asked in every round, because they share a network.
    """

    num: int
    together: bool

    def read(self, numbers: Tensor) -> list[Tensor]:
        """Examples by their numbers, int64 [B]: batches [b, *shape] in their order, each of examples of one shape."""
        ...


class RealSource(Source, Protocol):
    """The same of real examples.

    Attributes:
        digest: tells them from others, in hexadecimal.
    """

    digest: str


class Block(NamedTuple):
    """Consecutive examples.

    Attributes:
        examples: int64 [B] their numbers; behind the last example of the set the first ones follow.
        wanted: how many of them count, from the first.
    """

    number: int
    examples: Tensor
    wanted: int


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of a set.

    Attributes:
        gaussian: fitted to all examples of all ranks.
        num: examples of all ranks.
        kept: [M, F] features of those of the first examples that this rank has read.
        size: examples of a block.
    """

    gaussian: Gaussian
    num: int
    kept: Tensor
    size: int

    def in_order(self, group: Group) -> NDArray[np.float32]:
        """The kept features of all ranks in the order of the examples, float32 [M, F]; collective."""
        blocks = [part.cpu().split(self.size) for _, (part,) in parts_of_ranks((self.kept,), group)]
        ordered = [part[turn] for turn in range(len(blocks[0])) for part in blocks if turn < len(part)]
        return torch.cat(ordered).float().numpy()


def blocks_of(num: int, size: int, group: Group = None) -> Iterator[Block]:
    """The blocks of this rank, every W-th; as many on every rank, the last perhaps without a wanted example."""
    rank, ranks = (0, 1) if group is None else (group.rank(), group.size())
    for first in range(0, -(-num // size), ranks):
        number = first + rank
        examples = torch.arange(number * size, (number + 1) * size)
        yield Block(number, examples % num, min(max(num - number * size, 0), size))


def features_of(
    source: Source,
    extractor: Extractor,
    num_features: int,
    *,
    size: int,
    kept: int,
    group: Group = None,
    progress: Callable[[int], None] = lambda _: None,
) -> FeatureSet:
    """Reads a set, `size` examples at once on a rank, and computes its F features; collective.

    `kept` first examples keep their features; `progress` gets the number of examples that all ranks have read.
    """
    moments, features = Moments(), [torch.empty(0, num_features, device=extractor.device)]
    done, ranks = 0, 1 if group is None else group.size()
    for block in blocks_of(source.num, size, group):
        wanted = block.wanted
        examples = block.examples if source.together else block.examples[:wanted]
        batches = source.read(examples) if len(examples) else []
        if wanted:
            found = extractor.together([batch.to(extractor.device) for batch in batches])[:wanted].flatten(1)
            moments.add(found, block.number)
            features.append(found[: max(0, kept - block.number * size)])
        done = min(source.num, done + ranks * size)
        progress(done)
    gaussian, num = moments.fit(num_features, extractor.device, group)
    return FeatureSet(gaussian, num, torch.cat(features), size)
