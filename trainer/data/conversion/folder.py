"""A folder of shards that is being written, perhaps by several starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from trainer.data.shard.index import INDEX, ShardIndex, read_index

MARK = "shards"
"""Under which a shard names what decides its examples."""
ELSEWHERE = "give another folder, or delete this one"


class ShardFolder:
    """Shards by number, each with a mark of what decides its examples; the folder is made with its first shard."""

    def __init__(self, path: Path, mark: str) -> None:
        self._path, self._mark = path, mark
        self._made = not path.exists()
        for unfinished in path.glob(".shard_*.safetensors.*.partial"):
            unfinished.unlink()
        names = sorted(file.name for file in path.iterdir()) if path.exists() else []
        ours = {name for name in names if name.startswith("shard_") and name.endswith(".safetensors")}
        self._kept = {int(name[6:-12]): self._examples(path / name) for name in sorted(ours)}
        if INDEX in names and not ours:
            raise Refusal(path / INDEX, "output", "is there without its shards", ELSEWHERE)

    @property
    def index(self) -> ShardIndex | None:
        """Of the folder, if it is complete."""
        return read_index(self._path) if (self._path / INDEX).exists() else None

    def kept(self) -> Mapping[int, int]:
        """Examples of each shard that an earlier start has finished, by its number."""
        return self._kept

    def size_bytes(self) -> int:
        """Of the shards that are there."""
        return sum(self._file(number).stat().st_size for number in self._kept)

    def data(self, number: int) -> NDArray[Any]:
        """The examples of a shard that is there."""
        with safe_open(self._file(number), framework="np") as file:
            return file.get_tensor("data")

    def write(
        self, number: int, data: NDArray[Any], labels: NDArray[np.int64] | None, examples: NDArray[np.int64]
    ) -> None:
        """Writes a shard: `data` [B, *shape], `labels` [B] or None, `examples` [B] the number of each in the source."""
        arrays = {"data": data, "examples": examples} | ({} if labels is None else {"labels": labels})
        with replacing(self._file(number)) as temporary:
            save_file(
                {name: np.ascontiguousarray(values) for name, values in arrays.items()},
                temporary,
                metadata={MARK: self._mark},
            )

    def finish(self, said: Mapping[str, Any], shards: Mapping[int, tuple[int, tuple[int, ...]]]) -> None:
        """Writes the index; `shards` gives number of examples and shape by number of the shard."""
        entries = [
            {"file": self._file(number).name, "num_examples": count, "shape": shape if shape != said["shape"] else None}
            for number, (count, shape) in shards.items()
        ]
        ShardIndex.model_validate({**said, "shards": entries}).write(self._path)

    def remove(self) -> None:
        """Removes the shards, whichever start wrote them, and the folder if this one made it."""
        for file in self._path.glob("shard_*.safetensors"):
            file.unlink()
        if self._made and self._path.exists():
            self._path.rmdir()

    def _file(self, number: int) -> Path:
        return self._path / f"shard_{number:05d}.safetensors"

    def _examples(self, path: Path) -> int:
        """How many a shard holds; refuses one of other examples."""
        try:
            with safe_open(path, framework="np") as file:
                found = (file.metadata() or {}).get(MARK)
                count = file.get_slice("data").get_shape()[0]
        except (OSError, SafetensorError) as error:
            raise Refusal(path, "shard", f"cannot be read ({error})", "delete it; it is then written again") from error
        if found != self._mark:
            raise Refusal(path, "output", "belongs to other examples, options or seed", ELSEWHERE)
        return count
