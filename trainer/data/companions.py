"""Companions of examples: source points of another data set, and captions."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, found_once
from trainer.data.protocol import Batch, Dataset, Split
from trainer.data.shard.file import mapped_file
from trainer.data.shard.index import INDEX, FolderIndex, completed


class Accompanied(Dataset):
    """A data set that gives its examples in another form; all else is that of `data`."""

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
    """A data set with one of the same shape for source points; these are dealt by position and not in batches."""

    def __init__(self, data: Dataset, source: Dataset) -> None:
        super().__init__(data)
        self.source, self.files = source, (*data.files, *source.files)


def source_points(source: Dataset, numbers: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
    """Starting points of paths, float32 [B, *shape], by seed and numbers int64 [B] of the paths, 0 or more.

    Of a finite set they are of `split`; endless ones give examples that no training reaches.
    """
    if source.endless:
        keys = fold_in(torch.tensor(derive_seed(seed, "start")), numbers)
        return source.get(2**61 + keys % 2**61).x_1
    return source.get(in_shuffled_epochs(source.indices(split), numbers, seed=derive_seed(seed, "source"))).x_1


def in_shuffled_epochs(ids: Tensor, numbers: Tensor, *, seed: int) -> Tensor:
    """Deals ids by places in a stream of shuffled epochs, int64 like `numbers`: none twice before all have come."""
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
    """One for each example of a data set, that of example 0 first."""
    width: PositiveInt
    """Of the vector of a caption."""
    shift: tuple[float, ...]
    """Mean of each of the encoder's values over the captions."""
    scale: tuple[PositiveFloat, ...]
    """Standard deviation of each of them; 1 where it is 0."""
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
    """Of a vector; left out: what the index says."""
    digest: str
    """Of the index, so that a run goes on with the captions it began with; left out: taken from it."""

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
