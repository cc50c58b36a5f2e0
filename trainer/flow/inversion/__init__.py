"""Inversions: the protocol, its implementations, their configuration and `build`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field as Setting

from trainer.flow import sampler as samplers
from trainer.flow.inversion.protocol import Drawn, Inversion, Inverted
from trainer.flow.inversion.reverse import EulerInverse, Reverse, ReverseConfig, UniInversion, UniInversionConfig
from trainer.flow.inversion.zero_order import (
    SAFETY,
    Iterated,
    ZeroOrder,
    ZeroOrderConfig,
    contraction_bound,
    zero_order,
)
from trainer.flow.path import Path

AnyConfig = ReverseConfig | UniInversionConfig | ZeroOrderConfig
Config = Annotated[AnyConfig, Setting(discriminator="kind")]

INVERTIBLE = (samplers.EulerConfig, samplers.HeunConfig, samplers.FirstOrderConfig, samplers.OwnSampler)


def build(config: AnyConfig, *, sampler: samplers.AnyConfig, path: Path) -> Inversion:
    """The inversion that `config.kind` names, of the noise that a sampler draws from on its grid.

    Raises:
        ValueError: the sampler draws noise on its way or chooses its steps itself, so that an example has no noise that
            leads to it by itself.
    """
    check_invertible(sampler)
    match config:
        case ReverseConfig():
            return Reverse(samplers.build(sampler, path=path), path, config.pull)
        case UniInversionConfig():
            segments = sampler.segments if isinstance(sampler, samplers.SegmentedConfig) else None
            return UniInversion(segments, config.evaluations)
        case ZeroOrderConfig():
            initial = build(config.initial, sampler=sampler, path=path)
            return ZeroOrder(samplers.build(sampler, path=path), initial, config.iterations, config.step_size)


def check_invertible(sampler: samplers.AnyConfig) -> None:
    """Refuses, by a ValueError, a sampler that is not deterministic with fixed steps; a user's class is taken to be."""
    within = sampler.within if isinstance(sampler, samplers.SegmentedConfig) else sampler
    if isinstance(within, INVERTIBLE):
        return
    reason = (
        "chooses its steps by the whole batch, so that the noise of an example would depend on the others"
        if isinstance(within, samplers.Dopri5Config)
        else "draws noise on its way, so that a picture has no noise of its own that leads to it"
    )
    raise ValueError(f"sampler: {within.kind} {reason}; invert with euler, heun or first_order")


__all__ = [
    "SAFETY",
    "AnyConfig",
    "Config",
    "Drawn",
    "EulerInverse",
    "Inversion",
    "Inverted",
    "Iterated",
    "Reverse",
    "ReverseConfig",
    "UniInversion",
    "UniInversionConfig",
    "ZeroOrder",
    "ZeroOrderConfig",
    "build",
    "check_invertible",
    "contraction_bound",
    "zero_order",
]
