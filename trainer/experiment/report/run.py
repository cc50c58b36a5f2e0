"""The report verb: a run, its experts and its traffic on one page."""

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as ConsoleTable

from moe.files import FileError, replacing
from moe.placement.contiguous import contiguous_ranks
from moe.placement.cost.evaluation import evaluate, evaluate_placement
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.topology import Topology
from moe.report.context import Context, Volume
from moe.report.page import Block, Facts, Figure, Link, Listing, Section, Table, page
from moe.report.report import DISPATCH_NAMES, placement_sections, saving
from moe.routing_trace import RoutingTrace
from trainer.evaluation.judgement_file import compared, headline, read_judgement
from trainer.experiment.comparison.charts import quality_chart
from trainer.experiment.comparison.results import Comparison
from trainer.experiment.comparison.tables import finding, glance
from trainer.experiment.report.curves import continuation_curves, loss_curves
from trainer.experiment.report.request import ReportRequest
from trainer.experiment.report.simulation import Simulation
from trainer.observe.metrics import Record, read_metrics

NS_PER_MS = 1e6


@dataclass(frozen=True)
class Part:
    """What one source contributes: rows of the summary, facts and sections of the page, a clause of its finding."""

    rows: list[tuple[str, str]]
    facts: list[tuple[str, str, str]]
    sections: list[Section]
    finding: str


def run(request: ReportRequest) -> int:
    """Writes the page and prints its summary.

    Args:
        request: what the report is made of.

    Returns:
        0.

    Raises:
        ValueError: an input is missing or malformed.
    """
    run_dir, out = request.run_dir, request.out
    parts = [_training(run_dir, request.quality)]
    if request.placement is not None:
        parts.append(_placement(request.placement, request.routing or run_dir / "traces" / "routing.npz"))
    if request.placed_run is not None:
        parts.append(_continuation(request.unplaced_run or run_dir, request.placed_run))
    if request.simulation is not None:
        parts.append(_simulation(request.simulation))
    if request.comparison is not None:
        parts.append(_comparison(request.comparison, out))
    document = page(
        "Train, trace, place, simulate",
        "; ".join(part.finding for part in parts if part.finding) + ".",
        [
            Section("At a glance", [Facts([fact for part in parts for fact in part.facts])]),
            *(section for part in parts for section in part.sections),
        ],
        kicker=f"Flowfabric run {run_dir.name}",
        footer="Every figure on this page is read from the files of the run; nothing is loaded from a network.",
    )
    with replacing(out) as temporary:
        temporary.write_text(document, encoding="utf-8")
    table = ConsoleTable(title=str(run_dir), title_justify="left", show_header=False)
    for name, value in (row for part in parts for row in part.rows):
        table.add_row(name, value)
    Console(highlight=False).print(table)
    print(out)
    return 0


def _training(run_dir: Path, quality: Path | None) -> Part:
    records = _records(run_dir)
    last = records[-1]
    held_out = [record for record in records if "held_out_loss" in record.values]
    rows = [("optimiser steps", f"{last.step:,}"), ("training loss", f"{last.values['loss']:.4f}")]
    facts = []
    if held_out:
        loss = f"{held_out[-1].values['held_out_loss']:.4f}"
        rows.append(("held-out loss", loss))
        facts.append(("Held-out loss", loss, f"averaged weights, step {held_out[-1].step:,}"))
        bits = held_out[-1].values.get("held_out_bits_per_byte")
        if bits is not None:
            rows.append(("bits a held-out byte", f"{bits:.3f}"))
            facts.append(("Bits a byte", f"{bits:.2f}", "held out; a byte has 8"))
    blocks: list[Block] = [Figure(loss_curves(records), "Loss and learning rate over the run.", half=True)]
    grids = sorted((run_dir / "samples").glob("*.png"))
    finding = f"{last.step:,} steps of training"
    distances: list[tuple[str, str, str]] = []
    if quality is not None:
        figures = read_judgement(quality)
        if "class_accuracy" in figures:
            accuracy = figures["class_accuracy"]
            rows.append(("samples of the class asked for", f"{accuracy:.1%}"))
            facts.append(("Class asked for", f"{accuracy:.1%}", "judged by a classifier of the data"))
            finding += f", {accuracy:.0%} of the samples drawn are of the class asked for"
        name, distance = headline(figures)
        rows.append((f"{name}, no guidance", f"{distance:.3f}"))
        measured = name.removeprefix("Fréchet distance ")
        facts.append(("Fréchet distance", f"{distance:.2f}", f"{measured}, without guidance"))
        distances = compared(figures)
    if grids:
        caption = f"Drawn from the averaged weights ({grids[-1].name})."
        blocks.append(Figure(grids[-1].read_bytes(), caption, half=True))
    texts = sorted((run_dir / "samples").glob("*.txt"))
    if texts:
        written = texts[-1].read_text(encoding="utf-8", errors="replace")
        caption = f"Texts written with the averaged weights, each after a prompt ({texts[-1].name})."
        blocks.append(Listing(written.rstrip(), caption, half=True))
    if distances:
        caption = "How far the samples drawn without guidance are from the data, and one half of it from the other."
        blocks.append(Table(("distance", "samples", "real examples"), distances, caption))
    return Part(rows, facts, [Section("Training", blocks)], finding)


def _records(run_dir: Path) -> list[Record]:
    path = run_dir / "metrics.jsonl"
    records = read_metrics(path)
    if not records:
        raise FileError(path, "records", "there are none", "train the run first")
    for number, record in enumerate(records, start=1):
        if "loss" not in record.values:
            raise FileError(path, f"line {number}: loss", "is missing", "give the metrics.jsonl of a run")
    return records


def _placement(path: Path, routing: Path) -> Part:
    placement, trace = Placement.read(path), RoutingTrace.read(routing)
    if placement.objective is None:
        raise FileError(path, "objective", "is null", "make the file with `python -m moe place`")
    for field in ("num_layers", "num_experts"):
        value, wanted = getattr(placement, field), getattr(trace.header, field)
        if value != wanted:
            raise FileError(
                path, field, f"is {value} where the routing trace has {wanted}", "give the trace that was placed"
            )
    topology = Topology.hops(placement.num_nodes, placement.ranks_per_node)
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    contiguous = evaluate(statistics, topology, baseline, placement.dispatch)
    placed = evaluate_placement(statistics, topology, placement)
    context = Context(Volume.of(trace, topology.num_ranks))
    mode = DISPATCH_NAMES[placement.dispatch]
    change = f"{contiguous.cross_rank:.1%} -> {placed.cross_rank:.1%}"
    sections = [
        Section(f"Placement: {section.title[0].lower()}{section.title[1:]}", section.blocks, section.text)
        for section in placement_sections(placement, statistics, topology, contiguous, placed, context)
    ]
    return Part(
        [(f"moves to another rank, {mode}", f"{change} placed")],
        [("Moves off the rank", f"{placed.cross_rank:.1%}", f"{mode}; contiguous {contiguous.cross_rank:.1%}")],
        sections,
        f"placing the experts by affinity saves {saving(placement):.0%} of the moves between ranks in {mode}",
    )


def _continuation(run_dir: Path, placed_run: Path) -> Part:
    plain, placed = (
        {record.step: record.values["loss"] for record in _records(folder)} for folder in (run_dir, placed_run)
    )
    steps = sorted(plain.keys() & placed.keys())
    if not steps:
        raise FileError(placed_run / "metrics.jsonl", "step", f"shares none with {run_dir}", "continue the same run")
    difference = max(abs(plain[step] - placed[step]) for step in steps)
    picture = continuation_curves(steps, [plain[step] for step in steps], [placed[step] for step in steps])
    text = (
        "The run was resumed from the same checkpoint twice, with its experts where they were and under the placement; "
        f"the largest difference of {len(steps)} losses is {difference:.1g}."
    )
    section = Section(
        "Moving the experts does not change what is learned",
        [Figure(picture, "Training loss of both continuations, step by step.")],
        text,
    )
    return Part(
        [("loss, placed against unplaced", f"largest difference {difference:.1g} over {len(steps)} steps")],
        [("Loss under placement", f"{difference:.1g}", f"largest difference over {len(steps)} steps")],
        [section],
        "",
    )


def _simulation(folder: Path) -> Part:
    simulation = Simulation.read(folder)
    means = {name: simulation.mean_completion_ns(name) for name in simulation.by_transport()}
    bound = min(run.bound_ns for run in simulation.runs)
    rows, cells = [], []
    for name, runs in simulation.by_transport().items():
        completions = [run.completion_ns / NS_PER_MS for run in runs]
        low, high, ratio = min(completions), max(completions), means[name] / bound
        rows.append((f"simulated step, {name}", f"{means[name] / NS_PER_MS:.3f} ms, {ratio:.3f} x bound"))
        cells.append(
            (
                name,
                "flow" if runs[0].engine == "fluid" else "packet",
                f"{means[name] / NS_PER_MS:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{ratio:.3f}",
                f"{max(run.max_queue_bytes for run in runs) / 1e6:.2f}",
                f"{max(run.reordered_packets for run in runs):,}",
            )
        )
    blocks: list[Block] = []
    for name, caption in (
        ("completion.svg", "When the last message of the step has arrived, by transport."),
        (
            "operations.svg",
            "Time that a rank spends in the collectives of each operation, waiting for others included.",
        ),
        ("links.svg", "How busy every link of the fabric is, with the slowest and the fastest transport."),
        ("queues.svg", "Longest queue at any switch over the step, as the time that its link needs to send it."),
    ):
        picture = folder / "figures" / name
        if picture.exists():
            blocks.append(Figure(picture.read_text(encoding="utf-8"), caption))
    columns = ("transport", "level", "mean ms", "over seeds, ms", "x bound", "longest queue, MB", "reordered packets")
    blocks.append(
        Table(columns, cells, "Lossless fabric without congestion control; the bound holds for every transport.")
    )
    hops = max(run.packet_hops for run in simulation.runs)
    text = f"The collectives of one step replayed in program order, at most {hops:,} packet-hops a run."
    facts, finding = [], ""
    if {"ecmp", "ethereal"} <= means.keys():
        behind, where, aside = means["ecmp"] / means["ethereal"] - 1, "step", ""
        exchange = simulation.behind("ecmp", "ethereal", "all_to_all")
        if exchange is not None:
            ecmp, ethereal = (simulation.mean_time_ns(name, "all_to_all") / NS_PER_MS for name in ("ecmp", "ethereal"))
            ranks = max(collective.ranks for collective in simulation.collectives if collective.op == "all_to_all")
            rows.append(("all-to-alls of the step", f"ecmp {exchange:+.1%} against ethereal"))
            text += (
                f" A rank spends {ecmp:.3f} ms in the all-to-alls of {ranks} ranks under ecmp and {ethereal:.3f} ms "
                f"under ethereal, waiting for others included: ecmp is {abs(exchange):.0%} "
                f"{'behind' if exchange > 0 else 'ahead'}."
            )
            aside = f", {behind:+.0%} over the whole of it"
            behind, where = exchange, "all-to-alls of the step"
        facts.append(("ecmp behind ethereal", f"{behind:+.0%}", f"on the {where}"))
        finding = f"on the simulated fabric ecmp is {behind:.0%} behind ethereal on the {where}{aside}"
        finding = finding if behind > 0 else "on the simulated fabric ecmp is not behind ethereal"
    return Part(rows, facts, [Section("The step on the fabric", blocks, text)], finding)


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
    return Part([("methods compared", finding(comparison))], [], [Section("Choosing a method", blocks, text)], "")
