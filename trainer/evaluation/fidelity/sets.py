"""Sets of examples (drawn, from a run, or from a folder) and their features, block by block on many ranks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed
from netsim.foundation.picture_file import BadPicture, opened_picture
from netsim.foundation.refusal import Refusal
from trainer.config.run import RunConfig
from trainer.data.picture import ENDINGS
from trainer.evaluation.fidelity.gaussian import Gaussian, Moments
from trainer.evaluation.fidelity.precision_recall import parts_of_ranks
from trainer.flow.context import Identity, Space
from trainer.flow.sampler import AnyConfig
from trainer.model.feature_extractor.extractor import Extractor
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow

ENDLESS = 50_000
"""Number of examples assumed of endless data."""
READERS = 8
"""Threads that read pictures."""


class DrawnExamples:
    """Examples that a flow draws, the classes in turn."""

    def __init__(
        self, flow: TrainedFlow, chosen: AnyConfig, conditioning: Conditioning, guidance: float, seed: int
    ) -> None:
        self.num, self.together = len(conditioning.labels), True
        self._flow, self._chosen, self._conditioning = flow, chosen, conditioning
        self._guidance, self._seed = guidance, seed

    @torch.no_grad()
    def read(self, numbers: Tensor) -> list[Tensor]:
        flow = self._flow
        trajectory = flow.follow(
            self._conditioning.condition, numbers, self._chosen, guidance=self._guidance, seed=self._seed
        )
        examples = flow.parts.space.decode(flow.parts.data_of(trajectory.final))
        seen = self._conditioning.seen
        return [examples if seen is None else seen.rows(numbers).completed(examples)]


class TrainingExamples:
    """The training examples of a run, decoded if they are latents, for comparison with its samples."""

    def __init__(self, config: RunConfig, num: int | None) -> None:
        self._dataset = trainer.data.build(config.data)
        most = len(self._dataset.data_points("train")) if not self._dataset.endless else ENDLESS
        self._ids = trainer.data.first_data_points(self._dataset, "train", most if num is None else num)
        self._space: Space = Identity()
        self._device, self._seed = torch.device("cpu"), config.run.seed
        self.num, self.together = len(self._ids), False
        latent = config.flow.latent if config.flow is not None else None
        data = config.data.model_dump(mode="json")
        if data.get("digest") is not None:
            data.pop("path", None)  # the same data in another place
        written = {"data": data, "latent": latent and latent.model_dump(mode="json")}
        self.digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()

    def decode_by(self, space: Space, device: torch.device) -> None:
        """Sets the space that decodes examples which are latents, and the device that it decodes on."""
        self._space, self._device = space, device

    def read(self, numbers: Tensor) -> list[Tensor]:
        batch = self._dataset.get(self._ids[numbers])
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "shown"))
        return [self._space.shown(batch.x_1.to(self._device), generator=generator)]


class Pictures:
    """The pictures in a folder and below it, whole, each as large as it is, in the order of their names."""

    def __init__(self, folder: Path, num: int | None) -> None:
        if not folder.is_dir():
            raise Refusal(folder, "folder", "does not exist", "give a folder of pictures, or that of a run")
        files = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
        names = [path for path in files if path.suffix.lower() in ENDINGS and path.name[0] != "."]
        self._files = sorted(names)[:num]
        if len(self._files) < 2:
            endings = ", ".join(sorted(ENDINGS))
            problem = f"holds {len(self._files)} pictures"
            raise Refusal(folder, "pictures", problem, f"give two or more files that end in {endings}")
        self.num, self.together = len(self._files), False
        listed = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in self._files]
        self.digest = hashlib.sha256("\n".join(listed).encode("utf-8", "surrogateescape")).hexdigest()

    def read(self, numbers: Tensor) -> list[Tensor]:
        """Reads pictures by their numbers; neighbours of equal size form one batch."""
        with ThreadPoolExecutor(READERS) as pool:
            images = list(pool.map(lambda number: _pixels(self._files[number]), numbers.tolist()))
        together = (list(group) for _, group in groupby(images, key=lambda image: image.shape))
        return [torch.from_numpy(np.stack(group)).float().div(127.5).sub(1) for group in together]


def _pixels(path: Path) -> NDArray[np.uint8]:
    """The red, green and blue values of a whole picture, uint8 [3, H, W]."""
    try:
        with opened_picture(path) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except BadPicture as error:
        remedy = "remove it, or save it again with 8 bits a colour"
        raise Refusal(path, "picture", f"cannot be read ({error})", remedy) from error


Group = dist.ProcessGroup | None


class Source(Protocol):
    """A source of a set's examples.

    Attributes:
        num: number of examples.
        together: whether every rank must read in every round, because the ranks share a network.
    """

    num: int
    together: bool

    def read(self, numbers: Tensor) -> list[Tensor]:
        """Examples by their numbers, int64 [B]: batches [b, *shape] in their order, each of examples of one shape."""
        ...


class RealSource(Source, Protocol):
    """A source of real examples.

    Attributes:
        digest: hexadecimal digest that identifies the examples.
    """

    digest: str


class Block(NamedTuple):
    """Consecutive examples.

    Attributes:
        examples: int64 [B] their numbers, which start again from 0 after the last example of the set.
        wanted: number of leading examples that count.
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
    """Yields this rank's blocks, every W-th; every rank has as many, and its last may have no wanted example."""
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
            rows = extractor.together([batch.to(extractor.device) for batch in batches])[:wanted].flatten(1)
            moments.add(rows, block.number)
            features.append(rows[: max(0, kept - block.number * size)])
        done = min(source.num, done + ranks * size)
        progress(done)
    gaussian, num = moments.fit(num_features, extractor.device, group)
    return FeatureSet(gaussian, num, torch.cat(features), size)
