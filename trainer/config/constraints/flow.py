"""Parts of a flow that do not go together, and the partners that each of them has.

A rule speaks of a few parts and says what is wrong with them together. The partners in a complaint are found by putting
every other kind of a part in its place and asking the same rules again, so that they are never a list to keep.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

import torch
from pydantic import BaseModel

from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow import coupling, objective, path, sampler, target
from trainer.flow.target import Quantity

TIMES = torch.tensor([0.125, 0.375, 0.5, 0.75])
"""At which a path is asked for its form."""

STEEPEST = 900.0
"""Largest factor by which an error of a prediction may grow in the velocity; beyond, it does not determine it."""

QUANTITIES: dict[type, tuple[Quantity, ...]] = {
    sampler.FirstOrderConfig: ("data", "noise"),
    sampler.EulerMaruyamaConfig: ("velocity", "score"),
    sampler.StochasticHeunConfig: ("velocity", "score"),
}
"""What samplers ask a field for that follow more than its velocity."""


@dataclass(frozen=True)
class Composition:
    """The parts of a flow, and how samples of it are drawn."""

    coupling: coupling.Config
    path: path.Config
    target: target.Config
    objective: objective.Config
    sampler: sampler.AnyConfig


@dataclass(frozen=True)
class Rule:
    """What some parts ask of each other.

    Attributes:
        parts: names of fields of a `Composition`; the first one is blamed.
        complaint: says what is wrong with them together; None: nothing.
    """

    parts: tuple[str, ...]
    complaint: Callable[[Composition], str | None]


def _kinds(union: Any) -> tuple[Any, ...]:
    """One of each kind of a part, with its default settings; a file that it needs is left open."""
    inner = get_args(union)[0] if get_args(union) else union
    return tuple(member.model_construct() for member in get_args(inner) or (inner,))


PATHS: tuple[path.Config, ...] = _kinds(path.Config)

ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "coupling": _kinds(coupling.Config),
    "path": PATHS,
    "target": _kinds(target.Config),
    "objective": tuple(
        objective.RegressionConfig(space=space, antithetic=antithetic)
        for antithetic in (False, True)
        for space in ("prediction", "data", "velocity")
    ),
    "sampler": _kinds(sampler.Config),
}
"""What may stand in the place of a part."""

SECTIONS = {"sampler": "sample.sampler"}
"""Where a part stands in a configuration, if it is not in the section flow."""


def check_composition(config: RunConfig) -> None:
    """Refuses parts of a flow that do not go together.

    Args:
        config: the run.

    Raises:
        ValueError: names a part, those that it does not go with, why, and the partners of each.
    """
    composition = _composition(config)
    if composition is None:
        return
    if isinstance(composition.path, path.TabulatedConfig):
        path.build(composition.path)  # the file may have changed since the run began
    found = complaint(composition)
    if found is not None:
        raise ValueError(found)


def complaint(composition: Composition) -> str | None:
    """The first complaint about a composition, with all partners; None: its parts go together."""
    for rule in RULES:
        reason = rule.complaint(composition)
        if reason is not None:
            return _told(composition, rule, "does not go with", reason)
    return None


def _composition(config: RunConfig) -> Composition | None:
    """The parts of a run's flow; None: it follows none."""
    if config.flow is None:
        return None
    assert isinstance(config.sample, ImageSample | PointSample)
    flow = config.flow
    return Composition(flow.coupling, flow.path, flow.target, flow.objective, config.sample.sampler)


def _told(composition: Composition, rule: Rule, verdict: str, reason: str) -> str:
    """A verdict about the parts of a rule, why, and the partners of each."""
    named = {part: name(getattr(composition, part)) for part in rule.parts}
    blamed, *others = rule.parts
    company = " and ".join(f"{_field(part)} {named[part]}" for part in others)
    fitting = partners(composition, rule).items()
    remedies = [f"{_field(part)} {listed([name(one) for one in ones])}" for part, ones in fitting]
    return f"{_field(blamed)}: {named[blamed]} {verdict} {company} ({reason}); use {', or '.join(remedies)}"


def partners(composition: Composition, rule: Rule) -> dict[str, list[Any]]:
    """What each part of a broken rule may be exchanged for, the others kept, as far as the parts of the rule go."""
    own = [*(other for other in RULES if set(other.parts) <= set(rule.parts)), rule]
    found: dict[str, list[Any]] = {}
    for part in rule.parts:
        fitting = [
            one
            for one in ALTERNATIVES[part]
            if not any(rule.complaint(replace(composition, **{part: one})) for rule in own)
        ]
        if fitting:
            found[part] = fitting
    return found


def has_own_noise(config: path.Config) -> bool:
    """Whether a path adds noise between its ends."""
    return bool(_built(config).coefficients(TIMES).g.any())


def follows_score(config: sampler.AnyConfig) -> bool:
    """Whether a sampler adds noise, and the score against it."""
    match _within(config):
        case sampler.EulerMaruyamaConfig(diffusion=diffusion) | sampler.StochasticHeunConfig(diffusion=diffusion):
            return any(diffusion)
    return False


def asks_at_the_data(config: sampler.AnyConfig) -> bool:
    """Whether a sampler asks for the velocity at t = 1 too, or next to it."""
    return isinstance(_within(config), sampler.HeunConfig | sampler.Dopri5Config | sampler.StochasticHeunConfig)


def paths_of_two_ends() -> list[str]:
    """The kinds of path that add no noise between their ends."""
    return [name(one) for one in PATHS if not has_own_noise(one)]


def _coupling_unused(composition: Composition) -> str | None:
    if isinstance(composition.coupling, coupling.IndependentConfig):
        return None
    if _built(composition.path).coefficients(TIMES).a.any():
        return None
    return "no source point lies on this path, and so none is paired"


def _target_on_path(composition: Composition) -> str | None:
    try:
        predicted = target.build(composition.target, path=_built(composition.path))
    except ValueError:
        return "v turns the state by a right angle, which takes a^2 + b^2 = 1"
    if not _tells(predicted, "velocity"):
        return (
            "where a path adds noise of its own, this alone is not translated into the velocity, which samplers follow"
        )
    if predicted.num_fields > 1 and not has_own_noise(composition.path):
        return "the path adds no noise that a second field could find, and its velocity tells the source already"
    return None


def _told_at_the_source(composition: Composition) -> str | None:
    if _steepness(composition, 0.0) > STEEPEST:
        return (
            "at t = 0, where samples begin, the state holds nothing of the data, and this predicts the source alone: "
            "an error of the network grows a thousandfold in the velocity"
        )
    return None


def _mirror_image(composition: Composition) -> str | None:
    match composition.objective:
        case objective.RegressionConfig(antithetic=True) if not has_own_noise(composition.path):
            return "antithetic points differ in the noise that a path adds, and this one adds none"
    return None


def _compared_space(composition: Composition) -> str | None:
    match composition.objective:
        case objective.RegressionConfig(space=("data" | "velocity") as space):
            if not _tells(_target(composition), space):
                return f"what is predicted leaves the {space} open on this path"
    return None


def _followed_quantities(composition: Composition) -> str | None:
    predicted, inner = _target(composition), _within(composition.sampler)
    missing = [quantity for quantity in QUANTITIES.get(type(inner), ()) if not _tells(predicted, quantity)]
    if missing:
        return f"it follows the {missing[0]} too, which the prediction leaves open on this path"
    if isinstance(inner, sampler.FirstOrderConfig) and has_own_noise(composition.path):
        return "its steps hold both ends, and a path with noise of its own is not made of them alone"
    return None


def _told_at_the_data(composition: Composition) -> str | None:
    if asks_at_the_data(composition.sampler) and _steepness(composition, 1.0) > STEEPEST:
        return (
            "it asks for the velocity at t = 1, where the state holds nothing of the source, and this predicts the data"
        )
    return None


def _score_as_drift(composition: Composition) -> str | None:
    if not follows_score(composition.sampler) or has_own_noise(composition.path):
        return None
    if _is_independent(composition.coupling):
        return None
    return "it follows the score, which the source tells only where it is normal and independent of the data"


RULES = (
    Rule(("coupling", "path"), _coupling_unused),
    Rule(("target", "path"), _target_on_path),
    Rule(("objective", "path"), _mirror_image),
    Rule(("objective", "target", "path"), _compared_space),
    Rule(("sampler", "target", "path"), _followed_quantities),
    Rule(("sampler", "coupling", "path"), _score_as_drift),
)
"""In the order in which they are told; a rule is asked only where those before it that speak of the same parts hold."""


STEEP_END = Rule(("sampler", "target", "path"), _told_at_the_data)
ADVICE = (Rule(("target", "path"), _told_at_the_source), STEEP_END)
"""No rules: with hundreds of steps and a good network such flows can be drawn from."""


def caution(config: RunConfig, advice: Sequence[Rule] = ADVICE) -> str | None:
    """What goes together and yet badly, in one line with all partners; None: nothing.

    Args:
        config: a run whose parts go together.
        advice: what is looked at.
    """
    composition = _composition(config)
    if composition is not None:
        for rule in advice:
            reason = rule.complaint(composition)
            if reason is not None:
                return _told(composition, rule, "goes badly with", reason)
    return None


def _is_independent(config: coupling.Config) -> bool:
    match config:
        case coupling.IndependentConfig() | coupling.KNNConfig(k=1):
            return True
        case coupling.GibbsWeightedConfig(epsilon=epsilon):
            return epsilon == float("inf")
    return False


@lru_cache(maxsize=64)
def _built(config: path.Config) -> path.Path:
    """A path of the same form; a table is of one without noise of its own, whatever its file says."""
    return path.build(path.LinearConfig() if isinstance(config, path.TabulatedConfig) else config)


def _target(composition: Composition) -> target.Target:
    return target.build(composition.target, path=_built(composition.path))


def _tells(predicted: target.Target, quantity: Quantity) -> bool:
    """Whether a prediction determines a quantity on its path."""
    x = torch.zeros(len(TIMES), 1)
    try:
        predicted.convert(x.expand(-1, predicted.num_fields), x, TIMES, quantity)
    except ValueError:
        return False
    return True


def _steepness(composition: Composition, time: float) -> float:
    """How many times an error of the prediction grows in the velocity at a time."""
    predicted, x, t = _target(composition), torch.zeros(1, 1), torch.tensor([time])
    none, one = (predicted.convert(value.expand(1, predicted.num_fields), x, t, "velocity") for value in (x, x + 1))
    return float((one - none).abs())


def _within(config: sampler.AnyConfig) -> sampler.AnyConfig:
    return config.within if isinstance(config, sampler.SegmentedConfig) else config


def _field(part: str) -> str:
    return f"{SECTIONS.get(part, f'flow.{part}')}.kind"


def name(config: BaseModel) -> str:
    """The kind of a part, and the settings that differ from its own defaults."""
    fields = type(config).model_fields
    kind, *settings = (getattr(config, field, None) for field in ("kind", *fields))
    changed = {
        field: getattr(value, "kind", value)
        for (field, about), value in zip(fields.items(), settings, strict=True)
        if not about.is_required() and value != about.get_default(call_default_factory=True)
    }
    return f"{kind} ({', '.join(f'{field}={value}' for field, value in changed.items())})" if changed else str(kind)


def listed(names: list[str]) -> str:
    """Names in a row for a person."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
