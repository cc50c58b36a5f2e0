"""The rows of a price: before, after and the change, for the terminal and for pages."""

from collections.abc import Callable

from rich.table import Table

from moe.price.price import Price
from netsim.foundation.terminal import Terminal


def rows(price: Price) -> list[tuple[str, str, str, str]]:
    """Name, before, after and change of every figure; bytes and times are those of one optimiser step."""
    before, after = price.before, price.after
    lines = [
        _row("bytes between ranks", before.bytes_between_ranks, after.bytes_between_ranks, megabytes),
        _row("bytes between nodes", before.bytes_between_nodes, after.bytes_between_nodes, megabytes),
        (
            "busiest rank (mean of layers)",
            f"{before.busiest_rank:.2f} x mean",
            f"{after.busiest_rank:.2f} x mean",
            f"{after.busiest_rank - before.busiest_rank:+.2f}",
        ),
    ]
    if before.predicted_ms is not None and after.predicted_ms is not None:
        name = "exchanges, alpha-beta"
        lines.append(_row(name, before.predicted_ms, after.predicted_ms, milliseconds))
    for transport, pair in price.simulated_ms.items():
        lines.append(_row(f"whole step, simulated ({transport})", *pair, milliseconds))
    return lines


def names(price: Price) -> tuple[str, str]:
    """Headings of both columns."""
    return f"recorded ({price.before.dispatch})", f"placed ({price.after.dispatch})"


def print_table(price: Price) -> None:
    """Print the rows."""
    table = Table(title=f"one training step, mean of {len(price.steps)} recorded", title_justify="left")
    table.add_column("")
    for name in (*names(price), "change"):
        table.add_column(name, justify="right")
    for row in rows(price):
        table.add_row(*row)
    console = Terminal(highlight=False)
    console.print(table)
    console.print(price.gaps)


def megabytes(size_bytes: float) -> str:
    """Bytes as text, in MB of 10^6 bytes."""
    return f"{size_bytes / 1e6:,.3f} MB"


def milliseconds(time_ms: float) -> str:
    """A time as text."""
    return f"{time_ms:,.3f} ms"


def change(before: float, after: float) -> str:
    """Relative change as text."""
    return f"{after / before - 1:+.1%}" if before else ("0.0%" if not after else "new")


def _row(name: str, before: float, after: float, written: Callable[[float], str]) -> tuple[str, str, str, str]:
    return name, written(before), written(after), change(before, after)
