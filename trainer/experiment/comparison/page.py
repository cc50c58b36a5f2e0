"""The page that a person chooses a method from, with samples of the networks side by side."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from moe.report.figures import STYLE, to_svg
from netsim.foundation.files import replacing
from netsim.foundation.page import Block, Choice, Figure, Listing, Note, Section, Table, page
from trainer.experiment.comparison.charts import CostAxis, axes, bars, figures, quality_chart, style
from trainer.experiment.comparison.measurement import PER_CLASS, TRAJECTORIES, drawn
from trainer.experiment.comparison.results import QUALITY, Comparison, Entry
from trainer.experiment.comparison.tables import budget, cheapest, costs, every_number, facts, finding, glance
from trainer.experiment.comparison.training import command, folder_of, launched, settings
from trainer.experiment.stage import load_stages

ABREAST = 5
"""Networks that share a row of the page at most."""
DATA, NOISE, INK = "#c3cad1", "#8a949e", "#1c2733"


def pictures(entries: Sequence[Entry], real: NDArray[np.floating]) -> list[str]:
    """Draws samples of few and of many evaluations, in several pictures, and of points in the plane trajectories."""
    rows = -(-len(entries) // ABREAST)
    abreast = -(-len(entries) // rows)
    numbered = list(enumerate(entries))
    return [_row(numbered[first : first + abreast], real, max(4, abreast)) for first in range(0, len(entries), abreast)]


def _row(entries: Sequence[tuple[int, Entry]], real: NDArray[np.floating], abreast: int) -> str:
    sets = [drawn(Path(entry.outcomes[0].run_dir)) for _, entry in entries]
    planes = real.ndim == 2
    rows = 3 if planes and all(TRAJECTORIES in one for one in sets) else 2
    with mpl.rc_context(STYLE):
        side, title = 10.4 / abreast, 0.5
        tall = side if planes else side * PER_CLASS**2 / len(sets[0]["few"]) * real.shape[-2] / real.shape[-1]
        figure = Drawing(figsize=(11.0, rows * (tall + 0.28) + title), dpi=150, layout="constrained")
        grid = figure.subplots(rows, abreast, squeeze=False)
        for column in range(abreast):
            if column >= len(entries):
                for axes in grid[:, column]:
                    axes.axis("off")
                continue
            (number, entry), one = entries[column], sets[column]
            colour = style(number)[0]
            for row, name in enumerate(("few", "many")):
                axes, evaluations = grid[row, column], int(one["evaluations"][row])
                if planes:
                    _cloud(axes, one[name], real, colour)
                else:
                    _images(axes, one[name])
                _bare(axes, f"{evaluations} evaluation{'s' * (evaluations > 1)}")
            if rows == 3:
                _trajectories(grid[2, column], one[TRAJECTORIES], real, colour)
                _bare(grid[2, column], f"paths, {int(one['evaluations'][1])} evaluations")
            size = min(11.0, 230 / len(entry.name))
            grid[0, column].set_title(entry.name, color=colour, weight="bold", fontsize=size, pad=8)
        return to_svg(figure)


def _reach(real: NDArray[np.floating]) -> float:
    return 1.25 * float(np.quantile(np.abs(real), 0.999))


def _cloud(axes: Axes, points: NDArray[np.floating], real: NDArray[np.floating], colour: str) -> None:
    axes.scatter(real[:, 0], real[:, 1], s=3, color=DATA, linewidths=0, rasterized=True)
    axes.scatter(points[:, 0], points[:, 1], s=4, color=colour, alpha=0.65, linewidths=0, rasterized=True)
    reach = _reach(real)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _trajectories(axes: Axes, trajectories: NDArray[np.floating], real: NDArray[np.floating], colour: str) -> None:
    axes.scatter(real[:, 0], real[:, 1], s=3, color=DATA, linewidths=0, rasterized=True)
    axes.plot(trajectories[:, :, 0], trajectories[:, :, 1], color=colour, linewidth=0.7, alpha=0.75, rasterized=True)
    axes.scatter(
        trajectories[0, :, 0], trajectories[0, :, 1], s=5, color=NOISE, linewidths=0, zorder=3, rasterized=True
    )
    axes.scatter(
        trajectories[-1, :, 0], trajectories[-1, :, 1], s=6, color=INK, linewidths=0, zorder=3, rasterized=True
    )
    reach = max(_reach(real), 1.02 * float(np.abs(trajectories[0]).max()))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _images(axes: Axes, images: NDArray[np.floating]) -> None:
    cells = np.clip((images + 1) / 2, 0, 1)
    columns = len(cells) // PER_CLASS
    cells = np.pad(cells, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=1.0)
    lines = [np.concatenate(list(line), axis=-1) for line in cells.reshape(PER_CLASS, columns, *cells.shape[1:])]
    canvas = np.concatenate(lines, axis=-2).transpose(1, 2, 0)
    colours = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0} if canvas.shape[-1] == 1 else {}
    axes.imshow(canvas.squeeze(-1) if colours else canvas, interpolation="nearest", **colours)


def _bare(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(text, fontsize=9, labelpad=3)


def write_page(comparison: Comparison, real: NDArray[np.floating], out: Path) -> None:
    """Draws the page from the figures and the files of the runs, with real examples [N, *shape] behind points."""
    document = page(
        "Choosing a method",
        finding(comparison),
        [
            Section("At a glance", [facts(comparison), glance(comparison)]),
            Section("Quality against what a sample costs", _quality(comparison)),
            Section(
                "How direct the paths are, and what a step costs",
                [Figure(bars(comparison), _BARS), budget(comparison)],
                _paths(comparison),
            ),
            Section(
                "What they draw",
                [Figure(picture, "") for picture in pictures(comparison.entries, real)],
                _POINTS if real.ndim == 2 else _IMAGES,
            ),
            _methods(comparison),
            _reproduce(comparison),
        ],
        kicker=f"{_data(comparison)}; {comparison.steps:,} optimiser steps of {comparison.global_batch}, "
        f"{_seeds(comparison)}",
        footer="Every figure on this page is in compare.json beside it; nothing is loaded from a network.",
    )
    with replacing(out) as temporary:
        temporary.write_text(document, encoding="utf-8")


_BARS = (
    "Bars are means over the seeds, or medians of times; dots are the seeds. Step time is that of the network itself, "
    "without its teachers."
)
_DRAWN = "Samples of the first seed from the same noise, of few and of many evaluations"
_POINTS = f"{_DRAWN}, before real ones in grey; paths lead from noise (grey) to samples (black)."
_IMAGES = f"{_DRAWN}, a column for each class where there are classes; drawn with the guidance of the base."


def _quality(comparison: Comparison) -> list[Block]:
    """The chart, against one measure of costs at a time, and the tables of its figures."""
    if comparison.fabric is None:
        return [Figure(quality_chart(comparison), _caption(comparison)), every_number(comparison)]
    choice = Choice("axis", [(axis.name, _against(comparison, axis)) for axis in axes(comparison)])
    return [choice, cheapest(comparison), costs(comparison), every_number(comparison)]


def _against(comparison: Comparison, axis: CostAxis) -> Figure | Note:
    found = figures(comparison, axis)
    if not found:
        return Note(f"{axis.label.capitalize()}: not known of any network here.")
    if not any(found):
        return Note(f"{axis.label.capitalize()}: 0 for every network here. Each is whole on the rank that draws.")
    missing = [entry.name for entry in comparison.entries if all(axis.figure(cost) is None for cost in entry.costs)]
    left_out = f" Not known, and left out: {', '.join(missing)}." if missing else ""
    at_zero = " What costs nothing stands at the left edge." if min(found) == 0 else ""
    assumed = " What is assumed stands below the table of costs." if axis.name == "microseconds" else ""
    return Figure(quality_chart(comparison, axis), _caption(comparison) + at_zero + assumed + left_out)


def _data(comparison: Comparison) -> str:
    data = comparison.data
    return " ".join(str(data[key]) for key in ("kind", "class", "name", "path") if data.get(key) is not None)


def _seeds(comparison: Comparison) -> str:
    number = len(comparison.seeds)
    return f"{number} seeds" if number > 1 else "one seed"


def _caption(comparison: Comparison) -> str:
    samplers = sorted({entry.sampler for entry in comparison.entries})
    own = "" if len(samplers) == 1 else " Samplers other than the base's belong to their methods and are listed below."
    return (
        f"{QUALITY[comparison.measure]} of {comparison.num:,} samples; lines are means over the seeds, bands reach "
        f"from the smallest to the largest. The grey band is the distance between two sets of real samples, of which "
        f"{len(comparison.floor)} pairs were drawn: differences within it are chance. Both axes are logarithmic; "
        f"lower is better.{own}"
    )


def _paths(comparison: Comparison) -> str:
    return (
        "Straightness is the mean squared difference between the velocity and the straight line from start to end, in "
        "units of that line's squared length: where it is 0, one step of Euler's method is exact. Path energy is the "
        "mean squared velocity along the paths, in squared units of the data; the mark is the least that any path "
        f"between the same ends needs. Both are measured with a hundred steps of Euler's method. {_jobs(comparison)}"
    )


def _jobs(comparison: Comparison) -> str:
    ranks = f"on {comparison.ranks} rank{'s' * (comparison.ranks > 1)}"
    if comparison.jobs == 1:
        return f"Steps were timed {ranks}, one run at a time."
    return (
        f"Times of steps are not compared: {comparison.jobs} runs were trained at a time, {ranks} each, and slowed "
        "each other. Use --jobs 1 to compare them."
    )


def _methods(comparison: Comparison) -> Section:
    rows, seen = [], set[str]()
    for entry in comparison.entries:
        if entry.config not in seen:
            seen.add(entry.config)
            rows.append((Path(entry.config).stem, entry.about, entry.sampler))
    blocks: list[Block] = [Table(("method", "what it is", "sampler"), rows, words=True)]
    if comparison.left_out:
        out = Table(("left out", "why"), list(comparison.left_out.items()), words=True)
        blocks.append(out)
    return Section("The methods", blocks)


def _reproduce(comparison: Comparison) -> Section:
    first = comparison.entries[0]
    lines = [
        f"python -m trainer {comparison.command}",
        "",
        f"# one run, here the first: {first.name}",
        *_commands(comparison, first),
    ]
    data = _data(comparison)
    text = (
        f"Data, model, optimiser and budget are those of {comparison.base} ({data}); of each method come its flow and "
        "its stages, and its network where no other can learn by it. Runs with one seed see the same examples in the "
        "same order, and those of one network begin with the same weights."
    )
    return Section("How to reproduce it", [Listing("\n".join(lines), "What is finished is not trained again.")], text)


def _commands(comparison: Comparison, entry: Entry) -> list[str]:
    """What trains the first network of an entry, stage by stage, and what measures it."""
    run, config = entry.outcomes[0], Path(entry.trained)
    folder = folder_of(config, run.seed)
    stages = load_stages(config, settings(folder, run.seed))
    own = [stage.folder for stage in stages].index(Path(run.run_dir))
    trained = [command(config, folder, run.seed, stage.name) for stage in stages[: own + 1]]
    first = next(stage.folder for stage in stages if stage.trains)
    counts = ",".join(map(str, comparison.evaluations))
    measured = ["evaluate", run.run_dir, "--num", str(comparison.num), "--seed", str(run.seed), "--evaluations", counts]
    if first != stages[own].folder:
        measured += ["--data-from", str(first)]
    return [
        *(shlex.join(["python", *launched(comparison.ranks), *words]) for words in trained),
        "",
        "# its figures",
        shlex.join(["python", "-m", "trainer", *measured, "--out", "evaluation.json"]),
    ]
