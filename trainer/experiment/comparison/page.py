"""The page that a person chooses a method from, with samples of the networks side by side."""

import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.files import write_text
from netsim.foundation.page import Block, Choice, Figure, Listing, Note, Section, Table, page
from trainer.experiment.comparison.charts import CostAxis, axes, bars, figures, pictures, quality_chart
from trainer.experiment.comparison.results import QUALITY, Comparison, Entry
from trainer.experiment.comparison.tables import budget, cheapest, costs, every_number, facts, finding, glance
from trainer.experiment.comparison.training import command, folder_of, launched, settings
from trainer.experiment.stage.reading import load_stages


def write_page(comparison: Comparison, real: NDArray[np.floating], out: Path) -> None:
    """Draws the page from the figures and the files of the runs, with real examples [N, *shape] behind points."""
    document = page(
        "Choosing a method",
        finding(comparison),
        [
            Section("At a glance", [facts(comparison), glance(comparison)]),
            Section("Quality against what a sample costs", quality_blocks(comparison)),
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
            reproduction(comparison),
        ],
        kicker=f"{_data(comparison)}; {comparison.steps:,} optimiser steps of {comparison.global_batch}, "
        f"{_seeds(comparison)}",
        footer="Every figure on this page is in compare.json beside it; nothing is loaded from a network.",
    )
    write_text(out, document)


_BARS = "Bars are means over the seeds; dots are the seeds. Step time is that of the network, without its teachers."
_DRAWN = "Samples of the first seed from the same noise, of few and of many evaluations"
_POINTS = f"{_DRAWN}, before real ones in grey; paths lead from noise (grey) to samples (black)."
_IMAGES = f"{_DRAWN}, a column for each class where there are classes; drawn with the guidance of the base."


def quality_blocks(comparison: Comparison) -> list[Block]:
    """Returns the chart of quality against a selectable measure of cost, and the tables of its figures."""
    if comparison.fabric is None:
        return [Figure(quality_chart(comparison), _caption(comparison)), every_number(comparison)]
    choice = Choice("axis", [(axis.name, _against(comparison, axis)) for axis in axes(comparison)])
    return [choice, cheapest(comparison), costs(comparison), every_number(comparison)]


def _against(comparison: Comparison, axis: CostAxis) -> Figure | Note:
    drawn = figures(comparison, axis)
    if not drawn:
        return Note(f"{axis.label.capitalize()}: not measured for any network here.")
    if not any(drawn):
        return Note(f"{axis.label.capitalize()}: 0 for every network here. Each is whole on the rank that draws.")
    missing = [entry.name for entry in comparison.entries if all(axis.figure(cost) is None for cost in entry.costs)]
    left_out = f" Not measured, and left out: {', '.join(missing)}." if missing else ""
    at_zero = " What costs nothing is at the left edge." if min(drawn) == 0 else ""
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


def reproduction(comparison: Comparison) -> Section:
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
    """Returns the commands that train the first network of an entry, stage by stage, and that measure it."""
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
