"""The rules of composition: each one refers to a few parts, and says what is wrong with their combination.

Rules read what paths and targets declare (`Path`, `Target.determines`); no state is drawn or converted.
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.flow import coupling, objective, path, sampler, target
from trainer.flow.composition.parts import (
    Composition,
    built,
    evaluates_at_the_data,
    follows_score,
    has_one_step_map,
    innermost,
    is_independent,
    is_memoryless,
    quantities_of,
)
from trainer.flow.target.conversion import determines


@dataclass(frozen=True)
class Rule:
    """A requirement on the combination of some parts.

    Attributes:
        parts: names of fields of a `Composition`; a complaint is about the first one.
        complaint: returns what is wrong with the combination; None: nothing.
    """

    parts: tuple[str, ...]
    complaint: Callable[[Composition], str | None]


def _coupling_unused(composition: Composition) -> str | None:
    if isinstance(composition.coupling, coupling.IndependentConfig) or built(composition.path).has_source:
        return None
    return "no source point lies on this path, and so none is paired"


def _target_on_path(composition: Composition) -> str | None:
    along, predicted = built(composition.path), target.class_of(composition.target)
    if isinstance(composition.target, target.VPredictionConfig) and not along.preserves_variance:
        return "v_prediction is defined on a path with a^2 + b^2 = 1"
    if not predicted.determines("velocity", along):
        if not along.affine:
            return "samplers follow the velocity, and without coefficients of the path it cannot be computed from this"
        return (
            "samplers follow the velocity, and this alone does not determine it on a path that adds noise of its own "
            "to source and data"
        )
    if predicted.num_fields > 1 and not along.has_noise:
        return "the path adds no noise of its own that a second field could predict, and the velocity is enough"
    return None


def _mirror_image(composition: Composition) -> str | None:
    match composition.objective:
        case objective.RegressionConfig(antithetic=True) if not built(composition.path).has_noise:
            return "antithetic points differ in the path's own noise, and this path adds none"
    return None


def _states_of_a_pair(composition: Composition) -> str | None:
    match composition.objective:
        case objective.FeatureResidualConfig() if not built(composition.path).affine:
            return "it computes states at other times of the same path, which needs the coefficients of the path"
    return None


def _map_of_one_step(composition: Composition) -> str | None:
    match composition.objective:
        case objective.MongeMapConfig() | objective.RegressionConfig(monge_gap=objective.MongeGapConfig()):
            if not has_one_step_map(composition.path, composition.target):
                return "it trains the map of one step, x_0 + v(x_0, 0), which does not lead to the data here"
    return None


def _sets_in_place_of_pairs(composition: Composition) -> str | None:
    match composition.objective:
        case objective.MongeMapConfig() if not isinstance(
            composition.coupling, coupling.IndependentConfig | coupling.OwnCoupling
        ):
            return "it compares source points and data as two sets, so that pairs and their weights have no meaning"
    return None


def _compared_space(composition: Composition) -> str | None:
    match composition.objective:
        case objective.RegressionConfig(space=("data" | "velocity") as space):
            if not target.class_of(composition.target).determines(space, built(composition.path)):
                return f"the prediction leaves the {space} open on this path"
    return None


def _straight_path(composition: Composition) -> str | None:
    match composition.objective, composition.path:
        case objective.TransitionConfig(), path.LinearConfig():
            return None
        case objective.TransitionConfig(), _:
            return "a step goes along the difference of data and source, which only a straight path has everywhere"
    return None


def _drawn_velocity(composition: Composition) -> str | None:
    match composition.objective, composition.target:
        case objective.TransitionConfig() | objective.CausalTransitionConfig(), target.VelocityConfig():
            return None
        case objective.TransitionConfig() | objective.CausalTransitionConfig(), _:
            return "the head draws velocities"
    return None


def _trained_head(composition: Composition) -> str | None:
    match composition.sampler, composition.objective:
        case sampler.TransitionConfig(), objective.TransitionConfig() | objective.OwnObjective():
            return None
        case sampler.TransitionConfig(), _:
            return "it draws by the head of a network, which this does not train"
    return None


def _followed_quantities(composition: Composition) -> str | None:
    along, predicted = built(composition.path), target.class_of(composition.target)
    for quantity in quantities_of(composition.sampler):
        if not predicted.determines(quantity, along):
            return f"it needs the {quantity}, which the prediction leaves open on this path"
    if isinstance(innermost(composition.sampler), sampler.FirstOrderConfig) and along.has_noise:
        return "its steps lead from the source to the data, and a path that adds noise of its own has a third term"
    return None


def _score_as_drift(composition: Composition) -> str | None:
    if not follows_score(composition.sampler) or built(composition.path).has_noise:
        return None
    if is_independent(composition.coupling):
        return None
    return "it follows the score, which is known only where the source is normal and independent of the data"


DISTILLED = (objective.VelocityDistillationConfig, objective.ConsistencyDistillationConfig)
"""Objectives that learn the mean velocity up to the data."""


def _straight_to_the_data(composition: Composition) -> str | None:
    if not isinstance(composition.objective, DISTILLED) or isinstance(composition.path, path.LinearConfig):
        return None
    return "it learns a mean velocity that leads to the data in one straight step"


def _mean_velocity(composition: Composition) -> str | None:
    if not isinstance(composition.objective, DISTILLED) or isinstance(composition.target, target.VelocityConfig):
        return None
    return "the network itself is the mean velocity that it learns"


def _fresh_noise(composition: Composition) -> str | None:
    if not isinstance(composition.sampler, sampler.RenoiseConfig) or is_independent(composition.coupling):
        return None
    return "it draws fresh noise on the way, and this coupling does not pair noise and data at random"


def _drawn_in_turn(composition: Composition) -> str | None:
    if isinstance(composition.objective, objective.OwnObjective) or isinstance(composition.sampler, sampler.OwnSampler):
        return None
    learns_tokens = isinstance(composition.objective, objective.CausalTransitionConfig)
    if learns_tokens == isinstance(composition.sampler, sampler.CausalTransitionConfig):
        return None
    if learns_tokens:
        return "it needs a quantity at a state, and what is learned are tokens that are drawn one after the other"
    return "it draws tokens one after the other, and what is learned is a quantity at a state"


def _chain_of_states(composition: Composition) -> str | None:
    if not isinstance(composition.objective, objective.CausalTransitionConfig):
        return None
    if composition.path == path.LinearConfig():
        return None
    return "the states of its chain lie on straight lines between noise and data"


def _noise_for_every_state(composition: Composition) -> str | None:
    match composition.objective:
        case objective.CausalTransitionConfig(process="independent") if not is_independent(composition.coupling):
            return "each state has noise of its own, which is paired with nothing; process linear keeps the pairs"
    return None


def _straight_without_memory(composition: Composition) -> str | None:
    if not is_memoryless(composition.sampler) or composition.path == path.LinearConfig():
        return None
    return "its noise is memoryless, which is written for the straight path that ends at the data alone"


def _velocity_to_change(composition: Composition) -> str | None:
    if not composition.controls:
        return None
    if isinstance(composition.sampler, sampler.TransitionConfig | sampler.CausalTransitionConfig):
        return "a control changes the velocity at a state, and this sampler draws by a head, which follows none"
    return None


def _determined_by_the_velocity(composition: Composition) -> str | None:
    no_velocity = _velocity_to_change(composition)
    if not composition.controls or no_velocity is not None:
        return no_velocity
    along = built(composition.path)
    for quantity in quantities_of(composition.sampler):
        if not determines("velocity", quantity, along):
            return (
                f"a control changes the velocity, and this sampler asks for the {quantity}, which the velocity leaves "
                "open on this path"
            )
    return None


RULES = (
    Rule(("objective", "path"), _chain_of_states),
    Rule(("objective", "coupling"), _noise_for_every_state),
    Rule(("sampler", "objective"), _drawn_in_turn),
    Rule(("coupling", "path"), _coupling_unused),
    Rule(("target", "path"), _target_on_path),
    Rule(("objective", "path"), _mirror_image),
    Rule(("objective", "path"), _states_of_a_pair),
    Rule(("objective", "target", "path"), _compared_space),
    Rule(("objective", "target", "path"), _map_of_one_step),
    Rule(("objective", "coupling"), _sets_in_place_of_pairs),
    Rule(("objective", "path"), _straight_path),
    Rule(("objective", "target"), _drawn_velocity),
    Rule(("sampler", "objective"), _trained_head),
    Rule(("sampler", "target", "path"), _followed_quantities),
    Rule(("sampler", "coupling", "path"), _score_as_drift),
    Rule(("sampler", "path"), _straight_without_memory),
    Rule(("objective", "path"), _straight_to_the_data),
    Rule(("objective", "target"), _mean_velocity),
    Rule(("sampler", "coupling"), _fresh_noise),
    Rule(("controls", "sampler", "objective"), _velocity_to_change),
    Rule(("controls", "sampler", "path"), _determined_by_the_velocity),
)
"""In the order of complaints; a rule is checked only if the rules before it hold."""


def _open_at_the_source(composition: Composition) -> str | None:
    end, start = target.class_of(composition.target).end, built(composition.path).starts_as
    if end is None or end != start:
        return None
    rest = "data" if end == "source" else "noise"
    return (
        f"at t = 0, where samples begin, the state contains no {rest}, and this predicts the {end} alone: next to it "
        "an error of the prediction is a thousand times larger in the velocity"
    )


def _open_at_the_data(composition: Composition) -> str | None:
    end, last = target.class_of(composition.target).end, built(composition.path).ends_as
    if not evaluates_at_the_data(composition.sampler) or end is None or end != last:
        return None
    return "it evaluates the velocity at t = 1, where the state contains no source, and this predicts the data alone"


STEEP_END = Rule(("sampler", "target", "path"), _open_at_the_data)
"""A sampler that evaluates the velocity at the data, where the prediction leaves it open."""

ADVICE = (Rule(("target", "path"), _open_at_the_source), STEEP_END)
"""Combinations that are allowed, since they work with hundreds of steps and a good network, but badly otherwise."""
