"""A device that computes, by its roofline: the longer of what arithmetic and memory take.

Williams, Waterman, Patterson: Roofline: an insightful visual performance model for multicore architectures, CACM 2009.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, PositiveFloat

from netsim.documents import Section
from netsim.foundation.refusal import nearest

Part = Annotated[float, Field(gt=0, le=1)]


class DeviceConfig(Section, frozen=True):
    """Section ``device`` of a trace: what computes, where the trace says what and not how long.

    Args:
        teraflops: Peak of dense matrix products, 10**12 floating-point operations a second.
        memory_gbps: Peak of the memory, 10**9 bytes a second.
        efficiency: Part of the first peak that is reached.
        memory_efficiency: Part of the second peak that is reached.
        contention: How much longer it computes while asynchronous collectives of its rank are under way.
    """

    teraflops: PositiveFloat
    memory_gbps: PositiveFloat
    efficiency: Part = 0.5
    memory_efficiency: Part = 0.8
    contention: Annotated[float, Field(ge=1)] = 1.0

    def compute_ps(self, flops: int, memory_bytes: int) -> int:
        """Picoseconds, rounded up, of work that keeps arithmetic and memory busy at once."""
        arithmetic = flops / (self.teraflops * self.efficiency)
        memory = 1000 * memory_bytes / (self.memory_gbps * self.memory_efficiency)
        return -int(-max(arithmetic, memory) // 1)


class Peaks(NamedTuple):
    """Peaks of a device that is named, of dense products in bfloat16 and of its memory."""

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
    """Replaces the name of a device by its settings."""
    if not isinstance(value, str | Mapping | DeviceConfig) and value is not None:
        raise ValueError("a device is a name or its peaks; write h100, or give teraflops and memory_gbps")
    if not isinstance(value, str):
        return value
    if value not in DEVICES:
        near = nearest(value, DEVICES)
        remedy = f"use {near}" if near else f"use one of {', '.join(DEVICES)}, or give teraflops and memory_gbps"
        raise ValueError(f"no device of that name is known; {remedy}")
    return DEVICES[value]._asdict()


Device = Annotated[DeviceConfig, BeforeValidator(_by_name, json_schema_input_type=str | DeviceConfig)]
"""The section, or the name of a device."""
