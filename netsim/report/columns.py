"""The comparison as a table of text: for the page and the terminal."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from netsim.report.summary import TransportSummary, summarise
from netsim.results import Results
from netsim.units import format_size


class Column(NamedTuple):
    """A column of the table, left out if `amount` is 0 for every transport; with `packets` flow level has no entry."""

    head: str
    cell: Callable[[TransportSummary], str]
    packets: bool = False
    amount: Callable[[TransportSummary], float] = lambda _: 1.0


COLUMNS = (
    Column("transport", lambda s: transport_name(s)),
    Column("completion, mean [min, max]", lambda s: spread(s.completions_us)),
    Column("above bound", lambda s: f"{100 * s.above_bound:+.1f} %".replace("-0.0", "+0.0")),
    Column("flow p99", lambda s: f"{microseconds(s.flow_p99_us)} µs"),
    Column("longest queue", lambda s: _size(s.max_queue_bytes), True, lambda s: s.packets),
    Column("reordered", lambda s: _part(s.reordered_packets, s.packets), True, lambda s: s.packets),
    Column("dropped", lambda s: _part(s.dropped_packets, s.packets), True, lambda s: s.dropped_packets),
    Column("trimmed", lambda s: _part(s.trimmed_packets, s.packets), True, lambda s: s.trimmed_packets),
    Column("marked", lambda s: _part(s.marked_packets, s.packets), True, lambda s: s.marked_packets),
    Column("sent again", lambda s: _part(s.retransmitted_packets, s.packets), True, lambda s: s.retransmitted_packets),
    Column("paused", lambda s: f"{microseconds(s.paused_us)} µs", True, lambda s: s.paused_us),
)


def columns(results: Results) -> list[Column]:
    """The columns of `COLUMNS` that are not empty."""
    return [column for column in COLUMNS if any(column.amount(summary) for summary in summarise(results))]


def table_rows(results: Results) -> list[tuple[str, ...]]:
    """A row of text a transport, under `columns`."""
    return [
        tuple("-" if column.packets and summary.flow_level else column.cell(summary) for column in columns(results))
        for summary in summarise(results)
    ]


def transport_name(summary: TransportSummary) -> str:
    """Name of the transport, marked if it has no packets."""
    return f"{summary.name} (flow level)" if summary.flow_level else summary.name


def spread(times_us: Sequence[float]) -> str:
    """Mean, least and most of some times in microseconds; the time itself if there is one."""
    mean = f"{microseconds(sum(times_us) / len(times_us))} µs"
    return f"{mean} [{microseconds(min(times_us))}, {microseconds(max(times_us))}]" if len(times_us) > 1 else mean


def microseconds(value: float) -> str:
    """With one place, thousands apart."""
    return f"{value:,.1f}"


def _part(packets: float, all_packets: float) -> str:
    """Share of all packets, in percent."""
    return f"{100 * packets / all_packets:.2g} %" if packets else "0"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1000:,.0f} KB" if size_bytes >= 1000 else format_size(size_bytes)
