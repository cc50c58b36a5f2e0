"""The parts of a flow, the alternatives to each of them, and the facts that rules of composition refer to."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast, get_args

from pydantic import BaseModel

from netsim.foundation.own_class import OwnClass
from trainer.flow import control, coupling, objective, path, sampler, target
from trainer.flow.target import Quantity

QUANTITIES: dict[type, tuple[Quantity, ...]] = {
    sampler.FirstOrderConfig: ("data", "noise"),
    sampler.EulerMaruyamaConfig: ("velocity", "score"),
    sampler.StochasticHeunConfig: ("velocity", "score"),
    sampler.RenoiseConfig: ("data",),
}
"""The quantities that samplers need from a field, where the velocity alone is not enough."""


@dataclass(frozen=True)
class Composition:
    """The parts of a flow, the sampler that draws from it, and what changes its field meanwhile."""

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
    "coupling": _kinds(coupling.Config),
    "path": PATHS,
    "target": _kinds(target.Config),
    "objective": tuple(
        objective.RegressionConfig(space=space, antithetic=antithetic)
        for antithetic in (False, True)
        for space in ("prediction", "data", "velocity")
    ),
    "sampler": tuple(one for one in _kinds(sampler.Config) if not isinstance(one, sampler.TransitionConfig)),
    "controls": ((),),
}
"""The configurations that may replace a part whatever the network is, by the name of the part."""


def built(config: path.Config) -> path.Path:
    """The path of a configuration; every tabulated path declares the same as the straight one, and needs no file."""
    return _built_once(cast(Hashable, config))  # frozen settings have a hash, which type checkers do not see


@lru_cache(maxsize=64)
def _built_once(config: Any) -> path.Path:
    return path.build(path.LinearConfig() if isinstance(config, path.TabulatedConfig) else config)


def has_own_noise(config: path.Config) -> bool:
    """Whether a path adds noise of its own."""
    return built(config).has_noise


def kinds_without_noise() -> list[str]:
    """The kinds of path that add no noise of their own."""
    return [name(one) for one in PATHS if not has_own_noise(one)]


def is_independent(config: coupling.Config) -> bool:
    """Whether a coupling draws source points that are independent of the data."""
    match config:
        case coupling.IndependentConfig() | coupling.KNNConfig(k=1):
            return True
        case coupling.GibbsWeightedConfig(epsilon=epsilon):
            return epsilon == float("inf")
    return False


def has_one_step_map(along: path.Config, predicted: target.Config) -> bool:
    """Whether one step of Euler's method, x_0 + v(x_0, 0), leads from the source to an estimate of the data."""
    return isinstance(along, path.LinearConfig) and target.class_of(predicted).end != built(along).starts_as


def innermost(config: sampler.AnyConfig) -> sampler.AnyConfig:
    """The sampler within segments, or the sampler itself if it has none."""
    return config.within if isinstance(config, sampler.SegmentedConfig) else config


def quantities_of(config: sampler.AnyConfig) -> tuple[Quantity, ...]:
    """The quantities that a sampler needs from a field."""
    return QUANTITIES.get(type(innermost(config)), ("velocity",))


def follows_score(config: sampler.AnyConfig) -> bool:
    """Whether a sampler adds noise, which it balances by a drift along the score."""
    match innermost(config):
        case sampler.EulerMaruyamaConfig(diffusion=sampler.FlowGRPODiffusion() | sampler.MemorylessDiffusion()):
            return True
        case sampler.EulerMaruyamaConfig(diffusion=diffusion) | sampler.StochasticHeunConfig(diffusion=diffusion):
            return any(diffusion)
    return False


def is_memoryless(config: sampler.AnyConfig) -> bool:
    """Whether the states that a sampler ends at are independent of those that it starts at."""
    chosen = innermost(config)
    return isinstance(chosen, sampler.EulerMaruyamaConfig) and isinstance(chosen.diffusion, sampler.MemorylessDiffusion)


def evaluates_at_the_data(config: sampler.AnyConfig) -> bool:
    """Whether a sampler evaluates the velocity at t = 1, or within 0.001 of it."""
    return isinstance(innermost(config), sampler.HeunConfig | sampler.Dopri5Config | sampler.StochasticHeunConfig)


def name(config: BaseModel | tuple[BaseModel, ...]) -> str:
    """The kind of a part, and the settings that differ from its defaults; of each part of a list."""
    if isinstance(config, tuple):
        return f"[{', '.join(map(name, config))}]"
    fields = type(config).model_fields
    kind, *settings = (getattr(config, field, None) for field in ("kind", *fields))
    changed = {
        field: getattr(value, "kind", value)
        for (field, about), value in zip(fields.items(), settings, strict=True)
        if not about.is_required() and value != about.get_default(call_default_factory=True)
    }
    return f"{kind} ({', '.join(f'{field}={value}' for field, value in changed.items())})" if changed else str(kind)


def listed(names: Sequence[str]) -> str:
    """Names joined by commas and "or"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
