"""The report verb: a run, its experts and its traffic on one page."""

import os
import sys
from pathlib import Path

from rich.table import Table as ConsoleTable

from netsim.foundation.files import write_text
from netsim.foundation.page import Block, Facts, Figure, Link, Section, page
from netsim.foundation.refusal import Refusal, lies_in
from netsim.foundation.terminal import Terminal
from trainer.experiment.comparison.charts import quality_chart
from trainer.experiment.comparison.results import Comparison
from trainer.experiment.comparison.tables import finding, glance
from trainer.experiment.report.drawing import decoding_part, drawing_part, edited_part, restored_part, steps_part
from trainer.experiment.report.part import Part
from trainer.experiment.report.placing import Continuations, placement_part
from trainer.experiment.report.run_files import RunFiles
from trainer.experiment.report.simulation import Simulation, fabric_part
from trainer.experiment.report.training import memory_part, migration_part, policy_part, training_part
from trainer.experiment.request.verbs import ReportRequest


def run(request: ReportRequest) -> int:
    """Writes the page and prints its summary."""
    out = request.page
    parts = _parts_with(request, request.found())
    inputs = "; ".join(part.finding for part in parts if part.finding)
    document = page(
        "Train, trace, place, simulate",
        f"{inputs}.",
        [
            Section("At a glance", [Facts([fact for part in parts for fact in part.facts])]),
            *(section for part in parts for section in part.sections),
        ],
        kicker=f"Flowfabric run {request.run_dir.name}",
        footer="Every figure on this page is read from the files of the run; nothing is loaded from a network.",
        verb="report",
    )
    write_text(out, document)
    table = ConsoleTable(title=str(request.run_dir), title_justify="left", show_header=False)
    for name, value in (row for part in parts for row in part.rows):
        table.add_row(name, value)
    Terminal(highlight=False).print(table)
    print(f"{out}: open it in a browser")
    return 0


def _parts_with(request: ReportRequest, inputs: dict[str, Path]) -> list[Part]:
    """Returns the parts of a request and of `found` files of the run's folder, without those of another run."""
    try:
        return _parts(request.having(inputs))
    except Refusal as error:
        stale = [name for name, path in inputs.items() if lies_in(error, path)]
        if not stale:
            raise
        print(f"left out: {error}", file=sys.stderr)
        return _parts_with(request, {name: path for name, path in inputs.items() if name not in stale})


def _parts(request: ReportRequest) -> list[Part]:
    files = RunFiles(request.run_dir)
    parts = [training_part(files, request.quality), migration_part(files)]
    if request.memory:
        parts.append(memory_part(files))
    if request.steps is not None:
        parts.append(steps_part(files, request.steps))
    if request.drawing is not None:
        parts.append(drawing_part(files, request.drawing))
    if request.restored is not None:
        parts.append(restored_part(files, request.restored, request.page))
    if request.edited is not None:
        parts.append(edited_part(files, request.edited, request.page))
    if request.policy is not None:
        parts.append(policy_part(files, RunFiles(request.policy)))
    continued = None
    if request.placed_run is not None:
        plain = files if request.unplaced_run is None else RunFiles(request.unplaced_run)
        continued = Continuations.of(files, plain, RunFiles(request.placed_run), request.placement)
    if request.placement is not None:
        parts.append(placement_part(files, request.placement, request.routing, request.price, continued))
    if continued is not None:
        parts += [continued.part(), migration_part(continued.placed)]
    if request.decoding is not None:
        parts.append(decoding_part(request.decoding))
    if request.simulation is not None:
        simulation = Simulation.read(request.simulation)
        files.check_simulation(request.simulation / "results.json", simulation)
        parts.append(fabric_part(request.simulation, simulation, of_the_run=True))
    if request.other_simulation is not None:
        other = Simulation.read(request.other_simulation)
        parts.append(fabric_part(request.other_simulation, other, of_the_run=False))
    if request.comparison is not None:
        parts.append(_comparison(request.comparison, request.page))
    return parts


def _comparison(folder: Path, out: Path) -> Part:
    comparison = Comparison.read(folder / "compare.json")
    place = os.path.relpath(folder / "index.html", out.parent)
    blocks: list[Block] = [
        Figure(
            quality_chart(comparison), "Quality against function evaluations; the page of the comparison says more."
        ),
        glance(comparison),
        Link(place, "Samples, trajectories and every figure of the comparison"),
    ]
    text = (
        f"Methods of flow matching trained on {comparison.data['kind']} data with one budget, {comparison.steps:,} "
        f"optimiser steps of {comparison.global_batch} examples. {finding(comparison)}"
    )
    return Part([("methods compared", finding(comparison))], [], [Section("Choosing a method", blocks, text)])
