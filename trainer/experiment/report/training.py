"""The parts about training, about a policy that continues it, and about the memory of a rank."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import AMBER, BLUE, GREEN, GREY, PINK, RED, SKY, Stacks
from netsim.foundation.page import Block, Figure, Listing, Section, Table
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.checkpoint.pretrained import references_of
from trainer.config.rules.plan import plan_layout
from trainer.evaluation.judgement import compared, headline, read_judgement
from trainer.experiment.forecast.memory import Estimator, UnknownMemory
from trainer.experiment.forecast.peak import PHASES, StepMemory
from trainer.experiment.forecast.protocol import PARTS
from trainer.experiment.forecast.protocol import Part as MemoryPart
from trainer.experiment.report.part import HELD_OUT, Part, loss_curves, reward_curves, sources_in
from trainer.experiment.report.run_files import RunFiles, shown
from trainer.observe.metrics import Record
from trainer.observe.units import scaled
from trainer.sampling.trained import Reference


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
            rows.append(("samples of the requested class", f"{accuracy:.1%}"))
            facts.append(("Requested class", f"{accuracy:.1%}", "judged by a classifier of the data"))
            finding += f", {accuracy:.0%} of the samples drawn are of the requested class"
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
    text = f"Placement version {version}: {moved} experts moved between ranks during training."
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
        [Section("Experts that moved during training", blocks, text)],
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


BASE = "task.base"


def policy_part(files: RunFiles, policy: RunFiles) -> Part:
    """Rise of the reward, its costs, and samples before and after."""
    _check_base(files, policy)
    rewarded = [record for record in policy.records if "reward" in record.values]
    if not rewarded:
        path = policy.folder / "metrics.jsonl"
        raise Refusal(path, "reward", "is in no record", "give a run that learns from a reward")
    first, last = rewarded[0].values, rewarded[-1].values
    rise = f"{first['reward']:.2f} to {last['reward']:.2f}"
    cost = ""
    if {"reward_calls", "network_calls", "path_kl"} <= last.keys():
        cost = (
            f" It asked for {last['reward_calls']:,.0f} rewards and called the network for "
            f"{last['network_calls']:,.0f} states; its paths are {last['path_kl']:.1f} nats from those of the base."
        )
    text = (
        "The run continues as a policy: it draws, gets a reward for each example, and makes more likely what led to "
        f"better ones. The mean reward of what it draws with noise went from {rise}.{cost}"
    )
    blocks: list[Block] = [
        Figure(
            reward_curves(policy.records),
            "Grey: examples that the policy learned from, drawn with noise on the way. Blue: examples of the averaged "
            "weights for held-out prompts, drawn without. Right: the same reward against the divergence that it cost.",
        )
    ]
    drawn = sorted((policy.folder / "samples").glob("*.png"))
    if drawn:
        caption = f"From the same noise: the base, and the policy ({drawn[-1].name}), with the reward of each example."
        blocks.append(Figure(drawn[-1].read_bytes(), caption))
    rows = [("reward of what the policy draws", rise)]
    facts = [("Reward", f"{last['reward']:.2f}", f"of the policy; {first['reward']:.2f} when it began")]
    return Part(rows, facts, [Section("Reinforcement", blocks, text)])


def _check_base(files: RunFiles, policy: RunFiles) -> None:
    path, base = policy.folder / "config.yaml", references_of(policy.config).get(BASE)
    if base is None:
        raise Refusal(path, BASE, "is missing", f"give a run that continues {files.folder}")
    digest = Reference.of_run(ReferenceConfig(run=Path(files.folder))).digest
    if base.digest != digest:
        problem = f"is {shown(base.digest)} and not the weights of {files.folder} ({shown(digest)})"
        raise Refusal(path, f"{BASE}.digest", problem, "give a policy that began as this run")


_COLOURS: dict[MemoryPart, str] = {
    "parameters": BLUE,
    "gradients": SKY,
    "optimizer": GREEN,
    "average": PINK,
    "activations": AMBER,
    "dispatch": RED,
    "buffers": GREY,
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
        f"What a rank holds at the largest moment of each phase, of {ranks}. The check verb computes it for any number "
        "of ranks before anything starts, and proposes settings that fit a given memory (--fit 80GB)."
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
    amounts = [[column[part] / _MEGABYTE for part in parts] for column in columns.values()]
    totals = [scaled(sum(row) * _MEGABYTE, "B") for row in amounts]
    stacks = Stacks(amounts, parts, [_COLOURS[part] for part in parts], texts=totals)
    panel = Panel([stacks], x="MB", rows=list(columns), grid="x", legend="right")
    return chart([panel], size=(11.0, 2.8), name="memory")
