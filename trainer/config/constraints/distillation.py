"""Flows that are distilled from a teacher's, and samples that are noised anew between steps."""

from typing import Any

from trainer.config.model import SegmentNetworkConfig
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow.objective import ConsistencyDistillationConfig, VelocityDistillationConfig
from trainer.flow.sampler import RenoiseConfig

Distillation = VelocityDistillationConfig | ConsistencyDistillationConfig


def check_distillation(config: RunConfig) -> None:
    """Refuses networks that one step cannot lead through, and source points where normal ones are drawn.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    chosen = config.flow.objective
    if isinstance(chosen, Distillation) and isinstance(config.model, SegmentNetworkConfig):
        raise ValueError(
            f"flow.objective.kind: {chosen.kind} learns one step to the data, and samples step through each of "
            f"model.segments {config.model.segments}; use model.kind=dit or mlp"
        )
    if config.source_data is None:
        return
    if isinstance(chosen, VelocityDistillationConfig) and chosen.weight_distribution > 0:
        raise ValueError(
            f"flow.objective.weight_distribution: {chosen.weight_distribution:g} weighs samples that start at a "
            "standard normal, and those of this flow start at another data set; use 0"
        )
    assert isinstance(config.sample, ImageSample | PointSample)
    if isinstance(config.sample.sampler, RenoiseConfig):
        raise ValueError(
            "sample.sampler.kind: renoise draws normal noise on the way, and the paths of this flow start at another "
            "data set; use euler, heun or dopri5"
        )


def check_taught_by(config: RunConfig, teacher: RunConfig, world_size: int) -> None:
    """Refuses a teacher whose flow is between other states than that of the run, or that its ranks cannot share.

    Args:
        config: a run whose objective distils a teacher.
        teacher: the run that is the teacher.
        world_size: ranks.

    Raises:
        ValueError: names field, value and remedy.
    """
    assert config.flow is not None
    chosen = config.flow.objective
    assert isinstance(chosen, Distillation)
    run = chosen.teacher.run
    if teacher.flow is None:
        raise ValueError(
            f"flow.objective.teacher.run: {run} follows no flow ({teacher.model.kind}); use the run of a flow"
        )
    own, its = states_of(config), states_of(teacher)
    for name, wanted in own.items():
        if its[name] != wanted:
            raise ValueError(
                f"flow.objective.teacher.run: {run} has {name} {its[name]}, and this run {wanted}; use a teacher of "
                "the same states and conditions, or change those of this run"
            )
    guided = any(scale != 1 for scale in _guidance(chosen))
    if guided and teacher.data.num_classes and getattr(teacher.model, "label_dropout", None) == 0:
        raise ValueError(
            f"flow.objective.guidance: {chosen.guidance} asks the teacher about no class, which it never saw with "
            "model.label_dropout 0; use 1, or a teacher with a model.label_dropout such as 0.1"
        )
    if teacher.moe is not None and world_size > 1 and teacher.parallel.expert != config.parallel.expert:
        raise ValueError(
            f"parallel.expert: {config.parallel.expert}, and the experts of the teacher {run} are shared by "
            f"{teacher.parallel.expert} ranks of the same groups; use {teacher.parallel.expert}"
        )


def _guidance(chosen: Distillation) -> tuple[float, ...]:
    return chosen.guidance if isinstance(chosen, VelocityDistillationConfig) else (chosen.guidance,)


def states_of(config: RunConfig) -> dict[str, Any]:
    """What a run has in common with the frozen flow of another run that it asks.

    Args:
        config: a run with a flow.
    """
    flow = config.flow
    assert flow is not None
    return {
        "states of shape": list(config.state_shape),
        "flow.latent": flow.latent and flow.latent.digest,
        "flow.data_scale": flow.data_scale,
        "flow.path": flow.path.model_dump(mode="json"),
        "a source": config.source_data and config.source_data.model_dump(mode="json"),
        "flow.context": flow.context and flow.context.model_dump(mode="json"),
        "classes": config.data.num_classes,
    }
