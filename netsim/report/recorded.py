"""Compares the recorded collectives of a profile with the same on a simulated fabric, as a table and a page."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table as Printed

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import AMBER, BLUE, GREY, Stacks
from netsim.foundation.page import Facts, Figure, Note, Section, Table, page
from netsim.foundation.terminal import Terminal
from netsim.foundation.units import in_unit, size_in_unit, time_unit
from netsim.report.tables import measured_sections
from netsim.simulation.recorded import RULES, Comparison, Move

_LARGEST = 12
_WIDE = 160
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
    print(_sentence(comparison))


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
        for number, move in comparison.largest()[:_LARGEST]
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
    sections += measured_sections(comparison.results)
    finding = _sentence(comparison)
    return page("Recorded beside simulated", finding[0].upper() + finding[1:], sections, footer=source, verb="import")


def _sentence(comparison: Comparison) -> str:
    """The recorded and simulated step in one sentence."""
    recorded, simulated = comparison.shares()
    cause = f" ({comparison.cause})" if comparison.cause else ""
    return (
        f"step: {_time(comparison.whole_us)} recorded, {_time(comparison.simulated_us)} simulated on "
        f"{comparison.fabric}; exposed communication: {_time(comparison.exposed_us)} ({recorded:.0%}) recorded, "
        f"{_time(comparison.simulated_exposed_us)} ({simulated:.0%}) simulated{cause}"
    )


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
