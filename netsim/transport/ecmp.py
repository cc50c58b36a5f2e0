"""Paths by hash: equal-cost multipath, and several queue pairs a message, each on a path of its own hash.

The second is multipath RDMA in software (MP-RDMA-x in the papers).
"""

from binascii import crc32
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from netsim.draws import Draws, Purpose, stream
from netsim.foundation.units import split_bytes
from netsim.transport.protocol import Flow, Release, Transport, TransportSettings


class Subflows(Transport):
    """Cuts each message into equal parts; each part's hash picks a path for it, as if it had a port of its own."""

    def __init__(self, seed: int, most_paths: int, count: int) -> None:
        super().__init__(seed, most_paths)
        self._count = count
        self._draws = Draws(seed, Purpose.SUBFLOW_PATH)

    def constants(self) -> dict[str, int | float | str]:
        return {"admission": "PARTS", "path_draws": stream(self.seed, Purpose.SUBFLOW_PATH), "parts": self.stride}

    @property
    def stride(self) -> int:
        """The number of parts of a message."""
        return self._count

    def admit(self, released: Sequence[Release], now_ps: int) -> list[Flow]:  # noqa: ARG002
        """Parts that differ by a byte at most; a message of fewer bytes than parts has a part for each byte."""
        return [
            Flow(m.task * self.stride + part, m, size, self._path(m, part, m.usable))
            for m in released
            for part, size in enumerate(split_bytes(m.bytes, self._count))
            if size
        ]

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """The same hash over fewer paths."""
        return self._path(flow.message, flow.id % self.stride, usable)

    def _path(self, message: Release, part: int, usable: tuple[int, ...]) -> int:
        return usable[self._draws(message.src << 32 | message.dst, part) % len(usable)]


class SubflowsConfig(TransportSettings):
    """Cuts a message into equal parts, each on a path of its own hash; ``mprdma-4`` for short.

    Args:
        count: Number of equal parts of a message, each on a path of its own hash.
    """

    transport: ClassVar[type[Transport]] = Subflows

    kind: Literal["subflows"]
    count: Annotated[int, Field(ge=1, le=256)] = 4


Hash = Literal["random", "crc32"]


class Ecmp(Transport):
    """One path for each pair of ranks: their queue pair, and so its 5-tuple and hash, stays the same in a run.

    Among 2, 4, 8, ... paths a seed of crc32 only renames the paths: the same pairs of ranks collide under every seed.
    """

    def __init__(self, seed: int, most_paths: int, hash: Hash = "random") -> None:
        super().__init__(seed, most_paths)
        self.hash = hash
        self._draws = Draws(seed, Purpose.ECMP_PATH)
        self._hash = self._draws if hash == "random" else self._crc32

    def constants(self) -> dict[str, int | float | str]:
        if self.hash == "random":
            return {"admission": "HASHED", "path_draws": stream(self.seed, Purpose.ECMP_PATH)}
        return {"admission": "CHECKSUM", "path_draws": crc32(self.seed.to_bytes(8, "little"))}

    def admit(self, released: Sequence[Release], now_ps: int) -> list[Flow]:  # noqa: ARG002
        """One flow a message."""
        return [Flow(m.task * self.stride, m, m.bytes, self._path(m, m.usable)) for m in released]

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """The same hash over fewer paths."""
        return self._path(flow.message, usable)

    def _path(self, message: Release, usable: tuple[int, ...]) -> int:
        return usable[self._hash(message.src, message.dst) % len(usable)]

    def _crc32(self, src: int, dst: int) -> int:
        return crc32(b"".join(value.to_bytes(8, "little") for value in (self.seed, src, dst)))


class EcmpConfig(TransportSettings):
    """A hash of source and destination rank picks one path for good.

    Args:
        hash: Hash that picks the path. random: an ideal hash; crc32: CRC-32 of seed, source and destination, as
            switches compute it.
    """

    transport: ClassVar[type[Transport]] = Ecmp

    kind: Literal["ecmp"]
    hash: Hash = "random"
