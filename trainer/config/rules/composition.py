"""Which parts of a flow go together: the facts that decide it, the rules, and the partners of what does not.

Rules read what paths and targets declare (`Path`, `Target.determines`); no state is drawn or converted. Partners are
other kinds of a part with which the same rules hold, so that there is no list of them to keep.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast, get_args

from netsim.foundation.own_class import OwnClass
from trainer.flow import control, coupling, objective, path, sampler, target
from trainer.flow.target import Quantity
from trainer.flow.target.conversion import determines

QUANTITIES: dict[type, tuple[Quantity, ...]] = {
    sampler.FirstOrder: ("data", "noise"),
    sampler.EulerMaruyama: ("velocity", "score"),
    sampler.StochasticHeun: ("velocity", "score"),
    sampler.Renoise: ("data",),
}
"""The quantities that samplers need from a field, where the velocity alone is not enough."""
Distillation = objective.VelocityDistillation | objective.ConsistencyDistillation
"""Objectives that learn the mean velocity up to the data."""
"""The key of a part in a configuration, if it is not the kind of a section of flow."""


@dataclass(frozen=True)
class Composition:
    """The parts of a flow, the sampler that draws from it, and the controls that change its field meanwhile."""

    coupling: coupling.Config
    path: path.Config
    target: target.Config
    objective: objective.Config
    sampler: sampler.AnyConfig
    controls: tuple[control.AnyConfig, ...] = ()


def _kinds(union: Any) -> tuple[Any, ...]:
    """One configuration of each kind with its default settings; the file of a kind that needs one is left out."""
    inner = get_args(union)[0] if get_args(union) else union
    members = get_args(inner) or (inner,)
    return tuple(member.model_construct() for member in members if not issubclass(member, OwnClass))


PATHS: tuple[path.Config, ...] = _kinds(path.Config)
ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "coupling": tuple(one for one in _kinds(coupling.Config) if not isinstance(one, coupling.Ends)),
    "path": PATHS,
    "target": _kinds(target.Config),
    "objective": (
        *(
            objective.Regression(space=space, antithetic=antithetic)
            for antithetic in (False, True)
            for space in ("prediction", "data", "velocity")
        ),
        objective.CrossEntropy(),
    ),
    "sampler": tuple(one for one in _kinds(sampler.Config) if not isinstance(one, sampler.Transition)),
    "controls": ((),),
}
"""The configurations that may replace a part whatever the network is, by the name of the part."""
OF_LETTERS = path.GumbelSoftmaxConfig | target.Token | objective.CrossEntropy | control.StraightThroughConfig
"""Parts of flows over letters, which replace others only where one of them is there already."""

Reasons = Iterator[tuple[tuple[str, ...], str]]
"""Names of parts that do not go together, the one first that a complaint is about, and why."""


def built(config: path.Config) -> path.Path:
    """Builds the path of a configuration; a straight one stands for a tabulated one, which declares the same."""
    return _built_once(cast(Hashable, config))  # frozen settings have a hash, which type checkers do not see


@lru_cache(maxsize=64)
def _built_once(config: Any) -> path.Path:
    return (path.LinearConfig() if isinstance(config, path.TabulatedConfig) else config).build()


def is_independent(config: coupling.Config) -> bool:
    """Whether a coupling draws source points that are independent of the data."""
    match config:
        case coupling.Independent() | coupling.KNN(k=1):
            return True
        case coupling.GibbsWeighted(epsilon=epsilon):
            return epsilon == float("inf")
    return False


def has_one_step_map(along: path.Config, predicted: target.Config) -> bool:
    """Whether one step of Euler's method, x_0 + v(x_0, 0), leads from the source to an estimate of the data."""
    return isinstance(along, path.LinearConfig) and target.class_of(predicted).end != built(along).starts_as


def innermost(config: sampler.AnyConfig) -> sampler.AnyConfig:
    """The sampler within segments, or the sampler itself if it has none."""
    return config.within if isinstance(config, sampler.Segmented) else config


def follows_score(config: sampler.AnyConfig) -> bool:
    """Whether a sampler adds noise, which it balances by a drift along the score."""
    match innermost(config):
        case sampler.EulerMaruyama(diffusion=sampler.FlowGRPODiffusion() | sampler.MemorylessDiffusion()):
            return True
        case sampler.EulerMaruyama(diffusion=diffusion) | sampler.StochasticHeun(diffusion=diffusion):
            return any(diffusion)
    return False


def reasons(parts: Composition) -> Reasons:
    """Yields the parts that do not go together, with the reasons, in the order of complaints."""
    yield from _of_chains(parts)
    yield from _of_fields(parts)
    yield from _of_letters(parts)
    yield from _of_encoder(parts)
    yield from _of_ends(parts)
    yield from _of_pairs_and_prediction(parts)
    yield from _of_losses(parts)
    yield from _of_steps(parts)
    yield from _of_distillation(parts)
    yield from _of_controls(parts)


def _of_chains(parts: Composition) -> Reasons:
    learned, drawn = parts.objective, parts.sampler
    learns_tokens = isinstance(learned, objective.CausalTransition)
    draws_tokens = isinstance(drawn, sampler.CausalTransition)
    if learns_tokens and parts.path != path.LinearConfig():
        yield ("objective", "path"), "the states of its chain lie on straight lines between noise and data"
    if learns_tokens and learned.process == "independent" and not is_independent(parts.coupling):
        reason = "each state has noise of its own, which is paired with nothing; process linear keeps the pairs"
        yield ("objective", "coupling"), reason
    if isinstance(learned, objective.OwnObjective) or isinstance(drawn, sampler.OwnSampler):
        return
    if learns_tokens and not draws_tokens:
        reason = "it needs a quantity at a state, and what is learned are tokens that are drawn one after the other"
        yield ("sampler", "objective"), reason
    if draws_tokens and not learns_tokens:
        reason = "it draws tokens one after the other, and what is learned is a quantity at a state"
        yield ("sampler", "objective"), reason


def _of_fields(parts: Composition) -> Reasons:
    if not isinstance(parts.coupling, coupling.Symmetric):
        return
    if not isinstance(parts.path, path.LinearConfig):
        yield (
            ("coupling", "path"),
            "the class is read from the velocity of a straight path, the difference of its ends",
        )
    if not isinstance(parts.target, target.Velocity):
        yield ("coupling", "target"), "the class is read from a velocity"
    match parts.objective:
        case objective.Regression(space="prediction", antithetic=False, monge_gap=None) | objective.OwnObjective():
            pass
        case _:
            yield (
                ("coupling", "objective"),
                "image and label have errors of their own, which it does not tell apart",
            )
    if not isinstance(parts.sampler, sampler.Euler | sampler.Heun | sampler.Dopri5 | sampler.OwnSampler):
        yield ("coupling", "sampler"), "a state begins at a label, which is no noise that this sampler could draw anew"
    if parts.controls:
        yield ("coupling", "controls"), "a control changes a picture, and a state has a label beside it"


def _of_letters(parts: Composition) -> Reasons:
    predicted, learned, letters = parts.target, parts.objective, isinstance(parts.target, target.Token)
    if isinstance(parts.path, path.GumbelSoftmaxConfig):
        if not isinstance(predicted, target.Token | target.OwnTarget):
            yield ("path", "target"), "its states are of letters with noise, of which logits are predicted"
        if isinstance(parts.sampler, sampler.Renoise):
            yield ("sampler", "path"), "it draws normal noise on the way, and that of this path is Gumbel noise"
    if isinstance(learned, objective.CrossEntropy) and not isinstance(predicted, target.Token | target.OwnTarget):
        yield ("objective", "target"), "it compares logits with letters"
    match learned:
        case objective.CrossEntropy() | objective.OwnObjective():
            pass
        case objective.Regression(space=("data" | "velocity"), monge_gap=None):
            pass
        case _ if letters:
            yield ("target", "objective"), "it predicts logits, which are no value that this compares"


def _of_encoder(parts: Composition) -> Reasons:
    begins = getattr(parts.coupling, "encodes_captions", False)
    learned = isinstance(parts.objective, objective.EncodedSource)
    if learned and not begins:
        yield ("coupling", "objective"), "the encoder that it trains makes the source points of captions"
    if begins and not isinstance(parts.objective, objective.EncodedSource | objective.OwnObjective):
        yield ("coupling", "objective"), "source points that an encoder makes are learned with it"
    if begins and not isinstance(parts.path, path.LinearConfig):
        yield (
            ("coupling", "path"),
            "its source points have any mean and deviation, and other curves suppose normal ones",
        )
    if learned and not isinstance(parts.target, target.Velocity):
        yield ("objective", "target"), "it compares velocities"


def _of_ends(parts: Composition) -> Reasons:
    if not isinstance(parts.coupling, coupling.Ends):
        return
    if parts.path != path.LinearConfig():
        yield ("coupling", "path"), "only a straight path leaves the fixed atoms where they are"
    match parts.objective:
        case objective.Regression(antithetic=False, monge_gap=None) | objective.OwnObjective():
            pass
        case _:
            yield ("coupling", "objective"), "it supposes source points that are noise alone, and these have places"
    if not isinstance(parts.sampler, sampler.Euler | sampler.Heun | sampler.Dopri5 | sampler.OwnSampler):
        yield ("coupling", "sampler"), "it draws noise at atoms that are not free"


def _of_pairs_and_prediction(parts: Composition) -> Reasons:
    along, predicted = built(parts.path), target.class_of(parts.target)
    if not isinstance(parts.coupling, coupling.Independent) and not along.has_source:
        yield ("coupling", "path"), "no source point lies on this path, and so none is paired"
    reason = None
    if isinstance(parts.target, target.VPrediction) and not along.preserves_variance:
        reason = "v_prediction is defined on a path with a^2 + b^2 = 1"
    elif not predicted.determines("velocity", along) and not along.affine:
        reason = "samplers follow the velocity, and without coefficients of the path it cannot be computed from this"
    elif not predicted.determines("velocity", along):
        reason = (
            "samplers follow the velocity, and this alone does not determine it on a path that adds noise of its own "
            "to source and data"
        )
    elif predicted.num_fields > 1 and not along.has_noise:
        reason = "the path adds no noise of its own that a second field could predict, and the velocity is enough"
    if reason is not None:
        yield ("target", "path"), reason


def _of_losses(parts: Composition) -> Reasons:
    learned, along = parts.objective, built(parts.path)
    match learned:
        case objective.Regression(antithetic=True) if not along.has_noise:
            reason = "antithetic points differ in the path's own noise, and this path adds none"
            yield ("objective", "path"), reason
        case objective.Regression(spread=objective.Spread(), antithetic=antithetic, monge_gap=gap):
            if antithetic or gap is not None or along.has_noise or not along.affine:
                reason = "its further source points lie on paths without noise of their own, with no mirrors and no gap"
                yield ("objective", "path"), reason
            if not isinstance(parts.coupling, coupling.Independent | coupling.Ends | coupling.OwnCoupling):
                reason = "it draws further source points for a data point, which this coupling would not pair"
                yield ("objective", "coupling"), reason
            if not target.class_of(parts.target).determines("velocity", along):
                yield ("objective", "target", "path"), "it compares velocities, which the prediction leaves open"
        case objective.FeatureResidual() if not along.affine:
            reason = "it computes states at other times of the same path, which needs the coefficients of the path"
            yield ("objective", "path"), reason
    match learned:
        case objective.Regression(space=("data" | "velocity") as space):
            if not target.class_of(parts.target).determines(space, along):
                yield ("objective", "target", "path"), f"the prediction leaves the {space} open on this path"
    match learned:
        case objective.MongeMap() | objective.Regression(monge_gap=objective.MongeGap()):
            if not has_one_step_map(parts.path, parts.target):
                reason = "it trains the map of one step, x_0 + v(x_0, 0), which does not lead to the data here"
                yield ("objective", "target", "path"), reason
    without_pairs = isinstance(parts.coupling, coupling.Independent | coupling.OwnCoupling)
    if isinstance(learned, objective.MongeMap) and not without_pairs:
        reason = "it compares source points and data as two sets, so that pairs and their weights have no meaning"
        yield ("objective", "coupling"), reason
    if isinstance(learned, objective.Transition) and not isinstance(parts.path, path.LinearConfig):
        reason = "a step goes along the difference of data and source, which only a straight path has everywhere"
        yield ("objective", "path"), reason
    trains_head = isinstance(learned, objective.Transition | objective.CausalTransition)
    if trains_head and not isinstance(parts.target, target.Velocity):
        yield ("objective", "target"), "the head draws velocities"


def _of_steps(parts: Composition) -> Reasons:
    drawn, along, predicted = parts.sampler, built(parts.path), target.class_of(parts.target)
    inner = innermost(drawn)
    trained = isinstance(parts.objective, objective.Transition | objective.OwnObjective)
    if isinstance(drawn, sampler.Transition) and not trained:
        yield ("sampler", "objective"), "it draws by the head of a network, which this does not train"
    unknown = next((one for one in _quantities(drawn) if not predicted.determines(one, along)), None)
    if unknown is not None:
        yield ("sampler", "target", "path"), f"it needs the {unknown}, which the prediction leaves open on this path"
    elif isinstance(inner, sampler.FirstOrder) and along.has_noise:
        reason = "its steps lead from the source to the data, and a path that adds noise of its own has a third term"
        yield ("sampler", "target", "path"), reason
    if follows_score(drawn) and not along.has_noise and not is_independent(parts.coupling):
        reason = "it follows the score, which is known only where the source is normal and independent of the data"
        yield ("sampler", "coupling", "path"), reason
    match inner:
        case sampler.EulerMaruyama(diffusion=sampler.MemorylessDiffusion()) if parts.path != path.LinearConfig():
            reason = "its noise is memoryless, which is written for the straight path that ends at the data alone"
            yield ("sampler", "path"), reason


def _of_distillation(parts: Composition) -> Reasons:
    distils = isinstance(parts.objective, Distillation)
    if distils and not isinstance(parts.path, path.LinearConfig):
        yield ("objective", "path"), "it learns a mean velocity that leads to the data in one straight step"
    if distils and not isinstance(parts.target, target.Velocity):
        yield ("objective", "target"), "the network itself is the mean velocity that it learns"
    if isinstance(parts.sampler, sampler.Renoise) and not is_independent(parts.coupling):
        reason = "it draws fresh noise on the way, and this coupling does not pair noise and data at random"
        yield ("sampler", "coupling"), reason


def _of_controls(parts: Composition) -> Reasons:
    if not parts.controls:
        return
    straight_through = any(isinstance(one, control.StraightThroughConfig) for one in parts.controls)
    if straight_through and not isinstance(parts.target, target.Token | target.OwnTarget):
        yield ("controls", "target"), "straight_through changes probabilities of letters, which this does not predict"
    if isinstance(parts.sampler, sampler.Transition | sampler.CausalTransition):
        reason = "a control changes the velocity at a state, and this sampler draws by a head, which follows none"
        yield ("controls", "sampler", "objective"), reason
        yield ("controls", "sampler", "path"), reason
        return
    for quantity in _quantities(parts.sampler):
        if not determines("velocity", quantity, built(parts.path)):
            reason = (
                f"a control changes the velocity, and this sampler asks for the {quantity}, which the velocity leaves "
                "open on this path"
            )
            yield ("controls", "sampler", "path"), reason


def _quantities(config: sampler.AnyConfig) -> tuple[Quantity, ...]:
    """The quantities that a sampler needs from a field."""
    return QUANTITIES.get(type(innermost(config)), ("velocity",))


def open_at_the_source(parts: Composition) -> Reasons:
    """Yields a prediction that leaves the velocity undetermined at t = 0, where samples begin."""
    end, start = target.class_of(parts.target).end, built(parts.path).starts_as
    if end is not None and end == start:
        rest = "data" if end == "source" else "noise"
        reason = (
            f"at t = 0, where samples begin, the state contains no {rest}, and this predicts the {end} alone: next to "
            "it an error of the prediction is a thousand times larger in the velocity"
        )
        yield ("target", "path"), reason


def open_at_the_data(parts: Composition) -> Reasons:
    """Yields a sampler that evaluates the velocity within 0.001 of t = 1, where the prediction leaves it open."""
    end, last = target.class_of(parts.target).end, built(parts.path).ends_as
    solvers = sampler.Heun | sampler.Dopri5 | sampler.StochasticHeun
    if isinstance(innermost(parts.sampler), solvers) and end is not None and end == last:
        reason = (
            "it evaluates the velocity at t = 1, where the state contains no source, and this predicts the data alone"
        )
        yield ("sampler", "target", "path"), reason
