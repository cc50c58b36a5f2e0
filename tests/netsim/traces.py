"""Small collective traces for tests, written line by line by the contract and by nothing that reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class TraceWriter:
    """Collects records; `seq` is counted for each rank.

    Args:
        world_size: Number of ranks.
        groups: Process groups besides `world`.
        steps: Steps of the header.
    """

    def __init__(
        self, world_size: int, groups: dict[str, list[int]] | None = None, steps: Sequence[int] = (0,)
    ) -> None:
        self.groups = {"world": list(range(world_size)), **(groups or {})}
        self.header: dict[str, Any] = {
            "format": "flowfabric.collectives/1",
            "source": "formula",
            "world_size": world_size,
            "ranks_per_node": 1,
            "groups": self.groups,
            "steps": list(steps),
            "config_sha256": None,
            "torch": None,
        }
        self.records: list[dict[str, Any]] = []

    def add(self, rank: int, op: str, bytes_in: int, bytes_out: int, **fields: Any) -> dict[str, Any]:
        """One record; fields not given take the values of a synchronous collective on `world`."""
        record = {
            "rank": rank,
            "seq": sum(earlier["rank"] == rank for earlier in self.records),
            "step": self.header["steps"][0],
            "micro": 0,
            "phase": "forward",
            "op": op,
            "group": "world",
            "dtype": "float32",
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "in_splits": None,
            "out_splits": None,
            "root": None,
            "peer": None,
            "tag": 0 if op in ("send", "recv") else None,
            "async": False,
            "wait_seq": None,
            "gap_ns": None,
            "t_issue_ns": None,
            "t_done_ns": None,
            "layer": None,
        } | fields
        record["size1"] = len(self.groups[record["group"]]) == 1
        self.records.append(record)
        return record

    def all_reduce(self, size_bytes: int, group: str = "world", **fields: Any) -> None:
        """The same all_reduce at every member."""
        for rank in self.groups[group]:
            self.add(rank, "all_reduce", size_bytes, size_bytes, group=group, **fields)

    def all_to_all(self, matrix: Sequence[Sequence[int]], group: str = "world", **fields: Any) -> None:
        """matrix[i][j] bytes from the i-th member to the j-th."""
        for i, rank in enumerate(self.groups[group]):
            sent, received = list(matrix[i]), [row[i] for row in matrix]
            splits = {"in_splits": sent, "out_splits": received, "group": group, **fields}
            self.add(rank, "all_to_all", sum(sent), sum(received), **splits)

    def all_gather(self, sizes: Sequence[int], group: str = "world", **fields: Any) -> None:
        """sizes[i] bytes from the i-th member to all."""
        for size, rank in zip(sizes, self.groups[group], strict=True):
            self.add(rank, "all_gather", size, sum(sizes), group=group, **fields)

    def reduce_scatter(self, sizes: Sequence[int], group: str = "world", **fields: Any) -> None:
        """sizes[i] bytes of the sum end at the i-th member."""
        for size, rank in zip(sizes, self.groups[group], strict=True):
            self.add(rank, "reduce_scatter", sum(sizes), size, group=group, **fields)

    def broadcast(self, root: int, size_bytes: int, group: str = "world", **fields: Any) -> None:
        """size_bytes from global rank `root` to all members."""
        for rank in self.groups[group]:
            contributed = size_bytes if rank == root else 0
            self.add(rank, "broadcast", contributed, size_bytes, root=root, group=group, **fields)

    def barrier(self, group: str = "world", **fields: Any) -> None:
        """A barrier at every member."""
        for rank in self.groups[group]:
            self.add(rank, "barrier", 0, 0, group=group, **fields)

    def pair(self, src: int, dst: int, size_bytes: int, **fields: Any) -> None:
        """A send and its recv."""
        self.add(src, "send", size_bytes, 0, peer=dst, **fields)
        self.add(dst, "recv", 0, size_bytes, peer=src, **fields)

    def lines(self) -> list[str]:
        """The file, line by line."""
        return [json.dumps(line) for line in (self.header, *self.records)]

    def write(self, path: Path) -> Path:
        """Writes the file and returns its path."""
        path.write_text("".join(line + "\n" for line in self.lines()), encoding="utf-8")
        return path
