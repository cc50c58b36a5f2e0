"""Rules about networks, objectives and samplers of a flow that do not go together."""

import math
from itertools import pairwise

from netsim.foundation.own_class import OwnClass
from trainer.config.derived import sampler_of
from trainer.config.model import BY_KIND, BlockwiseConfig, CausalTransitionConfig, SegmentNetworkConfig
from trainer.config.rules.composition import Composition, Distillation
from trainer.config.rules.objection import Objections
from trainer.config.rules.partners import objections
from trainer.config.run import RunConfig
from trainer.data import PairsConfig
from trainer.flow import objective, path, sampler
from trainer.flow.sampler.protocol import SAME_TIME
from trainer.flow.time import Grid, Stratified, Uniform

ONLY_STEP = (0.0, 1.0)
"""Times of a sampler of one step that cannot be given more steps."""


def composition_of(config: RunConfig, chosen: sampler.AnyConfig | None = None) -> Composition | None:
    """The parts of a run's flow, drawn by its own sampler or a chosen one; None: the run has no flow."""
    flow = config.flow
    if flow is None:
        return None
    drawn_by, controls = chosen or sampler_of(config), getattr(config.sample, "controls", ())
    return Composition(flow.coupling, flow.path, flow.target, flow.objective, drawn_by, controls)


def of_composition(config: RunConfig) -> Objections:
    """Objects to parts, sampler and controls of a flow that do not go together."""
    composition = composition_of(config)
    if composition is None:
        return
    if isinstance(composition.path, path.TabulatedConfig):
        composition.path.build()  # the file may have changed since the run began
    yield from objections(composition)


def of_objective(config: RunConfig) -> Objections:
    """Objects to objectives that need outputs a network does not compute; a user's class may need anything."""
    if config.flow is None or isinstance(config.flow.objective, OwnClass):
        return
    kind, model = config.flow.objective.kind, config.model
    owners = {name: network for name, network in BY_KIND.items() if kind in network.objective_kinds}
    if model.objective_kinds and kind not in model.objective_kinds:
        problem = f"{kind} asks for a prediction, and a {model.kind} model draws by {model.objective_part}"
        yield "flow.objective.kind", problem, f"use {' or '.join(model.objective_kinds)}, or model.kind dit or mlp"
    elif owners and kind not in model.objective_kinds:
        yield (
            "flow.objective.kind",
            f"{kind} trains {next(iter(owners.values())).objective_part}, which a {model.kind} model lacks",
            f"use model.kind {' or '.join(owners)}, or another objective such as regression",
        )


def of_causal_network(config: RunConfig) -> Objections:
    """Objects to settings that do not fit a network that draws the states of a chain."""
    flow, model = config.flow, config.model
    if flow is None or not isinstance(model, CausalTransitionConfig):
        return
    if not isinstance(flow.time, Uniform):
        problem = (
            f"{flow.time.kind} draws times of a path, and a causal_transition model has transitions, each as likely as "
            "another"
        )
        yield "flow.time.kind", problem, "use uniform"
    learned = flow.objective
    independent = isinstance(learned, objective.CausalTransition) and learned.process == "independent"
    if config.source_data is not None and independent:
        problem = (
            f"{config.source_data.kind} data give each example one state to start at, and flow.objective.process "
            "independent needs noise for every state"
        )
        yield "flow.source.kind", problem, "use flow.objective.process=linear, or remove flow.source"
    drawn_by = sampler_of(config)
    if not isinstance(drawn_by, sampler.CausalTransition) or len(config.state_shape) not in (1, 3):
        return
    tokens = model.state_tokens(config.state_shape)
    calls = model.transitions * tokens
    if drawn_by.tokens not in (None, calls):
        problem = f"{drawn_by.tokens}, but model.transitions {model.transitions} of {tokens} tokens are {calls}"
        yield "sample.sampler.tokens", problem, "leave it out"


def of_one_step(config: RunConfig, micro_batch: int | None) -> Objections:
    """Objects to settings under which a map of one step has no meaning, and to settings that it ignores."""
    flow = config.flow
    match flow and flow.objective:
        case objective.MongeMap():
            field = "flow.objective.kind: monge_map"
        case objective.Regression(monge_gap=objective.MongeGap()):
            field = "flow.objective.monge_gap"
        case _:
            return
    assert flow is not None
    if config.context_shape is not None:
        from_where = "the data give" if flow.context is None else f"flow.context {flow.context.kind} gives"
        problem = (
            f"it matches the examples of a micro batch with each other, and {from_where} each of them a map of its own"
        )
        yield field, problem, "remove one of the two"
    if isinstance(config.model, SegmentNetworkConfig):
        kind = config.model.kind
        yield field, f"one step from t = 0 to 1 crosses the segments of model.kind {kind}", "use mlp or dit"
    if isinstance(config.data, PairsConfig) and config.data.segments is not None:
        parts = f"parts of paths ({config.data.segments} segments), and the map begins at t = 0"
        yield field, f"the pairs in data.path are {parts}", "use pairs of whole paths"
    if micro_batch is not None and micro_batch < 2:
        problem = f"in a micro batch of {micro_batch} there is nothing to compare a map with"
        yield field, problem, "use a larger optim.micro_batch, as a rule 128 to 512"
    if not isinstance(flow.objective, objective.MongeMap):
        return
    if flow.time not in (Uniform(), Grid(steps=1)):
        problem = (
            f"{getattr(flow.time, 'kind', 'a class')} has no effect, since flow.objective.kind monge_map asks the "
            "network at t = 0 alone"
        )
        yield "flow.time.kind", problem, "remove it"
    drawn_by = sampler_of(config)
    if isinstance(drawn_by, sampler.OwnSampler):
        return
    if not isinstance(drawn_by, sampler.Euler) or drawn_by.times != ONLY_STEP:
        steps = getattr(drawn_by, "steps", None)
        used = drawn_by.kind if steps is None else f"{drawn_by.kind} with {steps} step{'s' * (steps != 1)}"
        problem = f"{used} can ask the network after t = 0, where flow.objective.kind monge_map leaves it untrained"
        yield "sample.sampler", problem, "use {kind: euler, times: [0, 1]}"


def of_features(config: RunConfig) -> Objections:
    """Objects to objectives that ask for features that a network lacks, and parts of a network that nothing trains."""
    flow, model = config.flow, config.model
    learned = flow and flow.objective
    aligned = isinstance(learned, objective.Aligned)
    residual = isinstance(learned, objective.FeatureResidual)
    if not isinstance(model, BlockwiseConfig):
        if aligned or residual:
            problem = f"{learned.kind} needs the features of a trunk, which a {model.kind} model lacks"
            yield "flow.objective.kind", problem, "use model.kind=blockwise, or regression"
        return
    assert flow is not None
    if aligned and model.teacher_features is None:
        problem = "null leaves nothing that flow.objective.kind aligned could align"
        yield "model.teacher_features", problem, "use the number of the teacher's features"
    if aligned and (flow.latent is not None or flow.data_scale != 1):
        problem = "aligned shows a teacher the data as the network knows them, and here they are latents or scaled"
        yield "flow.objective.kind", problem, "use images, and flow.data_scale 1"
    if model.teacher_features is not None and not (aligned or residual):
        problem = f"{model.teacher_features} belong to a projection that no objective trains"
        yield "model.teacher_features", problem, "use null, or flow.objective.kind aligned"
    if residual and not (model.residual_layers and model.init_from):
        yield (
            "flow.objective.kind",
            "feature_residual trains the residual network of a trunk that is finished",
            "use model.residual_layers of 1 or more, and model.init_from with model.init_new=[residual]",
        )
    if model.residual_layers and not residual:
        problem = f"{model.residual_layers} are trained by flow.objective.kind feature_residual alone, when all else is"
        yield "model.residual_layers", problem, "use 0 here"
    if residual and model.dropout:
        yield (
            "model.dropout",
            f"{model.dropout} would change the features that flow.objective.kind feature_residual has to approximate",
            "use 0 here",
        )
    if residual and config.optim.weight_decay:
        problem = f"{config.optim.weight_decay} would shrink what flow.objective.kind feature_residual leaves as it is"
        yield "optim.weight_decay", problem, "use 0"


def of_blocks(config: RunConfig, micro_batch: int | None) -> Objections:
    """Objects to settings that leave blocks of time segments untrained, or that step across the edges of segments."""
    yield from of_features(config)
    if not isinstance(config.model, SegmentNetworkConfig):
        return
    assert config.flow is not None
    segments = config.model.segments
    if micro_batch is not None and micro_batch < segments:
        problem = (
            f"{segments} segments exceed the micro batch of {micro_batch}, so that in each step the blocks of some "
            "learn nothing"
        )
        yield "model.segments", problem, "use fewer segments, or a larger optim.micro_batch"
    nodes = config.data.nodes if isinstance(config.data, PairsConfig) else None
    edges = [number / segments for number in range(1, segments)]
    crossed = [edge for edge in edges if min(abs(node - edge) for node in nodes) > SAME_TIME] if nodes else []
    if nodes and crossed:
        problem = (
            f"{segments} segments meet at {crossed[0]:.4g}, which is not one of the nodes of the pairs in data.path "
            f"({', '.join(f'{node:.4g}' for node in nodes)}), and the field may jump there"
        )
        yield "model.segments", problem, "draw pairs at nodes that were searched with this teacher's own sampler"
    match config.flow.time:
        case Stratified(segments=intervals) if intervals % segments:
            problem = f"{intervals} are shared out among model.segments {segments} unevenly"
            yield "flow.time.segments", problem, f"use {segments}"
        case Grid(steps=steps) if len(_trained(config, segments, steps)) < segments:
            problem = f"{steps} times do not reach each of model.segments {segments}"
            yield "flow.time.steps", problem, f"use {segments} or a multiple"
    drawn_by = sampler_of(config)
    if not isinstance(drawn_by, sampler.OwnSampler) and getattr(drawn_by, "segments", None) != segments:
        parts = f", segments {drawn_by.segments}" if isinstance(drawn_by, sampler.Segmented) else ""
        yield (
            "sample.sampler.kind",
            f"{drawn_by.kind}{parts} steps across the edges of model.segments {segments}, where the field may jump",
            f"use sample.sampler={{kind: segmented, segments: {segments}, within: {{kind: euler, steps: 8}}}}",
        )


def _trained(config: RunConfig, segments: int, steps: int) -> set[int]:
    """Returns the segments in which a step begins, for `steps` equal steps between adjacent edges of the pairs."""
    edges = config.data.edges if isinstance(config.data, PairsConfig) else (0.0, 1.0)
    times = [start + (end - start) * step / steps for start, end in pairwise(edges) for step in range(steps)]
    return {math.floor((time + SAME_TIME) * segments) for time in times}


def of_distillation(config: RunConfig) -> Objections:
    """Objects to networks that one step cannot lead through, and source points where normal ones are drawn."""
    if config.flow is None:
        return
    learned = config.flow.objective
    if isinstance(learned, Distillation) and isinstance(config.model, SegmentNetworkConfig):
        problem = (
            f"{learned.kind} learns one step to the data, and samples step through each of model.segments "
            f"{config.model.segments}"
        )
        yield "flow.objective.kind", problem, "use model.kind=dit or mlp"
    if config.source_data is None:
        return
    if isinstance(learned, objective.VelocityDistillation) and learned.weight_distribution > 0:
        problem = (
            f"{learned.weight_distribution:g} weighs samples that start at a standard normal, and those of this flow "
            "start at another data set"
        )
        yield "flow.objective.weight_distribution", problem, "use 0"
    if isinstance(sampler_of(config), sampler.Renoise):
        problem = "renoise draws normal noise on the way, and the paths of this flow start at another data set"
        yield "sample.sampler.kind", problem, "use euler, heun or dopri5"
