"""Paths from source to data: the protocol, and the union `Config` of the sections that they are built from."""

from typing import Annotated, ClassVar

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.path.affine import (
    Affine,
    DiffusionStepsConfig,
    Linear,
    LinearConfig,
    Schedule,
    TrigonometricConfig,
    VariancePreservingConfig,
    linear,
    trigonometric,
)
from trainer.flow.path.gumbel_softmax import Annealed, Constant, GumbelSoftmaxConfig
from trainer.flow.path.kinetic_optimal import PathTable, Tabulated, TabulatedConfig
from trainer.flow.path.protocol import Coefficients, End, Path, PathSample
from trainer.flow.path.stochastic_interpolant import (
    BrownianConfig,
    MirrorInterpolantConfig,
    OneSidedInterpolantConfig,
    QuadraticConfig,
    SineSquaredConfig,
    StochasticInterpolantConfig,
    ZeroConfig,
)


class OwnPath(OwnClass, frozen=True):
    """A class that keeps `Path`."""

    protocol: ClassVar[str] = "trainer.flow.path.Path"

    def build(self) -> Path:
        return build_own(self)


Config = Annotated[
    LinearConfig
    | TrigonometricConfig
    | VariancePreservingConfig
    | DiffusionStepsConfig
    | StochasticInterpolantConfig
    | MirrorInterpolantConfig
    | OneSidedInterpolantConfig
    | TabulatedConfig
    | GumbelSoftmaxConfig
    | OwnPath,
    KindOrClass(),
]
