"""What can be known of a run before a process group exists, and every refusal that this allows."""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from netsim.foundation.extra import require
from netsim.foundation.run_reference import ReferenceConfig
from trainer.checkpoint.base import check_base, check_beginning
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.intact import weights_file
from trainer.checkpoint.modules import check_modules
from trainer.checkpoint.origin import origin
from trainer.config.constraints.adjoint_matching import check_tilted
from trainer.config.constraints.distillation import check_taught_by
from trainer.config.constraints.plan import cautions, plan_layout
from trainer.config.constraints.policy import check_same_states
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.task import AdjointMatchingConfig, GRPOConfig
from trainer.distributed.adapters import check_adapters
from trainer.distributed.run_folder import check_writable
from trainer.flow.objective import ConsistencyDistillationConfig, VelocityDistillationConfig
from trainer.model.feature_extractor.teacher import check_teacher
from trainer.model.rates import check_rates
from trainer.model.weights import check_meaning
from trainer.sampling.latent_space import check_latents
from trainer.sampling.reference import Reference, pinned
from trainer.training.schedule import changed_schedule


@dataclass(frozen=True)
class Preflight:
    """A run that nothing speaks against.

    Attributes:
        config: the run, with the digests of its references.
        layout: how it is divided over its ranks.
        newest: the checkpoint that it goes on from, unless its ranks find damage; None: it starts.
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
    """Checks everything about a run that one process can check before it joins others, the examples left out.

    Args:
        config: the run.
        world_size: its ranks.
        ranks_per_node: those on one node; None: all.
        read_bytes: how much of a checkpoint may be read to find damage; the lengths of its files are always compared.

    Raises:
        ValueError: the configuration does not fit that many ranks, or the run folder, a file that the run reads, a
            package or the network of this node is not as the run needs it.
    """
    layout = plan_layout(config, world_size, ranks_per_node=ranks_per_node)
    check_writable(config.run.dir)
    if ranks_per_node is not None and world_size > ranks_per_node and torch.cuda.is_available():
        check_adapters()
    config = pinned(config)
    check_rates(config)
    match config.flow and config.flow.objective:
        case VelocityDistillationConfig(teacher=teacher) | ConsistencyDistillationConfig(teacher=teacher):
            check_taught_by(config, Reference.of_run(teacher).config, world_size)
    check_base(config)
    check_modules(config)
    match config.task:
        case AdjointMatchingConfig(base=ReferenceConfig() as base):
            check_tilted(config, Reference.of_run(base).config, world_size)
        case GRPOConfig(base=ReferenceConfig() as base):
            check_same_states(config, Reference.of_run(base).config)
    newest, damaged = origin(config, read_bytes=read_bytes)
    if newest is None and config.model.init_from is not None:
        weights = weights_file(config.model.init_from)
        check_beginning(weights, config)
        check_meaning(weights, config.model)
    check_latents(config)
    check_teacher(config)
    if config.observe.wandb is not None:
        require("wandb", field="observe.wandb", otherwise="observe.wandb=null")
    if config.observe.tensorboard:
        require("tensorboard", field="observe.tensorboard", otherwise="observe.tensorboard=false")
    stretched = None if newest is None else _changed_schedule(config, newest)
    return Preflight(config, layout, newest, damaged, [*cautions(config, layout), *([stretched] if stretched else [])])


def _changed_schedule(config: RunConfig, newest: Path) -> str | None:
    """A line about a learning rate that other steps than those of the checkpoint change."""
    try:
        saved = yaml.safe_load((newest / "config.yaml").read_text(encoding="utf-8"))
        steps = saved["optim"]["steps"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # a damaged file is refused by who reads it
        return None
    return changed_schedule(config.optim, steps, step_of(newest))
