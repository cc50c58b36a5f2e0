"""What a sample costs: calls, arithmetic, bytes between ranks, and time on a fabric."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.model.flops import OPERATIONS_PER_MULTIPLY_ADD


@dataclass(frozen=True)
class Fabric:
    """Ranks that draw samples on a fabric.

    Attributes:
        scenario: a scenario of netsim: the fabric, the transports and the seeds.
        examples: that each rank draws at once, 1 or more.
        teraflops: arithmetic that a rank sustains, TFLOP/s.
    """

    scenario: str
    ranks: int
    examples: int
    teraflops: float

    def compute_us(self, multiply_adds: float) -> float:
        """Time of a rank's arithmetic for its examples, us."""
        return self.examples * multiply_adds * OPERATIONS_PER_MULTIPLY_ADD / (1e6 * self.teraflops)


@dataclass(frozen=True)
class CallTraffic:
    """What one call of a network sends between ranks.

    Attributes:
        sent_bytes: that leave their rank, divided by the examples of all ranks.
        network_us: time of its collectives on the fabric by transport, us; empty where nothing is sent.
    """

    sent_bytes: float
    network_us: Mapping[str, float]


@dataclass(frozen=True)
class SampleCost:
    """What drawing one sample costs without guidance.

    Attributes:
        calls: how often each part of the network is called, see :class:`trainer.flow.sampler.Trajectory`.
        multiply_adds: of those calls; None: not known.
        sent_bytes: that leave their rank.
        compute_us: time of the arithmetic for all examples of a rank, us; None: not known.
        network_us: time of the collectives of all calls by transport, us; empty where nothing is sent.
    """

    evaluations: int
    calls: Mapping[str, int]
    multiply_adds: int | None
    sent_bytes: float
    compute_us: float | None
    network_us: Mapping[str, float]

    @classmethod
    def of(
        cls, evaluations: int, calls: Mapping[str, int], multiply_adds: int | None, traffic: CallTraffic, fabric: Fabric
    ) -> "SampleCost":
        """Cost of so many calls on a fabric; a head sends nothing."""
        number = calls["network"]
        return cls(
            evaluations=evaluations,
            calls=dict(calls),
            multiply_adds=multiply_adds,
            sent_bytes=number * traffic.sent_bytes,
            compute_us=None if multiply_adds is None else fabric.compute_us(multiply_adds),
            network_us={transport: number * time for transport, time in traffic.network_us.items()},
        )

    def total_us(self, transport: str | None) -> float | None:
        """Time until the examples of all ranks are drawn, us; None if unknown. Transport None: nothing is sent."""
        if self.compute_us is None:
            return None
        return self.compute_us + (0.0 if transport is None else self.network_us.get(transport, 0.0))
