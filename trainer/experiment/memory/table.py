"""How the memory of a rank is shown."""

from rich.table import Table

from trainer.experiment.memory.engine.protocol import PARTS
from trainer.experiment.memory.peak import StepMemory
from trainer.observe.units import scaled


def summary(memory: StepMemory) -> str:
    """The peak of a rank in a line."""
    peak = memory.peak
    return (
        f"a rank needs {scaled(peak.total, 'B')} at most, in the {PHASES[peak.phase]}; "
        f"a checkpoint copies {scaled(memory.snapshot, 'B')} of it to the host"
    )


def memory_table(memory: StepMemory) -> Table:
    """Bytes by part: between two steps, and at the largest moment of each phase."""
    table = Table(title="memory of a rank, by formula", title_justify="left")
    table.add_column("part")
    table.add_column("held", justify="right")
    for phase in memory.peaks:
        table.add_column(phase, justify="right")
    columns = [memory.held, *(one.parts for one in memory.peaks.values())]
    for part in PARTS:
        if any(column[part] for column in columns):
            table.add_row(part, *(scaled(column[part], "B") if column[part] else "" for column in columns))
    table.add_row("all", *(scaled(sum(column.values()), "B") for column in columns), style="bold")
    return table


PHASES = {
    "forward": "forward pass",
    "backward": "backward pass",
    "optimizer": "optimiser's step",
    "average": "update of the moving average",
}
