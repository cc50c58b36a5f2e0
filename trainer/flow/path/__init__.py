"""What lies between source and data: the protocol, its implementations, their configuration and `build`."""

from functools import partial
from typing import Annotated

from moe.validation.own_class import KindOrClass, build_own
from trainer.flow.own import OwnPath
from trainer.flow.path.affine import Affine, Linear, LinearConfig, Schedule, linear
from trainer.flow.path.gamma import BrownianConfig, QuadraticConfig, SineSquaredConfig, ZeroConfig
from trainer.flow.path.protocol import Coefficients, Path, PathSample
from trainer.flow.path.stochastic_interpolant import (
    MirrorInterpolantConfig,
    OneSidedInterpolantConfig,
    StochasticInterpolant,
    StochasticInterpolantConfig,
    mirror,
    one_sided,
    two_sided,
)
from trainer.flow.path.table import PathTable
from trainer.flow.path.tabulated import Tabulated, TabulatedConfig, tabulated
from trainer.flow.path.variance_preserving import (
    DiffusionSteps,
    DiffusionStepsConfig,
    TrigonometricConfig,
    VariancePreservingConfig,
    cumulative_alphas,
    trigonometric,
    variance_preserving,
)

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
    """Returns the path that `config.kind` or `config.class` names.

    Raises:
        FileError: the file of a tabulated path cannot be used.
    """
    match config:
        case LinearConfig(sigma_min=sigma_min):
            return Linear(sigma_min)
        case TrigonometricConfig():
            return Affine(trigonometric)
        case VariancePreservingConfig(beta_min=beta_min, beta_max=beta_max):
            return Affine(partial(variance_preserving, beta_min=beta_min, beta_max=beta_max))
        case DiffusionStepsConfig():
            return Affine(DiffusionSteps(cumulative_alphas(config)))
        case StochasticInterpolantConfig(interpolation="linear", gamma=ZeroConfig()):
            return Linear(0.0)
        case StochasticInterpolantConfig():
            interpolant = partial(two_sided, config)
            return Affine(interpolant) if config.gamma.kind == "zero" else StochasticInterpolant(interpolant)
        case MirrorInterpolantConfig():
            return StochasticInterpolant(partial(mirror, config))
        case OneSidedInterpolantConfig():
            return StochasticInterpolant(partial(one_sided, config))
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
