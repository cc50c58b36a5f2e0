"""The part about memory: what a rank holds in each phase of a step, by formula."""

import matplotlib as mpl
from matplotlib.figure import Figure as Plot

from moe.report.figures import STYLE, to_svg
from moe.report.page import Figure, Section
from trainer.config.rules.plan import plan_layout
from trainer.experiment.memory.engine.protocol import PARTS
from trainer.experiment.memory.engine.protocol import Part as MemoryPart
from trainer.experiment.memory.estimate import Estimator, UnknownMemory
from trainer.experiment.memory.peak import StepMemory
from trainer.experiment.memory.table import PHASES
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import RunFiles
from trainer.observe.units import scaled

_COLOURS: dict[MemoryPart, str] = {
    "parameters": "#0072b2",
    "gradients": "#56b4e9",
    "optimizer": "#009e73",
    "average": "#f0e442",
    "activations": "#e69f00",
    "dispatch": "#d55e00",
    "buffers": "#9aa5b1",
}
_MEGABYTE = 1e6


def memory_part(run: RunFiles) -> Part:
    """Memory of a rank of the run, computed without running it."""
    world_size = 1 if run.header is None else run.header.world_size
    layout = plan_layout(run.config, world_size)
    try:
        memory = Estimator().memory(run.config, layout)
    except UnknownMemory as error:
        return Part([("memory of a rank", f"not known: {error}")])
    peak = memory.peak
    most = scaled(peak.total, "B")
    ranks = f"{world_size} rank{'s' * (world_size > 1)}"
    text = (
        f"What a rank holds at the largest moment of each phase, of {ranks}. The check verb tells it for any number of "
        "ranks before anything starts, and proposes settings that fit a given memory (--fit 80GB)."
    )
    return Part(
        [("memory of a rank, by formula", f"{most} at most, in the {PHASES[peak.phase]}")],
        [("Memory of a rank", most, f"at most, in the {PHASES[peak.phase]}, by formula")],
        [Section("Memory", [Figure(memory_bars(memory), "Bytes of a rank by part, by formula.")], text)],
    )


def memory_bars(memory: StepMemory) -> str:
    """Draws the parts that a rank holds: between steps, and at the largest moment of each phase."""
    columns = {"between steps": memory.held, **{PHASES[phase]: one.parts for phase, one in memory.peaks.items()}}
    parts: list[MemoryPart] = [part for part in PARTS if any(column[part] for column in columns.values())]
    with mpl.rc_context(STYLE):
        figure = Plot(figsize=(11.0, 2.8), layout="constrained")
        axes = figure.add_subplot()
        names = list(columns)[::-1]
        before = [0.0] * len(names)
        for part in parts:
            sizes = [columns[name][part] / _MEGABYTE for name in names]
            axes.barh(names, sizes, left=before, color=_COLOURS[part], height=0.62, label=part)
            before = [first + size for first, size in zip(before, sizes, strict=True)]
        for name, total in zip(names, before, strict=True):
            axes.annotate(
                scaled(total * _MEGABYTE, "B"), (total, name), (4, 0), textcoords="offset points", va="center"
            )
        axes.set(xlabel="MB", xlim=(0, 1.12 * max(before)))
        axes.legend(frameon=False, ncols=len(parts), loc="lower center", bbox_to_anchor=(0.45, 1.0))
        return to_svg(figure)
