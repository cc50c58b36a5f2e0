"""Data sets made of others: parts of them, with fewer of later classes, with source points, with captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, found_once
from trainer.data.order import keyed_order
from trainer.data.protocol import Batch, Dataset, Split
from trainer.data.shard.file import mapped_file
from trainer.data.shard.index import INDEX, FolderIndex, completed


class Accompanied(Dataset):
    """A data set with the examples of `data` in another form, and its other properties unchanged."""

    def __init__(self, data: Dataset) -> None:
        self.num_classes, self.shape, self.endless = data.num_classes, data.shape, data.endless
        self.keyed_order, self.source, self.augment = data.keyed_order, data.source, data.augment
        self.mix, self.files = data.mix, data.files
        self._data = data

    def indices(self, split: Split) -> Tensor:
        return self._data.indices(split)

    def count(self, split: Split) -> int:
        return self._data.count(split)

    def data_points(self, split: Split) -> Tensor:
        return self._data.data_points(split)

    def groups(self, split: Split) -> tuple[Tensor, ...]:
        return self._data.groups(split)

    def order(self, split: Split, *, seed: int, epoch: int, global_batch: int) -> Tensor:
        return self._data.order(split, seed=seed, epoch=epoch, global_batch=global_batch)

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        return self._data.augmented(batch, positions, seed=seed)

    def get(self, indices: Tensor) -> Batch:
        return self._data.get(indices)


class Sourced(Accompanied):
    """A data set with another of the same shape for source points, which are dealt by position and not in batches."""

    def __init__(self, data: Dataset, source: Dataset) -> None:
        super().__init__(data)
        self.source, self.files = source, (*data.files, *source.files)


def source_points(source: Dataset, numbers: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
    """Starting points of paths, float32 [B, *shape], by seed and numbers int64 [B] of the paths, 0 or more.

    A finite set gives examples of `split`; an endless one gives examples that no training reaches.
    """
    if source.endless:
        keys = fold_in(torch.tensor(derive_seed(seed, "start")), numbers)
        return source.get(2**61 + keys % 2**61).x_1
    return source.get(in_shuffled_epochs(source.indices(split), numbers, seed=derive_seed(seed, "source"))).x_1


def in_shuffled_epochs(ids: Tensor, numbers: Tensor, *, seed: int) -> Tensor:
    """Returns the ids at positions `numbers` of a stream of shuffled epochs, int64: none twice before all have come."""
    epochs, dealt = numbers // len(ids), torch.empty_like(numbers)
    for epoch in epochs.unique().tolist():
        generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
        rows = epochs == epoch
        dealt[rows] = ids[torch.randperm(len(ids), generator=generator)[numbers[rows] % len(ids)]]
    return dealt


VECTORS, TEXTS = "captions.npy", "captions.jsonl"
REMEDY = "write the folder again (python -m trainer encode-captions)"


class CaptionsIndex(FolderIndex):
    """index.json of a folder of captions: ``captions.npy``, float16 [num_captions, width], and their texts.

    The vectors are those of the encoder, standardised: (vector - shift) / scale.
    """

    format: Literal["flowfabric.captions/1"] = "flowfabric.captions/1"
    num_captions: PositiveInt
    """Captions of the folder: one for each example of a data set, that of example 0 first."""
    width: PositiveInt
    """Width of the vector of a caption."""
    shift: tuple[float, ...]
    """Mean of each of the encoder's values over the captions."""
    scale: tuple[PositiveFloat, ...]
    """Standard deviation of each of the encoder's values over the captions; 1 where it is 0."""
    encoder: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """Digest of the text encoder's files."""
    texts: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """Digest of the captions."""

    @model_validator(mode="after")
    def _statistics_fit_the_width(self) -> Self:
        for name, values in (("shift", self.shift), ("scale", self.scale)):
            if len(values) != self.width:
                raise ValueError(f"{name}: {len(values)} values do not fit vectors of {self.width}; {REMEDY}")
        return self

    def standardised(self, vectors: Tensor) -> Tensor:
        """Vectors float32 [N, width] of the encoder, as a network reads them."""
        return (vectors - torch.tensor(self.shift)) / torch.tensor(self.scale)


class CaptionsConfig(Section):
    """The network reads a caption of each example, as the vector that a frozen text encoder made of it."""

    path: Path
    """A folder that the encode-captions verb wrote, with one caption for each example of the data."""
    width: PositiveInt
    """Width of the vector of a caption; left out: what the index says."""
    digest: str
    """Digest of the index, so that a run resumes with the captions it began with; left out: taken from it."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        index = CaptionsIndex.at_path(document, ("width", "digest"))
        if index is None:
            return document
        if document.get("width") not in (None, index.width):
            raise ValueError(f"width: {document['width']} is not that of the vectors, {index.width}; leave it out")
        return completed(document, {"width": index.width, "digest": index.digest})


class Captioned(Accompanied):
    """A data set whose example i has row i of the captions; raises Refusal on captions changed or too few."""

    def __init__(self, data: Dataset, config: CaptionsConfig) -> None:
        path = config.path
        read = found_once(f"{path}: captions", lambda: CaptionsIndex.read(path).model_dump(), path)
        index = CaptionsIndex.model_validate(read)
        if index.digest != config.digest:
            problem = f"is {index.digest} but the run has {config.digest}"
            remedy = "bring the captions of the run back, or leave flow.captions.digest out to start another run"
            raise Refusal(path / INDEX, "digest", problem, remedy)
        super().__init__(data)
        self._vectors, wanted = mapped_file(path / VECTORS, "captions", REMEDY), [index.num_captions, index.width]
        if ([*self._vectors.shape], self._vectors.dtype.name) != (wanted, "float16"):
            problem = f"is {self._vectors.dtype} {list(self._vectors.shape)} but the index says float16 {wanted}"
            raise Refusal(path / VECTORS, "captions", problem, REMEDY)
        self.files = (*data.files, DataFiles(path, [VECTORS]))
        needed = 1 + max(int(data.indices(split).max()) for split in ("train", "held_out"))
        if needed > index.num_captions:
            problem = f"is {index.num_captions} for {needed} examples"
            raise Refusal(path / INDEX, "num_captions", problem, "give each example of the data a caption")

    def get(self, indices: Tensor) -> Batch:
        vectors = torch.from_numpy(self._vectors[indices.numpy()].astype(np.float32))
        return self._data.get(indices).with_captions(vectors)


KEY = derive_seed("revealed")


def counts_of(shares: Sequence[float], size: int) -> list[int]:
    """Whole numbers in the ratio of shares that sum to 1, with the exact sum `size`, by largest remainders."""
    wanted = [share * size for share in shares]
    counts = [int(number + 1e-6) for number in wanted]
    behind = sorted(range(len(shares)), key=lambda place: counts[place] - wanted[place])  # of equals the first
    for place in behind[: size - sum(counts)]:
        counts[place] += 1
    return counts


def first_revealed(dataset: Dataset, num: int) -> Tensor:
    """Returns the first training ids of a fixed shuffle, int64 [num]; a larger `num` contains a smaller one."""
    if dataset.endless:
        return torch.arange(num)
    places = keyed_order(torch.arange(num), dataset.count("train"), key=KEY)
    return places if dataset.keyed_order else dataset.indices("train")[places]


class Revealed(Dataset):
    """A data set whose training examples are those of :func:`first_revealed`; all held-out examples stay."""

    def __init__(self, whole: Dataset, num: int) -> None:
        self._whole, self._train = whole, first_revealed(whole, num)
        self.num_classes, self.shape = whole.num_classes, whole.shape
        self.augment, self.files = whole.augment, whole.files

    def indices(self, split: Split) -> Tensor:
        return self._train if split == "train" else self._whole.indices(split)

    def data_points(self, split: Split) -> Tensor:
        return self._train if split == "train" else self._whole.data_points(split)

    def get(self, indices: Tensor) -> Batch:
        return self._whole.get(indices)

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        return self._whole.augmented(batch, positions, seed=seed)


class ImbalanceConfig(Section):
    """Fewer training examples of each later class, as classes are outside benchmarks; held-out examples all stay."""

    ratio: float = Field(gt=1, le=1e6)
    """Ratio of the share of its examples that the first class keeps, which is 1, to the share of the last class. The
    share falls by the same factor from class to class."""
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    """Seed of the choice of examples that are kept; a larger ratio keeps some of the examples that a smaller one
    keeps."""


Imbalance = Annotated[ImbalanceConfig | None, Field(exclude_if=lambda imbalance: imbalance is None)]
"""Omitted if None, so that earlier runs keep their identity."""


def check_imbalance(imbalance: ImbalanceConfig | None, num_classes: int) -> None:
    """Refuses, with a ValueError, an imbalance of examples with fewer than two classes."""
    if imbalance is not None and num_classes < 2:
        raise ValueError(
            f"imbalance: is between classes, and these examples have {num_classes}; leave it out, or give labels"
        )


def kept(imbalance: ImbalanceConfig | None, ids: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns the ids that an imbalance keeps, in their order: at least one of each class present in their `labels`."""
    if imbalance is None:
        return ids
    keys = fold_in(torch.tensor(derive_seed("imbalance", imbalance.seed)), ids)
    stays = torch.zeros(len(ids), dtype=torch.bool)
    for number in range(num_classes):
        own = (labels == number).nonzero().flatten()
        num = round(len(own) * imbalance.ratio ** (-number / (num_classes - 1)))
        stays[own[keys[own].argsort()[: max(num, 1)]]] = True
    return ids[stays]
