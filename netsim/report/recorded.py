"""Compares the recorded collectives of a profile with the same on a simulated fabric, as a table and a page."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table as Printed

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import AMBER, BLUE, GREY, Stacks
from netsim.foundation.page import Facts, Figure, Note, Section, Table, page
from netsim.foundation.terminal import Terminal
from netsim.report.summary import in_unit, size_in_unit, time_unit

AGREES = 0.25
"""Least difference, relative to the simulated time, for which a cause is named."""
_LAUNCH_US, _SHARED = 20.0, 0.5
_LARGEST = 12
_WIDE = 160
RULES = (
    "Causes, by rule, where the difference is more than 25 % of the simulated time. skew: waiting for other ranks "
    "that is not simulated is more than that. launch bound: moving takes at most 20 µs longer, as long as launches "
    "take. SMs shared: moving takes longer, and kernels compute beside it for at least half of its time. "
    "link bound: moving takes less, so that the simulated links are slower or carry more. Else the difference is "
    "unexplained. Where waiting is unknown (-), it is part of moving. With the profile of one rank alone, waiting of "
    "NCCL is the time by which a collective exceeds the shortest ones of its group and size."
)


class Move(NamedTuple):
    """A collective of one rank, or the mean of `count` such, in microseconds.

    `moving_us` is what its kernels took and `waiting_us` how long they, or those before them, waited for other ranks,
    None if nobody knows; `beside` is the part of its time in which kernels computed, 0 to 1. `late_us` is the part of
    the simulated time in which it waited.
    """

    kind: str
    ranks: int
    bytes: int
    moving_us: float
    waiting_us: float | None
    beside: float
    simulated_us: float
    late_us: float = 0.0
    count: int = 1

    @property
    def recorded_us(self) -> float:
        """The whole recorded time: moving and waiting."""
        return self.moving_us + (self.waiting_us or 0.0)

    @property
    def cause(self) -> str:
        """Why recorded and simulated time differ, by `RULES`; empty if they agree."""
        most = AGREES * self.simulated_us
        if abs(self.recorded_us - self.simulated_us) <= most:
            return ""
        late_us = 0.0 if self.waiting_us is None else self.late_us
        causes = ["skew"] if (self.waiting_us or 0.0) - late_us > most else []
        more = self.moving_us - (self.simulated_us - late_us)
        if abs(more) > most:
            if more < 0:
                causes.append("link bound")
            elif more <= _LAUNCH_US:
                causes.append("launch bound")
            else:
                causes.append("SMs shared" if self.beside >= _SHARED else "unexplained")
        return " and ".join(causes)


class Comparison(NamedTuple):
    """The collectives of a rank in their order, and its step, whole as recorded and as simulated.

    `exposed_us` is the recorded time of communication without computing at the same time, `waiting_us` the part of it
    spent waiting for other ranks, `late_us` the same part of the simulated time. `measured` are the sections of the
    page on collectives whose times come from a calibration of the fabric.
    """

    fabric: str
    moves: Sequence[Move]
    whole_us: float
    exposed_us: float
    waiting_us: float
    simulated_us: float
    late_us: float
    measured: Sequence[Section] = ()

    @property
    def simulated_exposed_us(self) -> float:
        """Exposed communication of the simulated step: all but computing, which takes as long as recorded."""
        return max(0.0, self.simulated_us - (self.whole_us - self.exposed_us))

    @property
    def cause(self) -> str:
        """Why the exposed times differ, by `RULES`."""
        moving = self.exposed_us - self.waiting_us
        beside = _mean(self.moves).beside if self.moves else 0.0
        return Move("", 0, 0, moving, self.waiting_us, beside, self.simulated_exposed_us, self.late_us).cause

    def shares(self) -> tuple[float, float]:
        """Parts of the step that are exposed communication, recorded and simulated."""
        return self.exposed_us / (self.whole_us or 1), self.simulated_exposed_us / (self.simulated_us or 1)

    def kinds(self) -> list[Move]:
        """Means by kind, group size and bytes; the largest total difference comes first."""
        key: Callable[[Move], tuple[str, int, int]] = lambda move: (move.kind, move.ranks, move.bytes)  # noqa: E731
        means = [_mean(list(moves)) for _, moves in groupby(sorted(self.moves, key=key), key)]
        return sorted(means, key=lambda move: -abs(move.count * (move.recorded_us - move.simulated_us)))

    def largest(self) -> list[tuple[int, Move]]:
        """Collectives that differ most, each with its number."""
        by_difference = sorted(enumerate(self.moves), key=lambda one: -abs(one[1].recorded_us - one[1].simulated_us))
        return by_difference[:_LARGEST]

    def said(self) -> str:
        """The recorded and simulated step in one sentence."""
        recorded, simulated = self.shares()
        cause = f" ({self.cause})" if self.cause else ""
        return (
            f"step: {_time(self.whole_us)} recorded, {_time(self.simulated_us)} simulated on {self.fabric}; exposed "
            f"communication: {_time(self.exposed_us)} ({recorded:.0%}) recorded, "
            f"{_time(self.simulated_exposed_us)} ({simulated:.0%}) simulated{cause}"
        )


def _mean(moves: Sequence[Move]) -> Move:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    waits = [move.waiting_us for move in moves if move.waiting_us is not None]
    times = mean([move.moving_us for move in moves]), mean(waits) if waits else None
    beside, simulated = mean([move.beside for move in moves]), mean([move.simulated_us for move in moves])
    return Move(*moves[0][:3], *times, beside, simulated, mean([move.late_us for move in moves]), len(moves))


_KINDS = ("kind", "ranks", "sent", "collectives")
_TIMES = ("moving", "waiting", "simulated", "recorded / simulated", "cause")


def print_comparison(comparison: Comparison) -> None:
    """Prints a table by kind of collective, and the sentence on the step."""
    table = Printed(box=SIMPLE_HEAD)
    for number, head in enumerate((*_KINDS, *_TIMES)):
        table.add_column(head, justify="left" if number in (0, len((*_KINDS, *_TIMES)) - 1) else "right", no_wrap=True)
    for move in comparison.kinds():
        table.add_row(move.kind, str(move.ranks), size_in_unit(move.bytes), str(move.count), *_times(move))
    Terminal(width=None if Terminal().is_terminal else _WIDE).print(table)
    print(comparison.said())


def comparison_page(comparison: Comparison, source: str) -> str:
    """The page: the step, time by kind, and the largest differences with their causes."""
    kinds, (recorded, simulated) = comparison.kinds(), comparison.shares()
    facts = Facts(
        (
            ("step, recorded", _time(comparison.whole_us), ""),
            ("step, simulated", _time(comparison.simulated_us), f"on {comparison.fabric}"),
            (
                "exposed, recorded",
                _time(comparison.exposed_us),
                f"{recorded:.0%} of the step; {_time(comparison.waiting_us)} of it waiting",
            ),
            ("exposed, simulated", _time(comparison.simulated_exposed_us), f"{simulated:.0%} of the step"),
        )
    )
    rows = [(move.kind, str(move.ranks), size_in_unit(move.bytes), str(move.count), *_times(move)) for move in kinds]
    largest = [
        (f"{number}", move.kind, str(move.ranks), size_in_unit(move.bytes), *_times(move), f"{move.beside:.0%}")
        for number, move in comparison.largest()
    ]
    step = Figure(_step_svg(comparison), "A step is computing and exposed communication.")
    sections = [Section("The step", [facts, step])]
    if kinds:
        by_kind = Figure(_kinds_svg(kinds), "Time of all collectives of a kind. Waiting is for ranks that come later.")
        sections += [
            Section("Collectives by kind", [by_kind, Table((*_KINDS, *_TIMES), rows, "Means of a collective.")]),
            Section(
                "The largest differences",
                [
                    Table(("number", "kind", "ranks", "sent", *_TIMES, "computing beside"), largest, dense=True),
                    Note(RULES),
                ],
            ),
        ]
    sections += comparison.measured
    finding = comparison.said()
    return page("Recorded beside simulated", finding[0].upper() + finding[1:], sections, footer=source, verb="import")


def _step_svg(comparison: Comparison) -> str:
    computing = comparison.whole_us - comparison.exposed_us
    amounts = [[computing, comparison.exposed_us], [computing, comparison.simulated_exposed_us]]
    names = "computing", "exposed communication"
    return _bars(amounts, names, (GREY, BLUE), ("recorded", "simulated"), 1.7, "step")


def _kinds_svg(kinds: Sequence[Move]) -> str:
    amounts, rows = [], []
    for move in kinds[:_LARGEST]:
        amounts.append([move.count * move.moving_us, move.count * (move.waiting_us or 0.0), 0.0])
        amounts.append([0.0, 0.0, move.count * move.simulated_us])
        rows += [f"{move.kind}, {size_in_unit(move.bytes)}", "simulated"]
    names = "moving, recorded", "waiting, recorded", "simulated"
    return _bars(amounts, names, (BLUE, AMBER, GREY), rows, 0.8 + 0.34 * len(rows), "kinds")


def _bars(
    amounts_us: Sequence[Sequence[float]],
    names: Sequence[str],
    colours: Sequence[str],
    rows: Sequence[str],
    height: float,
    name: str,
) -> str:
    scale, unit = time_unit(max(map(sum, amounts_us)))
    stacks = Stacks([[us / scale for us in row] for row in amounts_us], names, colours, "{:.3g}")
    return chart([Panel([stacks], x=unit, rows=rows, legend="right", grid="x")], size=(11, height), name=name)


def _times(move: Move) -> tuple[str, ...]:
    waiting = "-" if move.waiting_us is None else _time(move.waiting_us)
    ratio = f"{move.recorded_us / move.simulated_us:.2f}" if move.simulated_us else "-"
    return _time(move.moving_us), waiting, _time(move.simulated_us), ratio, move.cause


def _time(us: float) -> str:
    return in_unit(us, 3)
