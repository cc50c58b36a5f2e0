"""Rectangles on disk: safetensors files, one a rank, and a JSON index; nothing in them is ever unpickled.

state/
    index.json                   the shape of every tensor, and where its rectangles are
    rank_00000.safetensors ...   the rectangles that a rank wrote, by ``name[offset]``
"""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from moe.files import FileError, replacing
from moe.validation.document import parse_json
from trainer.checkpoint.manifest import REMEDY

FORMAT = "flowfabric.state/1"
INDEX = "index.json"


class SafetensorsWriter(StorageWriter):
    """Writes the rectangles that DCP's plan gives to this rank.

    Attributes:
        path: of this rank's file, which is not written where the plan gives it nothing.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        """Writes nothing yet.

        Args:
            folder: an empty one, which all ranks share.
            rank: of this process, in its file's name.
        """
        self._folder, self.path = folder, folder / f"rank_{rank:05d}.safetensors"

    def reset(self, checkpoint_id: Any = None) -> None:
        """The folder is that of the constructor."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Needs nothing."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes this rank's file, if it has anything to write."""
        tensors, results = {}, []
        for item in plan.items:
            values = planner.resolve_data(item)
            assert isinstance(values, Tensor)
            tensors[_key(item.index)] = values.detach().cpu().contiguous()
            results.append(WriteResult(item.index, values.nbytes, self.path.name))
        if tensors:
            with replacing(self.path) as temporary:
                save_file(tensors, temporary)
        written: Future[list[WriteResult]] = Future()
        written.set_result(results)
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes the index, on the coordinator."""
        files = {result.index: result.storage_data for of_rank in results for result in of_rank}
        tensors = {}
        for name, tensor in sorted(metadata.state_dict_metadata.items()):
            assert isinstance(tensor, TensorStorageMetadata)
            chunks = [
                {
                    "offset": list(chunk.offsets),
                    "sizes": list(chunk.sizes),
                    "file": files[MetadataIndex(name, chunk.offsets)],
                }
                for chunk in tensor.chunks
            ]
            tensors[name] = {"shape": list(tensor.size), "chunks": sorted(chunks, key=lambda chunk: chunk["offset"])}
        with replacing(self._folder / INDEX) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, "tensors": tensors}) + "\n")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003
        """Only the constructor names a folder."""
        return False


class SafetensorsReader(StorageReader):
    """Reads rectangles, or parts of them."""

    def __init__(self, folder: Path) -> None:
        """Reads nothing yet.

        Args:
            folder: what :class:`SafetensorsWriter` filled.
        """
        self._folder = folder
        self._files: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """The folder is that of the constructor."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Reads the index.

        Raises:
            FileError: it is missing or malformed.
        """
        tensors = {}
        for name, (shape, chunks) in read_index(self._folder).items():
            listed = [ChunkStorageMetadata(torch.Size(offset), torch.Size(sizes)) for offset, sizes, _ in chunks]
            tensors[name] = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(shape), listed)
            self._files |= {MetadataIndex(name, offset): file for offset, _, file in chunks}
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Needs nothing."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fills the rectangles of the plan, file by file."""
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self._files[item.storage_index]].append(item)
        for file, items in by_file.items():
            with safe_open(self._folder / file, framework="pt") as saved:
                for item in items:
                    values = _part(saved, item)
                    planner.resolve_tensor(item).detach().copy_(values)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003
        """Only the constructor names a folder."""
        return False


Chunk = tuple[tuple[int, ...], tuple[int, ...], str]
"""Offset and sizes of a rectangle, and the file that has it."""


def read_index(folder: Path) -> dict[str, tuple[tuple[int, ...], list[Chunk]]]:
    """Shape and rectangles of every tensor of a folder, by ``name:kind``.

    Raises:
        FileError: the index is missing or malformed.
    """
    path = folder / INDEX
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']}, not {FORMAT}")
        return {
            name: (
                tuple(tensor["shape"]),
                [
                    (tuple(chunk["offset"]), tuple(chunk["sizes"]), Path(chunk["file"]).name)
                    for chunk in tensor["chunks"]
                ],
            )
            for name, tensor in document["tensors"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(path, "index", f"cannot be read ({error})", REMEDY) from error


def whole_tensors(folder: Path, kind: str) -> dict[str, Tensor]:
    """Puts the tensors of one kind together, on the CPU, from the files of all ranks.

    Args:
        folder: what :class:`SafetensorsWriter` filled.
        kind: such as ``ema``.

    Returns:
        By the name of the parameter.
    """
    whole: dict[str, Tensor] = {}
    by_file: dict[str, list[tuple[str, Chunk]]] = defaultdict(list)
    for name, (shape, chunks) in read_index(folder).items():
        parameter, _, own_kind = name.rpartition(":")
        if own_kind == kind:
            whole[parameter] = torch.empty(shape)
            for chunk in chunks:
                by_file[chunk[2]].append((parameter, chunk))
    for file, wanted in by_file.items():
        with safe_open(folder / file, framework="pt") as saved:
            for parameter, (offset, sizes, _) in wanted:
                window = tuple(slice(start, start + size) for start, size in zip(offset, sizes, strict=True))
                whole[parameter][window] = saved.get_tensor(_key(MetadataIndex(f"{parameter}:{kind}", offset)))
    return whole


def _part(saved: Any, item: ReadItem) -> Tensor:
    key = _key(item.storage_index)
    if not item.lengths:
        return saved.get_tensor(key)
    window = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
    assert math.prod(item.lengths) > 0
    return saved.get_slice(key)[window]


def _key(index: MetadataIndex) -> str:
    assert index.offset is not None
    return f"{index.fqn}[{','.join(map(str, index.offset))}]"
