"""From a configuration to what the collectives of drawing depend on."""

from math import prod

from trainer.config.layout import Layout
from trainer.config.model import CausalTransitionConfig
from trainer.config.run import RunConfig
from trainer.flow import sampler as samplers
from trainer.model.build import tokens_per_example
from trainer.trace.formula.network import layers
from trainer.trace.formula.passes import Passage
from trainer.trace.formula.plan import rank_groups
from trainer.trace.formula.protocol import all_gather
from trainer.trace.formula.sampling import Sampling
from trainer.trace.formula.trace import TraceSpec

PRECISION = "fp32"
"""Element type of averaged weights, and of all that a network computes with them when samples are drawn."""


def sampling_spec(
    config: RunConfig,
    layout: Layout,
    *,
    sampler: samplers.AnyConfig | int,
    guidance: float,
    examples: int,
    ranks_per_node: int,
) -> TraceSpec:
    """Collects what the formula needs for a drawing, as the sample verb draws under torchrun.

    The layout is that of `plan_sampling`, and each rank draws examples of its own. The trace has one step, and each
    call of the network is a micro step of it.

    Args:
        sampler: what draws, or how often it calls the network.
        guidance: scale of classifier-free guidance. Any but 0 and 1 doubles the rows of each call.
        examples: that a data rank draws.
    """
    if config.flow is None:
        raise ValueError(f"flow: a {config.model.kind} model follows none, so that no sampler draws from it")
    rows = examples if guidance in (0.0, 1.0) else 2 * examples
    collected = all_gather("data", "float32", 4 * examples * prod(config.state_shape), layout.data_parallel)
    read = _read_in_each_call(config, _network_calls(sampler))
    made = {
        tokens: tuple(layers(config, layout, tokens=rows * tokens, precision=PRECISION, evaluates=True))
        for tokens in set(read)
    }
    passages = {tokens: Passage(config.model.num_layers, traffic) for tokens, traffic in made.items()}
    return TraceSpec(
        world_size=layout.world_size,
        ranks_per_node=ranks_per_node,
        groups=rank_groups(layout),
        program=Sampling(passages=tuple(passages[tokens] for tokens in read), collected=collected),
        config_sha256=config.digest,
    )


def _read_in_each_call(config: RunConfig, calls: int) -> list[int]:
    """Tokens of an example that a network reads in each call; a causal one has read those of earlier calls."""
    model = config.model
    if not isinstance(model, CausalTransitionConfig):
        return [tokens_per_example(config)] * calls
    state = model.state_tokens(config.state_shape)
    of_a_past = state if model.history == "last" else calls
    return [1 if number % of_a_past else state + 1 for number in range(calls)]


def _network_calls(sampler: samplers.AnyConfig | int) -> int:
    if isinstance(sampler, int):
        return sampler
    if isinstance(sampler, samplers.TransitionConfig):
        return sampler.steps  # whatever the head does, which sends nothing
    calls = samplers.calls(sampler)
    if calls is not None:
        return calls["network"]
    if isinstance(sampler, samplers.OwnSampler):
        raise ValueError(
            f"sampler.class: {sampler.class_path} does not say how often it calls the network; give the class an "
            "attribute evaluations_per_step, and the setting steps"
        )
    raise ValueError(
        f"sampler.kind: {sampler.kind} chooses its steps as it draws, so that no formula knows its calls of the "
        "network; use euler or heun"
    )
