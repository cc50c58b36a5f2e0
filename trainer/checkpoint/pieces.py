"""Pieces of a training state as torch.distributed.checkpoint (DCP) divides and re-divides them."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from trainer.model.parallel.state import StatePiece


class PiecedTensor:
    """What this rank has of one tensor: DCP asks it for a list of rectangles, and for the values of one of them.

    DCP writes a rectangle once, however many ranks offer it, and fills one from whatever rectangles were written.
    """

    def __init__(self, pieces: Iterable[StatePiece]) -> None:
        """Takes pieces of the same tensor.

        Args:
            pieces: in any order, without overlap.
        """
        self._pieces = {torch.Size(piece.offset): piece for piece in pieces}

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        return [
            WriteItem(
                index=MetadataIndex(name, offset),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=_chunk(piece), properties=TensorProperties(torch.float32), size=torch.Size(piece.shape)
                ),
            )
            for offset, piece in self._pieces.items()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [_chunk(piece) for piece in self._pieces.values()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        assert index.offset is not None
        return self._pieces[index.offset].tensor


def pieced(pieces: Iterable[StatePiece]) -> dict[str, PiecedTensor]:
    """The pieces of each tensor, by ``name:kind``."""
    by_tensor: dict[str, list[StatePiece]] = defaultdict(list)
    for piece in pieces:
        by_tensor[f"{piece.name}:{piece.kind}"].append(piece)
    return {name: PiecedTensor(of_tensor) for name, of_tensor in by_tensor.items()}


class PieceSavePlanner(DefaultSavePlanner):
    """Plans who writes which rectangle of :class:`PiecedTensor` s."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The values of a rectangle."""
        return self.state_dict[index.fqn].__get_tensor_shard__(index)


class PieceLoadPlanner(DefaultLoadPlanner):
    """Plans which saved rectangles fill those of :class:`PiecedTensor` s."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Takes the tensors as they are: DCP would look inside."""
        self.original_state_dict = self.state_dict = state_dict
        self.flatten_state_dict = False
        self.metadata, self.is_coordinator = metadata, is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The values of a rectangle."""
        return self.state_dict[index.fqn].__get_tensor_shard__(index)


def _chunk(piece: StatePiece) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(offsets=torch.Size(piece.offset), sizes=torch.Size(piece.tensor.shape))
