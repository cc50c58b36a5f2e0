"""DCQCN: a rate that falls with congestion notifications and recovers by timers and by bytes sent.

Zhu et al.: Congestion Control for Large-Scale RDMA Deployments, SIGCOMM 2015, section 3.1, figure 7, equations 1 to 4.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from netsim.congestion.protocol import UNLIMITED, Ack, Congestion, CongestionSettings, Marking, RoundTrip
from netsim.congestion.window import StateOf
from netsim.foundation.units import PICOSECONDS_PER_SECOND, Duration, Rate, Size


class DcqcnConfig(CongestionSettings):
    """Section ``congestion`` of kind ``dcqcn``. Defaults: the paper, table 14 and section 5.2, for 40 Gbps links.

    Args:
        gain: Weight of a congestion notification (CNP) in the estimate of congestion (g).
        notify_every: Shortest time between two CNPs that a receiver sends for a flow (N).
        estimate_every: Time without CNPs after which the estimate of congestion decays once (K).
        increase_every: Period of the timer that increases the rate (T).
        increase_bytes: Bytes that a flow sends between rate increases by the byte counter (B).
        fast_steps: Number of increases, by the timer or by the byte counter, before the target rate rises (F).
        additive: Rate added to the target rate in an additive increase (R_AI).
        hyper: Rate added to the target rate in a hyper increase (R_HAI).
        slowest: Lowest rate to which a flow falls.
        mark_from: Queue length above which packets are marked with growing probability (Kmin).
        mark_all: Queue length above which all packets are marked (Kmax).
        mark_at_most: Probability of a mark just below `mark_all` (Pmax).
        state: Start of a message. message: every message starts afresh; queue_pair: it continues with the state of the
            latest message between the same ranks.
    """

    core: ClassVar[str] = "Dcqcn"
    kind: Literal["dcqcn"]
    gain: Annotated[float, Field(gt=0, le=1)] = 1 / 256
    notify_every: Annotated[Duration, Field(gt=0)] = 50 * 10**6
    estimate_every: Annotated[Duration, Field(gt=0)] = 55 * 10**6
    increase_every: Annotated[Duration, Field(gt=0)] = 55 * 10**6
    increase_bytes: Annotated[Size, Field(gt=0)] = 10 * 10**6
    fast_steps: Annotated[int, Field(ge=1)] = 5
    additive: Annotated[Rate, Field(gt=0)] = 40 * 10**6
    hyper: Annotated[Rate, Field(gt=0)] = 400 * 10**6
    slowest: Annotated[Rate, Field(gt=0)] = 40 * 10**6
    mark_from: Size = 5_000
    mark_all: Size = 200_000
    mark_at_most: Annotated[float, Field(gt=0, le=1)] = 0.01
    state: StateOf = "message"

    @model_validator(mode="after")
    def _growing(self) -> "DcqcnConfig":
        if self.mark_from >= self.mark_all:
            raise ValueError("mark_from is not below mark_all; raise mark_all")
        return self

    @property
    def notify_ps(self) -> int:
        return self.notify_every

    def marking(self, queue_bytes: int | None) -> Marking:  # noqa: ARG002
        return Marking(self.mark_from, self.mark_all, self.mark_at_most)

    def constants(self, trims: bool) -> dict[str, int | float]:  # noqa: ARG002
        return {
            "gain": self.gain,
            "estimate_ps": self.estimate_every,
            "increase_ps": self.increase_every,
            "increase_bytes": self.increase_bytes,
            "fast_steps": self.fast_steps,
            "additive_bps": self.additive,
            "hyper_bps": self.hyper,
            "slowest_bps": self.slowest,
        }

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return Dcqcn(self, round_trip, start_ps)


class Dcqcn(Congestion):
    """One flow under DCQCN; its timers are brought up to date at every event of the flow. Starts at its link's rate.

    A timeout changes nothing: DCQCN has no rule for losses.
    """

    def __init__(self, config: DcqcnConfig, round_trip: RoundTrip, start_ps: int = 0) -> None:
        self._config = config
        self._line_bps = float(round_trip.rate_bps)
        self.rate_bps = self._target_bps = self._line_bps
        self.alpha = 1.0
        self._estimated_ps = self._increased_ps = start_ps
        self._timer_steps = self._byte_steps = self._bytes = 0

    def window(self) -> int:
        """Without limit: the rate alone limits the flow."""
        return UNLIMITED

    def gap_ps(self, wire_bytes: int, now_ps: int) -> int:
        """Service time at the current rate."""
        self._catch_up(now_ps)
        self._bytes += wire_bytes
        while self._bytes >= self._config.increase_bytes:
            self._bytes -= self._config.increase_bytes
            self._byte_steps += 1
            self._increase()
        if self.rate_bps >= self._line_bps:
            return 0
        return int(8.0 * wire_bytes * PICOSECONDS_PER_SECOND / self.rate_bps)

    def on_ack(self, ack: Ack) -> None:
        """Cuts the rate by the share alpha / 2 at a congestion notification (CNP), and restarts its counters."""
        self._catch_up(ack.now_ps)
        if not ack.notified:
            return
        self._target_bps = self.rate_bps
        self.rate_bps = max(float(self._config.slowest), self.rate_bps * (1.0 - self.alpha / 2.0))
        self.alpha = (1.0 - self._config.gain) * self.alpha + self._config.gain
        self._estimated_ps = self._increased_ps = ack.now_ps
        self._timer_steps = self._byte_steps = self._bytes = 0

    def _catch_up(self, now_ps: int) -> None:
        """Applies the decays of alpha, then the rate increases, whose timers have run out by now."""
        config = self._config
        while self._estimated_ps + config.estimate_every <= now_ps:
            self._estimated_ps += config.estimate_every
            self.alpha = (1.0 - config.gain) * self.alpha
        if self.rate_bps >= self._line_bps and self._target_bps >= self._line_bps:
            self._increased_ps = max(self._increased_ps, now_ps - (now_ps - self._increased_ps) % config.increase_every)
            return
        while self._increased_ps + config.increase_every <= now_ps:
            self._increased_ps += config.increase_every
            self._timer_steps += 1
            self._increase()

    def _increase(self) -> None:
        """Raises the rate by fast recovery, additive or hyper increase, as the steps of timer and byte counter say."""
        config = self._config
        least, most = min(self._timer_steps, self._byte_steps), max(self._timer_steps, self._byte_steps)
        if least > config.fast_steps:
            self._target_bps += float(config.hyper)
        elif most > config.fast_steps:
            self._target_bps += float(config.additive)
        self._target_bps = min(self._target_bps, self._line_bps)
        self.rate_bps = (self.rate_bps + self._target_bps) / 2.0
