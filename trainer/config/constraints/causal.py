"""What a causal network and the objective that trains it cannot be given."""

from trainer.config.model import CausalTransitionConfig
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow import objective, sampler
from trainer.flow.time import UniformConfig


def check_causal(config: RunConfig) -> None:
    """Refuses a causal network without its objective, the objective without such a network, and what it has no use for.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    chosen, model = config.flow.objective, config.model
    learns_tokens = isinstance(chosen, objective.CausalTransitionConfig)
    if not isinstance(model, CausalTransitionConfig):
        if learns_tokens:
            raise ValueError(
                f"flow.objective.kind: causal_transition asks for the tokens of a chain, which a {model.kind} model "
                "lacks; use model.kind=causal_transition, or regression"
            )
        return
    if not isinstance(chosen, objective.CausalTransitionConfig | objective.OwnObjective):
        raise ValueError(
            f"model.kind: causal_transition predicts nothing that flow.objective.kind {chosen.kind} could compare; use "
            "flow.objective.kind=causal_transition and sample.sampler.kind=causal_transition, or model.kind=dit"
        )
    if not isinstance(config.flow.time, UniformConfig):
        raise ValueError(
            f"flow.time.kind: {config.flow.time.kind} draws times of a path, and a causal_transition model has "
            "transitions, each as likely as another; use uniform"
        )
    if config.source_data is not None and learns_tokens and chosen.process == "independent":
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
