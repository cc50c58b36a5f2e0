"""What cannot be drawn, and what cannot be drawn while a run trains."""

from netsim.foundation.refusal import Refusal
from trainer.config.constraints.blockwise import check_blockwise
from trainer.config.constraints.causal import check_causal
from trainer.config.constraints.controls import check_controls
from trainer.config.constraints.distillation import check_distillation
from trainer.config.constraints.flow import caution, check_composition
from trainer.config.constraints.pairing import check_source
from trainer.config.model import GPTConfig
from trainer.config.run import ImageSample, ObjectSample, PointSample, ReconstructionSample, RunConfig, TextSample
from trainer.config.task import TrajectoryBalanceTaskConfig
from trainer.data import PairsConfig
from trainer.data.run_tokenizer import run_tokenizer
from trainer.flow import sampler
from trainer.flow.composition import STEEP_END
from trainer.flow.sampler.steps_file import StepsFile


def check_drawing(config: RunConfig, world_size: int) -> None:
    """Refuses samples that the model, the data or the division of the work do not allow.

    Args:
        config: the run.
        world_size: ranks, at least 1.

    Raises:
        ValueError: names field, value and remedy.
    """
    shared = config.parallel.expert * config.parallel.tensor > 1
    shared |= config.engine.shards_parameters and world_size > 1
    _check_guidance(config)
    _check_grids(config)
    check_controls(config)
    match config.sample, config.model:
        case ((ImageSample(every=int()) | ReconstructionSample(every=int())), _) if not drawable(config):
            raise ValueError(
                f"sample.every: {config.sample.every}, but examples of {config.decoded_shape[0]} channels are no "
                "picture; use null"
            )
        case ImageSample(every=int(), sampler=chosen) | PointSample(every=int(), sampler=chosen), _ if (
            shared and _chooses_steps(chosen)
        ):
            raise ValueError(
                "sample.sampler.kind: dopri5 takes another number of steps on each rank, and ranks that share weights "
                "must take them together; use heun or euler, or sample.every=null and the sample verb afterwards"
            )
        case ObjectSample(exponent=float(exponent)), _ if isinstance(config.task, TrajectoryBalanceTaskConfig):
            config.task.check_exponent(exponent, "sample.exponent")
        case TextSample(every=int(), prompts=prompts, num_tokens=num_tokens), GPTConfig(context=context):
            tokenizer = run_tokenizer(config.data)
            longest = max(len(tokenizer.encode(prompt.encode())) for prompt in prompts)
            if longest + num_tokens > context:
                raise ValueError(
                    f"sample.num_tokens: {num_tokens} tokens after a prompt of {longest} exceed model.context "
                    f"{context}; "
                    + (f"use at most {context - longest}" if longest < context else "use shorter sample.prompts")
                )


def check_drawn_by(config: RunConfig, chosen: sampler.AnyConfig, guidance: float) -> None:
    """Refuses a sampler and a guidance with which the run itself could not have been configured.

    Args:
        config: the run, whose own samples are legal.
        chosen: how its field is followed.
        guidance: scale of classifier-free guidance.

    Raises:
        ValueError: names field, value and remedy.
    """
    assert isinstance(config.sample, ImageSample | PointSample)
    sample = config.sample.model_copy(update={"sampler": chosen, "guidance": guidance})
    changed = config.model_copy(update={"sample": sample})
    check_causal(changed)
    check_composition(changed)
    check_source(changed)
    check_distillation(changed)
    check_blockwise(changed, changed.optim.global_batch)
    _check_guidance(changed)
    _check_grids(changed)
    check_controls(changed)
    spoilt = caution(changed, (STEEP_END,))
    if spoilt is not None:
        raise ValueError(spoilt)


def stale_grids(config: RunConfig) -> str | None:
    """A line about grids that were searched for the weights of another run, or for earlier ones; None: there are none.

    Args:
        config: a run that trains, and whose sampler is legal.
    """
    match config.sample:
        case ImageSample(sampler=chosen) | PointSample(sampler=chosen):
            path = sampler.steps_file(chosen)
            if path is not None and not _straightened(config):
                made_by = StepsFile.read(path).made_by.get("run", "another run")
                return (
                    f"sample.sampler.times: {path} was searched for the weights that {made_by} had, and this run "
                    "trains others; search again when it is trained, unless it is meant to learn these steps"
                )
    return None


def check_drawn_together(config: RunConfig, chosen: sampler.AnyConfig) -> None:
    """Refuses a sampler whose steps ranks that share experts cannot take together.

    Args:
        config: the run.
        chosen: how its field is followed.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.parallel.expert > 1 and _chooses_steps(chosen):
        raise ValueError(
            "sample.sampler.kind: dopri5 takes another number of steps on each rank, and ranks that share experts must "
            "take them together; start one process"
        )


def _check_guidance(config: RunConfig) -> None:
    """Refuses guidance of a network that was never trained without classes."""
    match config.sample:
        case ImageSample(guidance=scale) | PointSample(guidance=scale) if scale != 1 and config.data.num_classes:
            if getattr(config.model, "label_dropout", None) == 0:
                raise ValueError(
                    f"sample.guidance: {scale} asks the network about no class, which it never sees with "
                    "model.label_dropout 0; use 1, or a model.label_dropout such as 0.1"
                )


def _check_grids(config: RunConfig) -> None:
    """Refuses a file of searched grids that is missing, or that was searched for other samples than are drawn."""
    match config.sample:
        case ImageSample(sampler=chosen, guidance=scale) | PointSample(sampler=chosen, guidance=scale):
            path = sampler.steps_file(chosen)
            if path is None:
                return
            sampler.times(chosen)
            made_for = StepsFile.read(path).guidance
            if made_for != scale and not _straightened(config):
                problem = f"is {made_for:g}, and the samples are drawn with {scale:g}"
                raise Refusal(path, "guidance", problem, f"search with --guidance {scale:g}, or draw with {made_for:g}")


def _straightened(config: RunConfig) -> bool:
    """Whether a run learns the steps between nodes, in which the guidance of its teacher is."""
    return isinstance(config.data, PairsConfig) and config.data.nodes is not None


def _chooses_steps(chosen: sampler.AnyConfig) -> bool:
    match chosen:
        case sampler.SegmentedConfig(within=inner) | sampler.TransitionConfig(head=inner):
            return isinstance(inner, sampler.Dopri5Config)
    return isinstance(chosen, sampler.Dopri5Config)


def drawable(config: RunConfig) -> bool:
    """Whether what an image model draws can be shown: grey, or red, green and blue, or latents of such images."""
    return config.decoded_shape[0] in (1, 3)
