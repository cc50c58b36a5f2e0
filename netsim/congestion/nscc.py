"""NSCC: a window in bytes that marks and delay move together, sender by sender.

Ultra Ethernet Specification 1.0, section 3.6.13, network-signalled congestion control. Marks and delay make four cases.
Neither: the window grows in proportion to how far the delay is below its target, and quickly while there is none. Delay
alone: it grows slowly, for fairness. Both: it shrinks with the average delay, once a round trip. A mark alone: the
queue is short-lived, and a transport that sprays takes other paths. After losses or very long delays the window becomes
what has got through in a round trip and target (quick adapt).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from netsim.congestion.protocol import Ack, Congestion, CongestionSettings, Marking, RoundTrip
from netsim.congestion.window import Packets, StateOf
from netsim.foundation.units import PICOSECONDS_PER_SECOND, Duration, Size

REFERENCE_PS = 12 * 10**6
"""Round trip of the network for which the constants are given."""
REFERENCE_BYTES = 150_000
"""Its bandwidth-delay product, at 100 Gbps."""
PROMPT_PS = 10**6
"""A packet delayed by less than this met no queue."""
PROPORTIONAL, FAIR, STEADY, FAST = 4.0, 5.0, 0.15, 0.25
"""Gains: packets in a round trip without delay; packets times acknowledged share of the window; packets a period; share
of the acknowledged bytes."""
DECREASE, LARGEST_DECREASE = 0.8, 0.5
AVERAGE = 0.0125
"""Weight of the newest delay in the average."""
PERIOD_PACKETS = 8
"""Packets after which, or else one round trip, the window is updated."""
VERY_LONG = 4.0
"""Multiple of the target delay from which quick adapt acts."""
LARGEST_WINDOW = 1.5
"""Largest window in bandwidth-delay products."""
TRIM_SHARE = 0.75
"""Target as a share of the network's round trip where switches trim."""


class NsccConfig(CongestionSettings):
    """Section ``congestion`` of kind ``nscc``. All gains are the specification's, scaled to the network's round trip.

    Args:
        window: Initial window, in packets in flight; bdp: 1.5 bandwidth-delay products, which is also the largest
            window.
        round_trip: Round trip time of the whole network without queues; auto: the round trip time of each flow's own
            path.
        target: Queueing delay that a flow aims at; auto: 3/4 of the network's round trip time where switches trim, else
            all of it.
        gate: Threshold of quick adapt: it acts only if less than 1/2**gate of the largest window has got through.
        mark_from: Queue length above which packets are marked with growing probability; auto: 1/5 of topology.queue, or
            35 kB.
        mark_all: Queue length above which all packets are marked; auto: 4/5 of topology.queue, or 140 kB.
        marks: When a switch marks a packet. arrival: when it comes, by the queue that it finds; departure: when it
            leaves, by the queue behind it, so that senders hear of it sooner.
        state: Start of a message. message: every message starts afresh; queue_pair: it continues with the state of the
            latest message between the same ranks.
    """

    core: ClassVar[str] = "Nscc"
    kind: Literal["nscc"]
    window: Packets = "bdp"
    round_trip: Annotated[Duration, Field(gt=0)] | Literal["auto"] = "auto"
    target: Annotated[Duration, Field(gt=0)] | Literal["auto"] = "auto"
    gate: Annotated[int, Field(ge=0, le=16)] = 3
    mark_from: Size | Literal["auto"] = "auto"
    mark_all: Size | Literal["auto"] = "auto"
    marks: Literal["arrival", "departure"] = "arrival"
    state: StateOf = "queue_pair"

    @model_validator(mode="after")
    def _growing(self) -> "NsccConfig":
        low, high = self.mark_from, self.mark_all
        if (low == "auto") != (high == "auto"):
            raise ValueError("mark_from and mark_all belong together; write both or neither")
        if low != "auto" and high != "auto" and low >= high:
            raise ValueError("mark_from is not below mark_all; raise mark_all")
        return self

    def thresholds(self, queue_bytes: int | None) -> tuple[int, int]:
        """Queue lengths in bytes from which some and all packets are marked; `queue_bytes` is None without a limit."""
        if self.mark_from != "auto" and self.mark_all != "auto":
            return self.mark_from, self.mark_all
        return (35_000, 140_000) if queue_bytes is None else (queue_bytes // 5, queue_bytes * 4 // 5)

    def marking(self, queue_bytes: int | None) -> Marking:
        return Marking(*self.thresholds(queue_bytes), 1.0, self.marks == "departure")

    def constants(self, trims: bool) -> dict[str, int | float]:
        return {
            "gate": 1 << self.gate,
            "trim_share": TRIM_SHARE if trims else 1.0,
            "network_ps": -1 if self.round_trip == "auto" else self.round_trip,
            "target_ps": -1 if self.target == "auto" else self.target,
        }

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return Nscc(self, round_trip, trims)


class Nscc(Congestion):
    """One flow under NSCC; `round_trip` is the first estimate without queues, which shorter samples replace."""

    def __init__(self, config: NsccConfig, round_trip: RoundTrip, trims: bool = False) -> None:
        self._packet = float(round_trip.packet_bytes)
        self._line_bps = float(round_trip.rate_bps)
        self._gate = 1 << config.gate
        self._network_ps = round_trip.time_ps if config.round_trip == "auto" else config.round_trip
        share = TRIM_SHARE if trims else 1.0
        self._target_ps = int(share * self._network_ps) if config.target == "auto" else config.target
        scale = self._network_ps * self._line_bps / (8.0 * PICOSECONDS_PER_SECOND) / REFERENCE_BYTES
        self._scaled_packet = self._packet * scale
        self._scale = scale
        self._base_ps = round_trip.time_ps
        self._most = self._largest()
        first = self._most if config.window == "bdp" else config.window * self._packet
        self.window_bytes = max(first, self._packet)
        self._average_ps = 0.0
        self._rise = 0.0
        self._achieved = self._received = self._ignored = self._to_ignore = self._prompt = 0.0
        self._fast = self._lost = False
        self._adapts_ps = self._adjusted_ps = self._decreased_ps = 0

    def begin_message(self) -> None:
        """Begins another message of the queue pair: restarts the count of bytes that get through, despite any pause."""
        self._achieved, self._adapts_ps, self._lost = 0.0, 0, False

    def window(self) -> int:
        """Full packets that fit into the window."""
        return max(1, int(self.window_bytes / self._packet))

    def on_ack(self, ack: Ack) -> None:
        """Runs quick adapt, or else changes the window by the packet's mark and delay."""
        if ack.round_trip_ps < self._base_ps:
            self._base_ps = ack.round_trip_ps
            self._most = self._largest()
        if ack.refused:
            self._refuse(ack.now_ps, ack.in_flight)
            return
        acked = ack.packets * self._packet
        self._achieved += acked
        self._received += acked
        self._ignored += acked
        delay_ps = ack.round_trip_ps - self._base_ps
        if not ack.marked and delay_ps > self._target_ps:
            self._average_ps = AVERAGE * (0.25 * self._base_ps) + (1.0 - AVERAGE) * self._average_ps
        else:
            self._average_ps = AVERAGE * delay_ps + (1.0 - AVERAGE) * self._average_ps
        very_long = delay_ps > VERY_LONG * self._target_ps
        if self._adapt(very_long, ack.marked, ack.now_ps, ack.in_flight * self._packet):
            return
        if ack.marked:
            if delay_ps >= self._target_ps:
                self._shrink(ack.now_ps)
        elif delay_ps >= self._target_ps:
            self._rise += FAIR * self._scaled_packet * acked
        else:
            self._grow(acked, delay_ps)
        self._bound()
        if self._received > PERIOD_PACKETS * self._packet or ack.now_ps - self._adjusted_ps > self._network_ps:
            self._adjust(ack.now_ps)
            self._bound()

    def on_timeout(self, now_ps: int) -> None:  # noqa: ARG002
        """Sets the window to one packet, as all packets in flight count as lost."""
        self.window_bytes = self._packet

    def _refuse(self, now_ps: int, in_flight: int) -> None:
        """Reacts to a trimmed packet: quick adapt, or else a packet less."""
        self._ignored += self._packet
        self._average_ps = AVERAGE * self._network_ps + (1.0 - AVERAGE) * self._average_ps
        self._lost = True
        if not self._adapt(True, True, now_ps, (in_flight + 1) * self._packet):
            self.window_bytes -= self._packet
            self._bound()

    def _adapt(self, loss: bool, marked: bool, now_ps: int, in_flight: float) -> bool:
        """Runs quick adapt; returns whether this acknowledgement must change nothing else.

        Once the window has been cut, marks of packets that were in flight are ignored.
        """
        done = marked and self._ignored < self._to_ignore
        if not done and now_ps > self._adapts_ps:
            if self._adapts_ps and (loss or self._lost) and self._achieved * self._gate < self._most:
                self.window_bytes = max(self._achieved, self._packet)
                self._to_ignore, self._ignored = in_flight, 0.0
                self._lost = False
                done = True
            self._achieved = 0.0
            self._adapts_ps = now_ps + self._base_ps + self._target_ps
        if done:
            self._rise = self._received = 0.0
        return done

    def _grow(self, acked: float, delay_ps: int) -> None:
        """Proportional increase, or fast increase after a window without any delay."""
        if delay_ps < PROMPT_PS:
            self._prompt += acked
            if self._fast or self._prompt > self.window_bytes:
                self.window_bytes += acked * (FAST * self._scale)
                self._fast = True
                return
        else:
            self._prompt = 0.0
        self._fast = False
        self._rise += PROPORTIONAL * self._scaled_packet / REFERENCE_PS * acked * (self._target_ps - delay_ps)

    def _shrink(self, now_ps: int) -> None:
        """Multiplicative decrease by the average delay, once a round trip."""
        self._fast, self._prompt = False, 0.0
        if self._average_ps > self._target_ps and now_ps - self._decreased_ps > self._base_ps:
            excess = (self._average_ps - self._target_ps) / self._average_ps
            self.window_bytes *= max(1.0 - DECREASE * excess, LARGEST_DECREASE)
            self._decreased_ps = now_ps

    def _adjust(self, now_ps: int) -> None:
        """Applies the increases since the last time, and once a round trip a small one for all."""
        self.window_bytes += self._rise / self.window_bytes
        if now_ps - self._adjusted_ps >= self._network_ps:
            self.window_bytes += STEADY * self._scaled_packet
            self._adjusted_ps = now_ps
        self._rise = self._received = 0.0

    def _bound(self) -> None:
        self.window_bytes = min(max(self.window_bytes, self._packet), self._most)

    def _largest(self) -> float:
        """The largest window, of at least a packet."""
        return max(LARGEST_WINDOW * (self._base_ps * self._line_bps / (8.0 * PICOSECONDS_PER_SECOND)), self._packet)
