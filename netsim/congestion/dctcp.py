"""DCTCP: a window that shrinks in proportion to the share of marked packets.

Alizadeh et al.: Data Center TCP, SIGCOMM 2010, section 3.3; a threshold of C * RTT / 7 keeps the link busy (3.4).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from netsim.congestion.protocol import Ack, Congestion, CongestionSettings, Marking, RoundTrip
from netsim.congestion.window import Packets, StateOf, initial
from netsim.foundation.units import Size


class DctcpConfig(CongestionSettings):
    """Section ``congestion`` of kind ``dctcp``.

    Args:
        gain: Weight of the newest window in the estimate of the marked share; 1/16 in the paper.
        alpha: Estimate of the marked share at the start. 1: the first mark halves the window, as the paper has it; 0: a
            window falls only by what its own acknowledgements have shown.
        window: Initial window, in packets in flight; bdp: one bandwidth-delay product.
        mark_above: Queue length of a switch above which an arriving packet is marked (ECN). arXiv 2407.00550 uses 800
            KB at 400 Gbps; the default is in proportion for 100 Gbps.
        state: Start of a message. message: every message starts afresh; queue_pair: it continues with the state of the
            latest message between the same ranks.
    """

    core: ClassVar[str] = "Dctcp"
    kind: Literal["dctcp"]
    gain: Annotated[float, Field(gt=0, le=1)] = 1 / 16
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    window: Packets = "bdp"
    mark_above: Size = 200_000
    state: StateOf = "message"

    def marking(self, queue_bytes: int | None) -> Marking:  # noqa: ARG002
        return Marking(self.mark_above, self.mark_above, 1.0)

    def constants(self, trims: bool) -> dict[str, int | float]:  # noqa: ARG002
        return {"gain": self.gain, "alpha": self.alpha}

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return Dctcp(self, round_trip)


class Dctcp(Congestion):
    """One flow under DCTCP.

    Once a window of acknowledgements the estimate moves to alpha = (1 - g) alpha + g F with F the marked
    share of that window, and the window gains a packet if nothing was marked. The first mark cuts it at once by
    alpha / 2; marks of packets that left before the last cut do not cut again. After a timeout it is one packet.
    """

    def __init__(self, config: DctcpConfig, round_trip: RoundTrip) -> None:
        self._gain = config.gain
        self.packets = float(initial(config.window, round_trip))
        self.alpha = config.alpha
        self._seen = self._marked = 0
        self._cut_ps = 0

    def window(self) -> int:
        """The window, rounded down."""
        return int(self.packets)

    def on_ack(self, ack: Ack) -> None:
        """Counts packets and marks, cuts the window at a mark, and updates alpha at the end of a window."""
        counted = max(ack.packets, int(ack.marked))
        self._seen += counted
        if ack.marked:
            self._marked += counted
            if ack.now_ps - ack.round_trip_ps >= self._cut_ps:
                self.packets = max(1.0, self.packets * (1.0 - self.alpha / 2.0))
                self._cut_ps = ack.now_ps
        if self._seen < self.packets:
            return
        share = self._marked / self._seen
        self.alpha = (1.0 - self._gain) * self.alpha + self._gain * share
        if not self._marked:
            self.packets += 1.0
        self._seen = self._marked = 0

    def on_timeout(self, now_ps: int) -> None:  # noqa: ARG002
        """Starts over with one packet."""
        self.packets = 1.0
        self._seen = self._marked = 0
