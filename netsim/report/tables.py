"""A comparison as text, for the page and the terminal: its table, recorded steps, algorithms, and changes of a pair."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from netsim.foundation.page import Note, Section, Table
from netsim.foundation.units import format_size, microseconds, signed, size_in_unit, spread
from netsim.simulation.results import Pair, Results, Run
from netsim.simulation.summary import TransportSummary, by_transport, operations, summarise
from netsim.workload.device_table import Computed

_SIZES = (
    "Size: of all_reduce the vector, of all_gather the whole result, of reduce_scatter a rank's whole input, of "
    "broadcast the buffer, of all_to_all the largest input of a rank. A row stands for neighbouring sizes that "
    "took the same algorithm."
)
_CHOSEN = {
    "auto": "auto: the least estimate from the rates and delays of this fabric",
    "nccl": "nccl: the choice of NCCL's model of latencies and bandwidths",
    "table": "table: the last row of the table that holds",
}


class Column(NamedTuple):
    """A column of the table, left out if `amount` is 0 for every transport; with `packets` flow level has no entry."""

    head: str
    cell: Callable[[TransportSummary], str]
    packets: bool = False
    amount: Callable[[TransportSummary], float] = lambda _: 1.0


COLUMNS = (
    Column("transport", lambda s: s.label),
    Column("completion, mean [min, max]", lambda s: spread(s.completions_us)),
    Column("above bound", lambda s: signed(s.above_bound), amount=lambda s: s.bound_us),
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


def _part(packets: float, all_packets: float) -> str:
    """Share of all packets, in percent."""
    return f"{100 * packets / all_packets:.2g} %" if packets else "0"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1000:,.0f} KB" if size_bytes >= 1000 else format_size(size_bytes)


class Step(NamedTuple):
    """An optimiser step, from its first collective to the end of its last; predictions by transport, means of seeds."""

    number: int
    recorded_us: float
    predicted_us: Mapping[str, float]


def steps(results: Results) -> list[Step]:
    """Every step whose recorded time is known."""
    recorded_steps = []
    for number, recorded_ps in results.recorded_ps.items():
        indices = [index for index, span in enumerate(results.spans) if span.step == number]
        if indices and recorded_ps:
            predicted = {
                name: sum(_duration_ps(run, indices) for run in seeds) / len(seeds) / 1e6
                for name, seeds in by_transport(results).items()
            }
            recorded_steps.append(Step(number, recorded_ps / 1e6, predicted))
    return recorded_steps


def ratios(results: Results) -> dict[str, float]:
    """Predicted over recorded time, all steps together, by transport; empty where nothing was recorded."""
    known = steps(results)
    recorded = sum(step.recorded_us for step in known)
    return {
        run.transport: sum(step.predicted_us[run.transport] for step in known) / recorded
        for run in results.runs
        if known
    }


def recorded_sentence(results: Results) -> str:
    """The ratio of predicted to recorded step times in one sentence; empty if nothing was recorded."""
    known = steps(results)
    if not known:
        return ""
    mean_ms = sum(step.recorded_us for step in known) / len(known) / 1000
    each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios(results).items())
    plural = "s" if len(known) > 1 else ""
    return f"predicted / recorded step time, {len(known)} step{plural} of {mean_ms:,.4g} ms: {each}"


def _duration_ps(run: Run, indices: list[int]) -> int:
    times = [run.collectives[index] for index in indices]
    return max(time.end_ps for time in times) - min(time.start_ps for time in times)


Row = tuple[str, int, int, int, str, int]
"""Collective, ranks, least and largest size in bytes, algorithm, number of collectives."""


def algorithm_rows(results: Results) -> list[Row]:
    """Algorithms by collective, number of ranks and size; neighbouring sizes with one algorithm share a row."""
    rows: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for (op, ranks, size, algorithm), count in sorted(results.algorithms.items()):
        of_op = rows[op, ranks]
        if of_op and of_op[-1][4] == algorithm:
            of_op[-1] = (op, ranks, of_op[-1][2], size, algorithm, of_op[-1][5] + count)
        else:
            of_op.append((op, ranks, size, size, algorithm, count))
    return [row for of_op in rows.values() for row in of_op]


def algorithm_sections(results: Results, of: str = "") -> list[Section]:
    """Which algorithms collectives took; none for a workload of one collective with an algorithm by name."""
    chosen = [by for by in _CHOSEN if by in results.scenario["algorithms"].values()]
    if not results.algorithms or (not chosen and sum(results.algorithms.values()) == 1):
        return []
    head = ("collective", "ranks", "size", "algorithm", "collectives")
    lines = [
        (op, f"{ranks:,}", _sizes(least, most), algorithm, f"{count:,}")
        for op, ranks, least, most, algorithm, count in algorithm_rows(results)
    ]
    note = " ".join([_SIZES, *(f"{_CHOSEN[by]}." for by in chosen)])
    return [Section(f"Algorithms: {of}" if of else "Algorithms of collectives", [Table(head, lines, note)])]


_MEASURED = (
    "Nominal: the estimate of the algorithm from rates and delays of the links. Measured: from the calibration of the "
    "hosts, {}, with its interval of 90 %; extrapolated where the size or the number of ranks was not measured. "
    "Collectives inside a host take the measured time in the simulation and send no messages; others are simulated."
)


def measured_sections(results: Results) -> list[Section]:
    """Section that compares nominal with measured times of collectives; none without a calibration."""
    if not results.measured:
        return []
    head = ("collective", "ranks", "hosts", "size", "collectives", "nominal, µs", "measured, µs", "interval, µs", "")
    rows = [
        (
            one.op,
            f"{one.ranks:,}",
            f"{one.hosts:,}",
            size_in_unit(one.bytes),
            f"{one.collectives:,}",
            "" if one.nominal_ps is None else f"{one.nominal_ps / 1e6:,.1f}",
            f"{one.predicted.time_us:,.1f}",
            f"{one.predicted.low_us:,.1f} to {one.predicted.high_us:,.1f}",
            "extrapolated" if one.predicted.extrapolated else "",
        )
        for one in results.measured
    ]
    inside = [one for one in results.measured if one.nominal_ps and one.hosts == 1]
    title = "Collectives inside a host, measured beside nominal"
    if inside:
        ratios = sorted(one.predicted.time_us * 1e6 / (one.nominal_ps or 1) for one in inside)
        bounds = " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (ratios[0], ratios[-1])))
        title = f"Collectives inside a host take {bounds} times what their links alone say"
    name = results.scenario["topology"]["calibration"]
    return [Section(title, [Table(head, rows, _MEASURED.format(name), dense=True)])]


_COMPUTED = (
    "Of one product, attention, or reading and writing, by the table {}. In nine of ten cases a time is shorter or "
    "longer by at most the factor. Extrapolated: sizes outside of those measured."
)


def computed_sections(results: Results) -> list[Section]:
    """Section on the errors of compute times; none without a table of measurements."""
    if not results.computed:
        return []
    of_kind: dict[tuple[str, str], list[Computed]] = defaultdict(list)
    for one in results.computed:
        of_kind[one.table, one.kind].append(one)
    rows = [
        (
            kind,
            f"{len(sizes):,}",
            spread([one.time_ps / 1e6 for one in sizes]),
            f"{sizes[0].error:.2f}",
            f"{sum(one.extrapolated for one in sizes):,}",
        )
        for (_, kind), sizes in of_kind.items()
    ]
    head = ("computing", "sizes", "time, mean [min, max]", "factor", "extrapolated")
    worst = max(one.error for one in results.computed)
    title = f"Nine of ten times of computing are right to a factor of {worst:.2f}"
    names = ", ".join(dict.fromkeys(one.table for one in results.computed))
    return [Section(title, [Table(head, rows, _COMPUTED.format(names))])]


def _sizes(least: int, most: int) -> str:
    return format_size(least) if least == most else f"{format_size(least)} to {format_size(most)}"


class Change(NamedTuple):
    """One transport, or an operation under it, in both simulations of a pair; times are means over the seeds, us."""

    name: str
    first_us: float
    second_us: float

    @property
    def share(self) -> float:
        """The second time over the first, less one."""
        return self.second_us / self.first_us - 1 if self.first_us else 0.0

    def cells(self) -> tuple[str, ...]:
        """Name, both times and the change, as text."""
        return self.name, f"{self.first_us / 1000:,.4f}", f"{self.second_us / 1000:,.4f}", f"{self.share:+.2%}"


def changes(pair: Pair) -> list[Change]:
    """Every transport of the scenario, in its order."""
    both = zip(summarise(pair.first), summarise(pair.second), strict=True)
    return [Change(first.name, first.mean_us, second.mean_us) for first, second in both]


def operation_changes(pair: Pair) -> list[Change]:
    """Every operation that both workloads have, under each transport."""
    others = {kind.name: kind for kind in operations(pair.second)}
    return [
        Change(f"{kind.name}, {transport}", kind.mean_us(transport), others[kind.name].mean_us(transport))
        for kind in operations(pair.first)
        if kind.name in others
        for transport in kind.times_us
    ]


def change_columns(pair: Pair, of: str) -> tuple[str, ...]:
    """The heads of a table of changes."""
    return of, *(f"{name}, ms" for name in pair.names), "change"


def change_finding(pair: Pair) -> str:
    """How the completion of all transports changes, in one sentence."""
    ordered = sorted(changes(pair), key=lambda change: change.share)
    least, most = ordered[0], ordered[-1]
    both = f"{least.share:+.1%} ({least.name})"
    both += f" to {most.share:+.1%} ({most.name})" if len(ordered) > 1 else ""
    return f"With {pair.names[1]} in place of {pair.names[0]}, completion changes by {both}."


def change_sections(pair: Pair) -> list[Section]:
    """Sections that compare both simulations of a pair, for the page of the first."""
    blocks = [
        Table(change_columns(pair, "transport"), [change.cells() for change in changes(pair)]),
        Note(f"{pair.said} The report of {pair.names[1]} is in the folder against."),
    ]
    if by_operation := operation_changes(pair):
        caption = "Time of a rank in the collectives of each operation, with waiting for others."
        rows = [change.cells() for change in by_operation]
        blocks.insert(1, Table(change_columns(pair, "operation"), rows, caption))
    sections = [Section(f"Against {pair.names[1]}", blocks)]
    if pair.first.algorithms != pair.second.algorithms:
        for name, results in zip(pair.names, (pair.first, pair.second), strict=True):
            sections += algorithm_sections(results, name)
    return sections
