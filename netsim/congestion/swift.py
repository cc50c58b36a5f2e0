"""Swift: a window that keeps the round trip near a target delay.

Kumar et al.: Swift: Delay is Simple and Effective for Congestion Control in the Datacenter, SIGCOMM 2020, algorithm 1.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from netsim.congestion.protocol import Ack, Congestion, CongestionSettings, RoundTrip
from netsim.congestion.window import Packets, StateOf, initial
from netsim.foundation.units import Duration


class SwiftConfig(CongestionSettings):
    """Section ``congestion`` of kind ``swift``. Defaults: the paper, section 3.5 and table 1, scaled to short paths.

    Args:
        window: Initial window, in packets in flight; bdp: one bandwidth-delay product.
        queueing: Queueing delay that a flow aims at; the target delay is this plus the round trip time of an empty
            network.
        hop_scaling: Delay added to the target for each link of the path (section 3.2).
        flow_scaling: Largest delay added to the target of a flow with a small window, since many small windows make
            long queues (section 3.2); 0: nothing.
        scaled_from: Window, in packets, at and below which all of `flow_scaling` is added to the target (fs_min_cwnd).
        scaled_to: Window, in packets, from which on nothing is added to the target (fs_max_cwnd).
        increase: Packets added to the window in a round trip whose delay is below the target (ai).
        decrease: Weight of the excess delay over the target in a decrease of the window (beta).
        largest_decrease: Largest share of the window that one decrease takes away (max_mdf).
        smallest_window: Smallest window, in packets; below 1 the flow is paced to less than a packet a round trip.
        state: Start of a message. message: every message starts afresh; queue_pair: it continues with the state of the
            latest message between the same ranks.
    """

    core: ClassVar[str] = "Swift"
    kind: Literal["swift"]
    window: Packets = "bdp"
    queueing: Duration = 5 * 10**6
    hop_scaling: Duration = 0
    flow_scaling: Duration = 0
    scaled_from: Annotated[float, Field(gt=0)] = 0.1
    scaled_to: Annotated[float, Field(gt=0)] = 100.0
    increase: Annotated[float, Field(gt=0)] = 1.0
    decrease: Annotated[float, Field(gt=0, le=1)] = 0.8
    largest_decrease: Annotated[float, Field(gt=0, lt=1)] = 0.5
    smallest_window: Annotated[float, Field(gt=0, le=1)] = 0.01
    state: StateOf = "message"

    @model_validator(mode="after")
    def _growing(self) -> "SwiftConfig":
        if self.scaled_from >= self.scaled_to:
            raise ValueError("scaled_from is not below scaled_to; raise scaled_to")
        return self

    def flow_curve(self) -> tuple[float, float]:
        """a and b of the time a / sqrt(window) + b that flow scaling adds, in picoseconds."""
        low, high = 1.0 / math.sqrt(self.scaled_from), 1.0 / math.sqrt(self.scaled_to)
        gain = self.flow_scaling / (low - high)
        return gain, -gain * high

    def constants(self, trims: bool) -> dict[str, int | float]:  # noqa: ARG002
        gain, offset = self.flow_curve()
        return {
            "queueing_ps": self.queueing,
            "increase": self.increase,
            "decrease": self.decrease,
            "largest_decrease": self.largest_decrease,
            "smallest_window": self.smallest_window,
            "hop_ps": self.hop_scaling,
            "flow_range": self.flow_scaling,
            "flow_gain": gain,
            "flow_offset": offset,
        }

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return Swift(self, round_trip)


class Swift(Congestion):
    """One flow under Swift; the time of its path, its links and `queueing` make the target."""

    def __init__(self, config: SwiftConfig, round_trip: RoundTrip) -> None:
        self._config = config
        self._target_ps = round_trip.time_ps + config.queueing + config.hop_scaling * round_trip.hops
        self._gain, self._offset = config.flow_curve()
        self._latest_ps = round_trip.time_ps
        self._decreased_ps = -(2**62)
        self.packets = float(initial(config.window, round_trip))

    def window(self) -> int:
        """The window, rounded down, at least 1."""
        return max(1, int(self.packets))

    def gap_ps(self, wire_bytes: int, now_ps: int) -> int:  # noqa: ARG002
        """The round trip divided by the window if that is below one packet, otherwise 0."""
        return 0 if self.packets >= 1.0 else int(self._latest_ps / self.packets)

    def on_ack(self, ack: Ack) -> None:
        """Increases the window below the target delay. Above it, decreases the window once a round trip, after a
        trimmed packet by the largest step.
        """
        config = self._config
        if ack.marked and not ack.packets:
            if ack.now_ps - self._decreased_ps >= self._latest_ps:
                self._shrink(1.0 - config.largest_decrease, ack.now_ps)
            return
        self._latest_ps = ack.round_trip_ps
        target_ps = self._scaled_target_ps()
        if ack.round_trip_ps < target_ps:
            self.packets += config.increase * ack.packets / max(self.packets, 1.0)
        elif ack.now_ps - self._decreased_ps >= ack.round_trip_ps:
            excess = (ack.round_trip_ps - target_ps) / ack.round_trip_ps
            self._shrink(max(1.0 - config.decrease * excess, 1.0 - config.largest_decrease), ack.now_ps)

    def on_timeout(self, now_ps: int) -> None:
        """Decreases the window by the largest step."""
        self._shrink(1.0 - self._config.largest_decrease, now_ps)

    def _scaled_target_ps(self) -> int:
        """The target for the present window."""
        more_ps = self._gain / math.sqrt(self.packets) + self._offset
        return self._target_ps + int(max(0.0, min(more_ps, float(self._config.flow_scaling))))

    def _shrink(self, factor: float, now_ps: int) -> None:
        self.packets = max(self._config.smallest_window, self.packets * factor)
        self._decreased_ps = now_ps
