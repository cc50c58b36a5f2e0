"""Output of the check verb for a run that trains."""

import sys
from collections import defaultdict
from pathlib import Path

from rich.table import Table

from netsim.foundation.terminal import Terminal
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.pretrained import FrozenRun, held_by
from trainer.config.derived import expert_parameters
from trainer.config.layout import Layout
from trainer.config.rules.objection import result_or_all
from trainer.config.rules.plan import describe
from trainer.config.run import RunConfig
from trainer.data.shard.index import listed
from trainer.experiment.forecast.fit import fit
from trainer.experiment.forecast.memory import Estimator, UnknownMemory
from trainer.experiment.forecast.peak import memory_table, summary
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import TraceSpec, formula
from trainer.experiment.forecast.unknown import without_formula
from trainer.model.build import dense_parameters, frozen_parameters
from trainer.model.feature_extractor.teacher import describe_teacher
from trainer.model.foreign import exports
from trainer.observe.units import scaled
from trainer.training.preflight import preflight, validated

READ_BYTES = 1_000_000_000
"""Most bytes of a checkpoint that are read to find damage, which takes about a second."""


def describe_run(config: RunConfig, world_size: int) -> None:
    """Checks a run and prints its layout, parameters, memory, collectives of a step and possible exports.

    Raises ValueError with every objection before anything is printed.
    """
    checked = result_or_all(validated(config, world_size, read_bytes=READ_BYTES))
    config, layout = checked.config, checked.layout
    console = Terminal(highlight=False)
    console.print(describe(config, layout), soft_wrap=True)
    console.print(_parameters(config, layout), soft_wrap=True)
    if config.data.class_names:
        console.print(f"classes: {listed(config.data.class_names)}", soft_wrap=True)
    replicas = _replicas(config, layout)
    if replicas is not None:
        console.print(replicas, soft_wrap=True)
    teacher = describe_teacher(config)
    if teacher is not None:
        console.print(teacher, soft_wrap=True)
    for reference in held_by(config).values():
        console.print(FrozenRun.of_run(reference).describe(), soft_wrap=True)
    console.print(_origin(checked.newest, config.optim.steps), soft_wrap=True)
    for line in [*checked.cautions, *(f"will be skipped: {fault}" for fault in checked.damaged)]:
        print(line, file=sys.stderr)
    try:
        memory = Estimator().memory(config, layout)
    except UnknownMemory as error:
        console.print(f"memory: not known ({error})", soft_wrap=True)
    else:
        console.print(memory_table(memory))
        console.print(summary(memory), soft_wrap=True)
    missing = without_formula(config)
    if missing is None:
        console.print(_sent(trace_spec(config, layout, ranks_per_node=layout.world_size)), soft_wrap=True)
    else:
        console.print(f"collectives: not known ({missing})", soft_wrap=True)
    for name, objection in exports(config).items():
        console.print(f"export --to {name}: {objection or 'possible'}", soft_wrap=True)


def print_details(config: RunConfig, world_size: int) -> None:
    """Prints the resolved configuration of a run that has been checked, and the collectives of a step."""
    checked = preflight(config, world_size)
    console = Terminal(highlight=False)
    console.rule()
    console.print(checked.config.to_yaml(), end="", soft_wrap=True)
    if without_formula(config) is None:
        console.print(_collectives(trace_spec(checked.config, checked.layout, ranks_per_node=world_size)))


def propose_settings(config: RunConfig, world_size: int, limit: int) -> None:
    """Prints the cheapest settings with which a rank fits into so many bytes."""
    layout = preflight(config, world_size, read_bytes=READ_BYTES).layout
    proposal = fit(config, layout, limit)
    peak = proposal.memory.peak
    console = Terminal(highlight=False)
    console.print(memory_table(proposal.memory))
    settings = " ".join(proposal.overrides) or "the settings as they are"
    console.print(
        f"fits {scaled(limit, 'B')} with {scaled(peak.total, 'B')}, a step at {proposal.cost:.2f} times "
        "its arithmetic:",
        soft_wrap=True,
    )
    console.print(settings, soft_wrap=True)


def _origin(begins: Path | None, steps: int) -> str:
    """Describes the step from which the run starts or resumes, and how much of that checkpoint has not been read."""
    if begins is None:
        return "starts at step 0"
    manifest = Manifest.read(begins)
    unread = sum(manifest.files[name].size_bytes for name in manifest.files.keys() - manifest.smallest(READ_BYTES))
    verified = "every file of the checkpoint is as it was written"
    if unread:
        verified = (
            f"{unread / 1e9:,.1f} GB of the checkpoint were not read: their length is right, the ranks verify them"
        )
    if manifest.step >= steps:
        return f"finished at step {manifest.step}; nothing to do; {verified}"
    return f"resumes after step {manifest.step}; {verified}"


def _parameters(config: RunConfig, layout: Layout) -> str:
    dense, expert = sum(dense_parameters(config)), expert_parameters(config)
    if config.model.adapters is not None:
        frozen = frozen_parameters(config)
        return (
            f"{dense:,} parameters of adapters are trained, {dense / (dense + frozen):.2%} of all; {frozen:,} are "
            f"frozen, those of {config.model.adapters.base.run}, whole on every rank"
        )
    if config.moe is None:
        return f"{dense:,} parameters"
    experts = config.model.num_layers * config.moe.num_experts
    active = config.model.num_layers * config.moe.top_k
    return (
        f"{dense + experts * expert:,} parameters = {dense:,} dense + {experts} experts x {expert:,}; "
        f"{dense + active * expert:,} used by a token, {dense + experts // layout.expert_parallel * expert:,} on a rank"
    )


def _replicas(config: RunConfig, layout: Layout) -> str | None:
    """Describes the memory and traffic that replicas of experts add; None if there are none."""
    if config.moe is None or layout.placement is None or not layout.placement.has_replicas:
        return None
    expert_bytes = expert_parameters(config) * (2 if config.engine.precision == "bf16" else 4)
    on_a_rank = sum(slots.replicas.shape[1] for slots in layout.slots)
    sent = sum(int(slots.copies.sum()) for slots in layout.slots)
    again = ", and once more where the forward pass is repeated" * config.engine.activation_checkpointing
    return (
        f"replicas: {on_a_rank} on a rank over all layers, {on_a_rank * expert_bytes / 1e6:,.3g} MB of borrowed weights"
        f" until the backward pass; every micro batch {sent * expert_bytes / 1e6:,.3g} MB of weights between the ranks "
        f"of a group, and as much of gradients back{again}"
    )


def _sent(spec: TraceSpec) -> str:
    """A line about the collectives of a step."""
    sizes = [record.bytes_in for record in formula(spec)[1] if record.rank == 0]
    return (
        f"collectives of rank 0 in one optimiser step, by formula: {len(sizes):,}, of {scaled(sum(sizes), 'B')} in all"
    )


def _collectives(spec: TraceSpec) -> Table:
    header, records = formula(spec)
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        if record.rank > 0:
            break
        entry = sums[record.phase, record.op, record.group]
        entry[0] += 1
        entry[1] += record.bytes_in
    table = Table(title="collectives of rank 0 in one optimiser step, by formula", title_justify="left")
    for name in ("phase", "operation", "group"):
        table.add_column(name)
    for name in ("ranks", "calls", "bytes in"):
        table.add_column(name, justify="right")
    for (phase, op, group), (calls, size) in sums.items():
        table.add_row(phase, op, group, str(len(header.groups[group])), f"{calls:,}", f"{size:,}")
    return table
