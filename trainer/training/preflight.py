"""Checks of a run before a process group exists, with every refusal that is possible then."""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from netsim.foundation.extra import require
from netsim.foundation.run_reference import ReferenceConfig
from trainer.checkpoint.base import check_base, check_beginning, check_modules
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.intact import origin, weights_file
from trainer.checkpoint.pretrained import FrozenRun, pinned
from trainer.config.layout import Layout
from trainer.config.rules import plan
from trainer.config.rules.cautions import cautions
from trainer.config.rules.objection import Objections, Validation, caught, errors, result_or_first
from trainer.config.rules.tasks import of_base_of_policy, of_teacher, of_tilted
from trainer.config.run import RunConfig
from trainer.config.task import AdjointMatchingConfig, GRPOConfig
from trainer.distributed.groups import check_adapters
from trainer.distributed.run_folder import check_writable
from trainer.flow.objective import ConsistencyDistillation, VelocityDistillation
from trainer.model.build import check_rates
from trainer.model.feature_extractor.teacher import check_teacher
from trainer.model.values import check_meaning
from trainer.sampling.flow import check_latents
from trainer.training.schedule import changed_schedule


@dataclass(frozen=True)
class Preflight:
    """A run without objections.

    Attributes:
        config: the run, with the digests of its references.
        newest: the checkpoint from which it resumes, unless its ranks find damage; None: it starts anew.
        damaged: a line for each newer checkpoint that is damaged.
        cautions: lines about settings that are allowed and probably not meant.
    """

    config: RunConfig
    layout: Layout
    newest: Path | None
    damaged: list[str]
    cautions: list[str]


def preflight(
    config: RunConfig, world_size: int, *, ranks_per_node: int | None = None, read_bytes: int = 0
) -> Preflight:
    """Checks everything about a run that one process can check before it joins others, except the examples.

    `read_bytes` of a checkpoint may be read to find damage; the lengths of its files are always compared.
    """
    return result_or_first(validated(config, world_size, ranks_per_node=ranks_per_node, read_bytes=read_bytes))


def validated(
    config: RunConfig, world_size: int, *, ranks_per_node: int | None = None, read_bytes: int = 0
) -> Validation[Preflight]:
    """All objections to a run, first the one that :func:`preflight` raises; files are read only if it has a layout."""
    layout = yield from plan.validated_layout(config, world_size, ranks_per_node=ranks_per_node)
    if layout is None:
        return None
    several_nodes = ranks_per_node is not None and world_size > ranks_per_node and torch.cuda.is_available()
    here = [caught(check_writable, config.run.dir), *([caught(check_adapters)] if several_nodes else [])]
    objected = yield from errors(*here)
    pinned_config = yield from caught(pinned, config)
    if pinned_config is None:
        return None
    config = pinned_config
    objected |= yield from errors(
        caught(check_rates, config),
        _of_teacher(config, world_size),
        caught(check_base, config),
        caught(check_modules, config),
        _of_base(config, world_size),
    )
    begins = yield from caught(_origin, config, read_bytes)
    objected |= yield from errors(
        caught(check_latents, config),
        caught(check_teacher, config),
        caught(_check_sinks, config),
    )
    if objected or begins is None:
        return None
    newest, damaged = begins
    stretched = None if newest is None else _changed_schedule(config, newest)
    return Preflight(config, layout, newest, damaged, [*cautions(config, layout), *([stretched] if stretched else [])])


def _of_teacher(config: RunConfig, world_size: int) -> Objections:
    match config.flow and config.flow.objective:
        case VelocityDistillation(teacher=teacher) | ConsistencyDistillation(teacher=teacher):
            yield from of_teacher(config, FrozenRun.of_run(teacher).config, world_size)


def _of_base(config: RunConfig, world_size: int) -> Objections:
    match config.task:
        case AdjointMatchingConfig(base=ReferenceConfig() as base):
            yield from of_tilted(config, FrozenRun.of_run(base).config, world_size)
        case GRPOConfig(base=ReferenceConfig() as base):
            yield from of_base_of_policy(config, FrozenRun.of_run(base).config)


def _origin(config: RunConfig, read_bytes: int) -> tuple[Path | None, list[str]]:
    """The checkpoint that a run resumes from, and lines about damaged ones; refuses weights that do not fit."""
    newest, damaged = origin(config, read_bytes=read_bytes)
    if newest is None and config.model.init_from is not None:
        weights = weights_file(config.model.init_from)
        check_beginning(weights, config)
        check_meaning(weights, config.model)
    return newest, damaged


def _check_sinks(config: RunConfig) -> None:
    if config.observe.wandb is not None:
        require("wandb", field="observe.wandb", otherwise="observe.wandb=null")
    if config.observe.tensorboard:
        require("tensorboard", field="observe.tensorboard", otherwise="observe.tensorboard=false")


def _changed_schedule(config: RunConfig, newest: Path) -> str | None:
    """A line about the learning rate, if the number of steps differs from the checkpoint's; else None."""
    try:
        saved = yaml.safe_load((newest / "config.yaml").read_text(encoding="utf-8"))
        steps = saved["optim"]["steps"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # a damaged file is refused by who reads it
        return None
    return changed_schedule(config.optim, steps, step_of(newest))
