"""The part about training: curves, samples, their quality, and experts that moved meanwhile."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from moe.report.page import Block, Figure, Listing, Section, Table
from trainer.evaluation.judgement_file import compared, headline, read_judgement
from trainer.experiment.report.curves import HELD_OUT, loss_curves, sources_in
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import RunFiles
from trainer.observe.metrics import Record


def training_part(run: RunFiles, quality: Path | None) -> Part:
    """Results of the training, with a judgement of its samples if there is one."""
    records = run.records
    last = records[-1]
    held_out = [record for record in records if "held_out_loss" in record.values]
    rows = [("optimiser steps", f"{last.step:,}"), ("training loss", f"{last.values['loss']:.4f}")]
    facts = []
    if held_out:
        loss = f"{held_out[-1].values['held_out_loss']:.4f}"
        rows.append(("held-out loss", loss))
        facts.append(("Held-out loss", loss, f"averaged weights, step {held_out[-1].step:,}"))
        of_sources = sources_in(held_out[-1:])
        rows += [(f"held-out loss of {name}", f"{held_out[-1].values[HELD_OUT + name]:.4f}") for name in of_sources]
        bits = held_out[-1].values.get("held_out_bits_per_byte")
        if bits is not None:
            rows.append(("bits a held-out byte", f"{bits:.3f}"))
            facts.append(("Bits a byte", f"{bits:.2f}", "held out; a byte has 8"))
    blocks: list[Block] = [Figure(loss_curves(records), "Loss and learning rate over the run.", half=True)]
    finding = f"{last.step:,} steps of training"
    distances: list[tuple[str, str, str]] = []
    if quality is not None:
        figures = read_judgement(quality, run.identity)
        if "class_accuracy" in figures:
            accuracy = figures["class_accuracy"]
            rows.append(("samples of the class asked for", f"{accuracy:.1%}"))
            facts.append(("Class asked for", f"{accuracy:.1%}", "judged by a classifier of the data"))
            finding += f", {accuracy:.0%} of the samples drawn are of the class asked for"
        name, distance = headline(figures)
        rows.append((f"{name}, no guidance", f"{distance:.3f}"))
        measured = name.removeprefix("Fréchet distance ")
        distances = compared(figures)
        if not distances:  # a table of them follows where there are several
            facts.append(("Fréchet distance", f"{distance:.2f}", f"{measured}, without guidance"))
    blocks += _samples(run.folder / "samples")
    if distances:
        caption = "How far the samples drawn without guidance are from the data, and one half of it from the other."
        blocks.append(Table(("distance", "samples", "real examples"), distances, caption))
    return Part(rows, facts, [Section("Training", blocks)], finding)


def migration_part(run: RunFiles) -> Part:
    """The experts that live migration moved in the run; empty if none."""
    known = [record for record in run.records if "migration_version" in record.values]
    if not known:
        return Part()
    moves = _moves(known)
    moved, version = (int(known[-1].values[f"migration_{name}"]) for name in ("moved_experts", "version"))
    first, last = (record.values.get("crossnode_token_fraction") for record in (known[0], known[-1]))
    text = f"Placement version {version}: {moved} experts moved between ranks while training went on."
    if not moves:
        text = "The run looked at its traffic and found no move that pays: no expert moved."
    if first is not None and last is not None:
        text += f" The share of rows that crosses nodes went from {first:.1%} to {last:.1%}."
    columns = ("logged between steps", "experts moved", "placement version", "excess cost of the old placement")
    blocks: list[Block] = [Table(columns, moves)] if moves else []
    plural = "" if version == 1 else "s"
    return Part(
        [("live migration", f"{moved} experts in {version} move{plural}, placement version {version}")],
        [("Experts moved live", f"{moved}", f"placement version {version}")],
        [Section("Experts that moved while training went on", blocks, text)],
    )


def _moves(known: Sequence[Record]) -> list[tuple[str, str, str, str]]:
    """A line for each pair of records between which experts moved."""
    start = Record(0, {"migration_version": 0.0, "migration_moved_experts": 0.0})
    lines = []
    for earlier, later in pairwise([start, *known]):
        version = later.values["migration_version"]
        if version == earlier.values["migration_version"]:
            continue
        moved = later.values["migration_moved_experts"] - earlier.values["migration_moved_experts"]
        regret = later.values.get("migration_regret")
        excess = "" if regret is None else f"{regret:.1%}"
        lines.append((f"{earlier.step:,} and {later.step:,}", f"{moved:.0f}", f"{version:.0f}", excess))
    return lines


def _samples(folder: Path) -> list[Block]:
    blocks: list[Block] = []
    grids, texts = sorted(folder.glob("*.png")), sorted(folder.glob("*.txt"))
    last = "_".join(grids[-1].stem.split("_")[:2]) if grids else ""
    blocks += [  # several of a step where images have several shapes
        Figure(grid.read_bytes(), f"Drawn from the averaged weights ({grid.name}).", half=True)
        for grid in grids
        if grid.stem.startswith(last)
    ]
    if texts:
        written = texts[-1].read_text(encoding="utf-8", errors="replace")
        caption = f"Texts written with the averaged weights, each after a prompt ({texts[-1].name})."
        blocks.append(Listing(written.rstrip(), caption, half=True))
    return blocks
