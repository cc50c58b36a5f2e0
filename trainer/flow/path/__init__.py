"""Paths from source to data: the protocol, its implementations, their configuration and `build`."""

from functools import partial
from typing import Annotated, ClassVar

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.path.affine import Affine, Linear, LinearConfig, Schedule, linear
from trainer.flow.path.protocol import Coefficients, End, Path, PathSample
from trainer.flow.path.stochastic_interpolant import (
    BrownianConfig,
    MirrorInterpolantConfig,
    OneSidedInterpolantConfig,
    QuadraticConfig,
    SineSquaredConfig,
    StochasticInterpolant,
    StochasticInterpolantConfig,
    ZeroConfig,
    mirror,
    one_sided,
    scale,
    two_sided,
)
from trainer.flow.path.tabulated import PathTable, Tabulated, TabulatedConfig, tabulated
from trainer.flow.path.variance_preserving import (
    DiffusionSteps,
    DiffusionStepsConfig,
    TrigonometricConfig,
    VariancePreservingConfig,
    cumulative_alphas,
    trigonometric,
    variance_preserving,
)


class OwnPath(OwnClass, frozen=True):
    """A class that keeps `Path`."""

    protocol: ClassVar[str] = "trainer.flow.path.Path"


Config = Annotated[
    LinearConfig
    | TrigonometricConfig
    | VariancePreservingConfig
    | DiffusionStepsConfig
    | StochasticInterpolantConfig
    | MirrorInterpolantConfig
    | OneSidedInterpolantConfig
    | TabulatedConfig
    | OwnPath,
    KindOrClass(),
]


def build(config: Config) -> Path:
    """The path that `config.kind` or `config.class` names.

    Raises:
        Refusal: the file of a tabulated path cannot be used.
    """
    match config:
        case LinearConfig(sigma_min=sigma_min):
            return Linear(sigma_min)
        case TrigonometricConfig():
            return Affine(trigonometric, preserves_variance=True)
        case VariancePreservingConfig(beta_min=beta_min, beta_max=beta_max):
            schedule = partial(variance_preserving, beta_min=beta_min, beta_max=beta_max)
            return Affine(schedule, preserves_variance=True, starts_as=None)
        case DiffusionStepsConfig():
            return Affine(DiffusionSteps(cumulative_alphas(config)), preserves_variance=True, starts_as=None)
        case StochasticInterpolantConfig(interpolation="linear", gamma=ZeroConfig()):
            return Linear(0.0)
        case StochasticInterpolantConfig(interpolation="trigonometric", gamma=ZeroConfig()):
            return Affine(partial(two_sided, config), preserves_variance=True)
        case StochasticInterpolantConfig(interpolation=interpolation):
            return StochasticInterpolant(
                partial(two_sided, config),
                separable=interpolation != "encoding_decoding",
                noise_scale=scale(config.gamma),
            )
        case MirrorInterpolantConfig():
            return StochasticInterpolant(
                partial(mirror, config),
                has_source=False,
                separable=False,
                starts_as="data",
                noise_scale=scale(config.gamma),
            )
        case OneSidedInterpolantConfig():
            return StochasticInterpolant(partial(one_sided, config), has_source=False)
        case TabulatedConfig():
            return Affine(tabulated(config))
        case OwnPath():
            return build_own(config)


__all__ = [
    "Affine",
    "BrownianConfig",
    "Coefficients",
    "Config",
    "DiffusionSteps",
    "DiffusionStepsConfig",
    "End",
    "Linear",
    "LinearConfig",
    "MirrorInterpolantConfig",
    "OneSidedInterpolantConfig",
    "OwnPath",
    "Path",
    "PathSample",
    "PathTable",
    "QuadraticConfig",
    "Schedule",
    "SineSquaredConfig",
    "StochasticInterpolant",
    "StochasticInterpolantConfig",
    "Tabulated",
    "TabulatedConfig",
    "TrigonometricConfig",
    "VariancePreservingConfig",
    "ZeroConfig",
    "build",
    "linear",
    "trigonometric",
    "variance_preserving",
]
