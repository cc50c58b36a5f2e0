"""The check verb: what a configuration means, before anything is started."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trainer.checkpoint.intact import weights_file
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.origin import origin
from trainer.config.constraints.plan import cautions, describe, plan_layout
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.experiment.stage import FitPathStage, PairsStage, Stage, TrainStage, awaits, check_stages, load_stages
from trainer.model.build import dense_parameters, expert_parameters, inherited_shapes
from trainer.model.weights import check_weights
from trainer.observe.weights_and_biases import require_wandb
from trainer.task.latent_space import check_latents
from trainer.task.teacher import check_teacher
from trainer.trace.formula import TraceSpec, formula
from trainer.trace.formula.plan import trace_spec, without_formula

READ_BYTES = 1_000_000_000
"""Of a checkpoint, to look for damage: about a second."""


def run(path: Path, overrides: Sequence[str], world_size: int) -> int:
    """Prints the resolved configuration, the layout, the parameters and the collectives of a step.

    Args:
        path: configuration file.
        overrides: ``dotted.key=value``.
        world_size: ranks of the run.

    Returns:
        0.

    Raises:
        ValueError: the configuration is wrong, or does not fit that many ranks; the run folder holds checkpoints that
            the run cannot go on from; or a finished stage was made by something else.
    """
    if world_size < 1:
        raise ValueError(f"--world-size: {world_size} ranks cannot run anything; use 1 or more")
    stages = load_stages(path, overrides)
    if stages[0].name:
        check_stages(stages, world_size)
    for stage in stages:
        if stage.name:
            print(f"stage {stage.name} ({stage.verb}) in {stage.folder}")
        match stage:
            case TrainStage():
                _check_if_readable(stage, stages, world_size)
            case PairsStage():
                print(stage.request().model_dump_json())
            case FitPathStage():
                stage.config()
                print(stage.request().model_dump_json())
    return 0


def _check_if_readable(stage: TrainStage, stages: Sequence[Stage], world_size: int) -> None:
    """Checks and prints one run, or says which stage writes what it reads."""
    awaited = stage.awaited(stages)
    try:
        _check(stage.config(awaited), world_size)
    except ValueError as error:
        missed = awaits(error, awaited)
        if missed is None:
            raise
        print(f"cannot be checked further before stage {missed.name} is finished")


def _check(config: RunConfig, world_size: int) -> None:
    """Checks and prints one run."""
    layout = plan_layout(config, world_size)
    begins, damaged = origin(config, read_bytes=READ_BYTES)
    if begins is None and config.model.init_from is not None:
        check_weights(weights_file(config.model.init_from), inherited_shapes(config))
    check_latents(config)
    check_teacher(config)
    if config.observe.wandb is not None:
        require_wandb()
    console = Console(highlight=False)
    console.print(config.to_yaml(), end="", soft_wrap=True)
    console.rule()
    console.print(describe(config, layout), soft_wrap=True)
    console.print(_parameters(config, layout), soft_wrap=True)
    console.print(_origin(begins), soft_wrap=True)
    for line in [*cautions(config, layout), *(f"will be skipped: {fault}" for fault in damaged)]:
        print(line, file=sys.stderr)
    missing = without_formula(config)
    if missing is None:
        console.print(_collectives(trace_spec(config, layout, ranks_per_node=layout.world_size)))
    else:
        console.print(f"collectives: not known ({missing})", soft_wrap=True)


def _origin(begins: Path | None) -> str:
    """From which step the run goes on, and what of that checkpoint has not been read."""
    if begins is None:
        return "starts at step 0"
    manifest = Manifest.read(begins)
    unread = sum(manifest.files[name].size_bytes for name in manifest.files.keys() - manifest.smallest(READ_BYTES))
    verified = "every file of the checkpoint is as it was written"
    if unread:
        verified = (
            f"{unread / 1e9:,.1f} GB of the checkpoint were not read: their length is right, the ranks verify them"
        )
    return f"resumes after step {manifest.step}; {verified}"


def _parameters(config: RunConfig, layout: Layout) -> str:
    dense, expert = sum(dense_parameters(config)), expert_parameters(config)
    if config.moe is None:
        return f"{dense:,} parameters"
    experts = config.model.num_layers * config.moe.num_experts
    active = config.model.num_layers * config.moe.top_k
    return (
        f"{dense + experts * expert:,} parameters = {dense:,} dense + {experts} experts x {expert:,}; "
        f"{dense + active * expert:,} used by a token, {dense + experts // layout.expert_parallel * expert:,} on a rank"
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
