"""A device that computes: by its roofline, the longer of what arithmetic and memory take, or by measurements.

Williams, Waterman, Patterson: Roofline: an insightful visual performance model for multicore architectures, CACM 2009.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PositiveFloat, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from netsim.foundation.refusal import nearest
from netsim.foundation.settings import Section
from netsim.workload.device_table import Computed, Measured, computed, notices, read_measured

Part = Annotated[float, Field(gt=0, le=1)]


class Product(NamedTuple):
    """Equal products of matrices, or attentions, and the floating-point operations of one."""

    kind: Literal["gemm", "attention"]
    flops: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """Computation: floating-point operations, bytes to and from memory, and products, as far as they are known."""

    flops: int = 0
    memory_bytes: int = 0
    products: tuple[Product, ...] = ()

    def __add__(self, other: "Work") -> "Work":
        """The sum of two works, carried out one after the other."""
        return Work(self.flops + other.flops, self.memory_bytes + other.memory_bytes, self.products + other.products)

    def times(self, number: int) -> "Work":
        """The work repeated `number` times."""
        products = tuple(one._replace(count=one.count * number) for one in self.products)
        return Work(self.flops * number, self.memory_bytes * number, products)

    def part(self, ranks: int) -> "Work":
        """An equal part of the work, divided over `ranks` ranks."""
        products = tuple(one._replace(flops=one.flops // ranks) for one in self.products)
        return Work(self.flops // ranks, self.memory_bytes // ranks, products)


class DeviceConfig(Section):
    """Section ``device``: the device that computes, for workloads that state the work and not its time.

    Args:
        table: CSV file of measured times, in place of peaks. Columns: kind, sizes, dtype, time_us. Kinds and their
            sizes: gemm, MxNxK; attention, BATCHxHEADSxSEQUENCExWIDTH; memory, BYTES. Times of other sizes are
            interpolated by operations.
        dtype: Data type whose rows of the table count, where the table has several.
        teraflops: Peak rate of dense matrix products, in 10**12 floating-point operations a second; not beside a table.
        memory_gbps: Peak bandwidth of the memory, in 10**9 bytes a second; beside a table for a table without rows of
            memory.
        efficiency: Share of the peak `teraflops` that is reached.
        memory_efficiency: Share of the peak `memory_gbps` that is reached.
        contention: Factor by which a computation takes longer while asynchronous collectives of its rank are under way.
    """

    table: str | None = None
    dtype: str | None = None
    teraflops: PositiveFloat | None = Field(default=None, validate_default=True)
    memory_gbps: PositiveFloat | None = Field(default=None, validate_default=True)
    efficiency: Part = 0.5
    memory_efficiency: Part = 0.8
    contention: Annotated[float, Field(ge=1)] = 1.0

    @field_validator("teraflops", "memory_gbps")
    @classmethod
    def _table_or_peaks(cls, peak: float | None, info: ValidationInfo) -> float | None:
        table = info.data.get("table")
        if table is None and peak is None:
            raise PydanticKnownError("missing")
        if table is not None and peak is not None and info.field_name == "teraflops":
            raise ValueError("the table says already how long products take; remove it, or the table")
        return peak

    def compute_ps(self, work: Work) -> int:
        """Time of a work in picoseconds, rounded up: the longer of arithmetic and memory time."""
        return -int(-max(self._arithmetic_ps(work), self._memory_ps(work.memory_bytes)) // 1)

    def computed(self, works: Iterable[Work]) -> list[Computed]:
        """Measured times of the parts of these works, with their intervals; none for peak rates."""
        if self.table is None:
            return []
        requested: dict[str, set[int]] = defaultdict(set)
        for work in set(works):
            requested["memory"].add(work.memory_bytes)
            for product in _products(work):
                requested[self._kind(product)].add(product.flops)
        return computed(self._measured, self.table, requested)

    def notices(self, times: Sequence[Computed]) -> list[str]:
        """Remarks on the errors of these times; empty for peak rates."""
        if self.table is None:
            return []
        remarks = notices(self._measured, self.table, times)
        if "memory" not in self._measured and self.memory_gbps is None:
            remarks.append(f"{self.table}: has no rows of memory, so that what only reads and writes takes no time")
        return remarks

    @cached_property
    def _measured(self) -> Mapping[str, Measured]:
        return read_measured(Path(self.table or ""), self.dtype)

    def _kind(self, product: Product) -> str:
        """The kind of rows that a product is timed by: attention that was not measured counts as a product."""
        return product.kind if product.kind in self._measured else "gemm"

    def _arithmetic_ps(self, work: Work) -> float:
        if self.teraflops is not None:
            return work.flops / (self.teraflops * self.efficiency)
        return sum(one.count * self._measured[self._kind(one)].time_ps(one.flops) for one in _products(work))

    def _memory_ps(self, memory_bytes: int) -> float:
        if self.table is not None and "memory" in self._measured:
            return self._measured["memory"].time_ps(memory_bytes)
        if self.memory_gbps is None:
            return 0.0
        return 1000 * memory_bytes / (self.memory_gbps * self.memory_efficiency)


def _products(work: Work) -> Sequence[Product]:
    """The products of a work; all its operations as one product if they are not known."""
    return work.products or (Product("gemm", work.flops),)


class Peaks(NamedTuple):
    """Peaks of a named device: dense products in bfloat16, and memory bandwidth."""

    teraflops: float
    memory_gbps: float


DEVICES = {
    "v100": Peaks(125, 900),
    "a100": Peaks(312, 2039),
    "h100": Peaks(989.4, 3350),
    "h200": Peaks(989.4, 4800),
    "b200": Peaks(2250, 8000),
    "mi300x": Peaks(1307.4, 5300),
    "tpu_v5p": Peaks(459, 2765),
}
"""Peaks by the makers' data sheets: V100 SXM2 (float16), A100 SXM 80 GB, H100 SXM, H200 SXM, B200 in HGX, TPU v5p.

What is reached of them is a choice: half of the arithmetic is what training of large models reaches besides waiting for
the network (Llama Team: The Llama 3 Herd of Models, 2024, table 4: 38 to 43 % of an H100 with that waiting).
"""


def _by_name(value: object) -> Any:
    """Replaces the name of a device, or of a table in CSV, by its settings."""
    if not isinstance(value, str | Mapping | DeviceConfig) and value is not None:
        raise ValueError("a device is a name, a table or its peaks; write h100, or give teraflops and memory_gbps")
    if not isinstance(value, str):
        return value
    if value.endswith(".csv"):
        return {"table": value}
    if value not in DEVICES:
        near = nearest(value, DEVICES)
        known = f"use one of {', '.join(DEVICES)}, give teraflops and memory_gbps, or a table NAME.csv"
        remedy = f"use {near}" if near else known
        raise ValueError(f"no device of that name is known; {remedy}")
    return DEVICES[value]._asdict()


Device = Annotated[DeviceConfig, BeforeValidator(_by_name, json_schema_input_type=str | DeviceConfig)]
"""The section, the name of a device, or a table."""
