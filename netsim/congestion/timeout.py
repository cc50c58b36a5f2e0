"""The retransmission timeout of a flow: a fixed one or an estimate, doubled for each timeout in a row.

Paxson, Allman, Chu, Sargent: Computing TCP's Retransmission Timer, RFC 6298, sections 2, 3 and 5; the arithmetic in
integers is that of Jacobson: Congestion Avoidance and Control, SIGCOMM 1988, appendix A.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from netsim.foundation.settings import Section
from netsim.foundation.units import Duration, format_time, parse_time

AUTO = 0
"""Value of a timeout that is estimated from round trips."""


def _auto_or_time(value: object) -> int:
    if value == "auto":
        return AUTO
    try:
        time_ps = parse_time(value)
    except ValueError as error:
        raise ValueError(f"{error}; or write auto") from None
    if not time_ps:
        raise ValueError("a timeout of 0 runs out at once; write auto, or a duration such as 1ms")
    return time_ps


AutoOrDuration = Annotated[
    int,
    BeforeValidator(_auto_or_time),
    PlainSerializer(lambda time_ps: format_time(time_ps) if time_ps else "auto", return_type=str),
    WithJsonSchema({"type": "string", "x-values": "auto | duration such as 1ms"}),
]


class TimeoutConfig(Section):
    """The keys of section ``recovery`` on timeouts.

    The estimate is never below the fixed timeout of 1 ms that adapters come with, so that a flow whose round trips take
    less loses nothing by it, and a crowd of senders whose round trips take many milliseconds does not send everything
    several times. RFC 6298 asks for 1 s, a thousand times the round trips of its networks; a data centre's take
    microseconds.

    Args:
        timeout: Retransmission timeout (RTO): time without progress after which the sender takes all packets in flight
            as lost. auto: the smoothed round trip time and four times its mean deviation, at least `shortest_timeout`,
            which also holds before the first acknowledgement (RFC 6298). Each timeout in a row without progress doubles
            it.
        shortest_timeout: Shortest timeout that auto comes to.
        longest_timeout: Longest timeout that doubling comes to; a timeout that is longer by itself is not doubled.
    """

    timeout: AutoOrDuration = AUTO
    shortest_timeout: Annotated[Duration, Field(gt=0)] = 10**9
    longest_timeout: Annotated[Duration, Field(gt=0)] = 10**11

    @property
    def first_ps(self) -> int:
        """The timeout in ps before the first sample; no later estimate is shorter."""
        return self.timeout or self.shortest_timeout


class Timeout:
    """The timeout of one flow, in whole picoseconds.

    An acknowledgement names the transmission that it answers. So a packet that was sent twice gives a sample too:
    Karn's rule excludes such samples only where it is unknown which of the two was answered (RFC 6298, section 3).
    Answers to trimmed packets and refusals give none, since they pass queues or come late.
    """

    def __init__(self, config: TimeoutConfig) -> None:
        self._first_ps, self._longest_ps = config.first_ps, config.longest_timeout
        self._estimates = config.timeout == AUTO
        self._smoothed_8 = self._deviation_4 = 0
        self.fruitless = 0
        """Timeouts in a row since the last progress."""

    def lasts_ps(self) -> int:
        """The present timeout in ps, doubled for each timeout in a row without progress."""
        base = max(self._first_ps, (self._smoothed_8 >> 3) + self._deviation_4)
        lasts, doublings = base, self.fruitless
        while doublings and lasts < self._longest_ps:
            lasts, doublings = 2 * lasts, doublings - 1
        return max(base, min(lasts, self._longest_ps))

    def measure(self, round_trip_ps: int) -> None:
        """Takes a sample: (2.2) and (2.3) of RFC 6298, where 8 srtt and 4 rttvar are kept."""
        if not self._estimates:
            return
        if not self._smoothed_8:
            self._smoothed_8, self._deviation_4 = 8 * round_trip_ps, 2 * round_trip_ps
            return
        difference = round_trip_ps - (self._smoothed_8 >> 3)
        self._smoothed_8 += difference
        self._deviation_4 += abs(difference) - (self._deviation_4 >> 2)
