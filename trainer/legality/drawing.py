"""What cannot be drawn, and what cannot be drawn while a run trains."""

import torch

from trainer.config import ImageSample, PointSample, ReconstructionSample, RunConfig, TextSample
from trainer.flow import path, sampler, target
from trainer.flow.target import Quantity
from trainer.model.gpt_config import GPTConfig

QUANTITIES: dict[type, tuple[Quantity, ...]] = {
    sampler.FirstOrderConfig: ("data", "noise"),
    sampler.EulerMaruyamaConfig: ("velocity", "score"),
    sampler.StochasticHeunConfig: ("velocity", "score"),
}
"""What samplers ask a field for that follow more than its velocity."""


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
    if isinstance(config.sample, ImageSample | PointSample):
        _check_quantities(config, config.sample.sampler)
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
        case TextSample(every=int(), prompts=prompts, num_bytes=num_bytes), GPTConfig(context=context):
            longest = max(len(prompt.encode()) for prompt in prompts)
            if longest + num_bytes > context:
                raise ValueError(
                    f"sample.num_bytes: {num_bytes} bytes after a prompt of {longest} exceed model.context {context}; "
                    + (f"use at most {context - longest}" if longest < context else "use shorter sample.prompts")
                )


def _check_quantities(config: RunConfig, chosen: sampler.AnyConfig) -> None:
    """Refuses a sampler that asks for what the network's prediction does not tell on its path."""
    assert config.flow is not None
    inner = chosen.within if isinstance(chosen, sampler.SegmentedConfig) else chosen
    along = path.build(config.flow.path)
    predicted = target.build(config.flow.target, path=along)
    half, x = torch.full((1,), 0.5), torch.zeros(1, 1)
    try:
        for quantity in QUANTITIES.get(type(inner), ()):
            predicted.convert(x.expand(1, predicted.num_fields), x, half, quantity)
        own_noise = bool(along.coefficients(half).g)
        if config.flow.source is not None and not own_noise and "score" in QUANTITIES.get(type(inner), ()):
            raise ValueError("the score is known of noise alone, and flow.source is another data set")
        if isinstance(inner, sampler.FirstOrderConfig) and own_noise:
            raise ValueError("the path has noise of its own, which no step between its ends keeps")
    except ValueError as error:
        raise ValueError(
            f"sample.sampler.kind: {inner.kind} does not go with flow.target {config.flow.target.kind} on flow.path "
            f"{config.flow.path.kind} ({error}); use euler, heun or dopri5, which need the velocity alone"
        ) from error


def _chooses_steps(chosen: sampler.AnyConfig) -> bool:
    inner = chosen.within if isinstance(chosen, sampler.SegmentedConfig) else chosen
    return isinstance(inner, sampler.Dopri5Config)


def drawable(config: RunConfig) -> bool:
    """Whether what an image model draws can be shown: grey, or red, green and blue, or latents of such images."""
    return config.decoded_shape[0] in (1, 3)
