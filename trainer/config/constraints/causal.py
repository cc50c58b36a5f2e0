"""What a network that draws the states of a chain has no use for."""

from trainer.config.model import CausalTransitionConfig
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow import objective, sampler
from trainer.flow.time import UniformConfig


def check_causal(config: RunConfig) -> None:
    """Refuses times, sources and numbers of tokens that a causal network has no use for.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    chosen, model = config.flow.objective, config.model
    if not isinstance(model, CausalTransitionConfig):
        return
    if not isinstance(config.flow.time, UniformConfig):
        raise ValueError(
            f"flow.time.kind: {config.flow.time.kind} draws times of a path, and a causal_transition model has "
            "transitions, each as likely as another; use uniform"
        )
    independent = isinstance(chosen, objective.CausalTransitionConfig) and chosen.process == "independent"
    if config.source_data is not None and independent:
        raise ValueError(
            f"flow.source.kind: {config.source_data.kind} data give each example one state to start at, and "
            "flow.objective.process independent needs noise for every state; use flow.objective.process=linear, or "
            "remove flow.source"
        )
    assert isinstance(config.sample, ImageSample | PointSample)
    drawn_by, tokens = config.sample.sampler, model.state_tokens(config.state_shape)
    calls = model.transitions * tokens
    if isinstance(drawn_by, sampler.CausalTransitionConfig) and drawn_by.tokens not in (None, calls):
        raise ValueError(
            f"sample.sampler.tokens: {drawn_by.tokens}, but model.transitions {model.transitions} of {tokens} "
            f"tokens are {calls}; leave it out"
        )
