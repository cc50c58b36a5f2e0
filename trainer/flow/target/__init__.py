"""The quantity that a network predicts: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated, Any, ClassVar

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.path.protocol import Path
from trainer.flow.target.conversion import convert, convert_pair, determines
from trainer.flow.target.kinds import (
    Data,
    DataConfig,
    Noise,
    NoiseConfig,
    Score,
    ScoreConfig,
    Single,
    Velocity,
    VelocityAndNoise,
    VelocityAndNoiseConfig,
    VelocityConfig,
    VPrediction,
    VPredictionConfig,
)
from trainer.flow.target.protocol import Quantity, Target


class OwnTarget(OwnClass, frozen=True):
    """A class that keeps `Target`; its constructor may take ``path``."""

    protocol: ClassVar[str] = "trainer.flow.target.Target"
    passed: ClassVar[tuple[str, ...]] = ("path",)


Config = Annotated[
    VelocityConfig | DataConfig | NoiseConfig | ScoreConfig | VPredictionConfig | VelocityAndNoiseConfig | OwnTarget,
    KindOrClass(),
]


def build(config: Config, *, path: Path) -> Target:
    """The target that `config.kind` or `config.class` names; a ValueError if it is not defined on the path."""
    if isinstance(config, OwnTarget):
        return build_own(config, path=path)
    return class_of(config)(path)


def class_of(config: Config) -> Any:
    """The class of the target that `config.kind` or `config.class` names; what it declares holds for every path."""
    match config:
        case VelocityConfig():
            return Velocity
        case DataConfig():
            return Data
        case NoiseConfig():
            return Noise
        case ScoreConfig():
            return Score
        case VPredictionConfig():
            return VPrediction
        case VelocityAndNoiseConfig():
            return VelocityAndNoise
        case OwnTarget():
            return config.imported()


def num_fields(config: Config) -> int:
    """The number of quantities in a prediction of the target."""
    return getattr(class_of(config), "num_fields", 1)


__all__ = [
    "Config",
    "Data",
    "DataConfig",
    "Noise",
    "NoiseConfig",
    "OwnTarget",
    "Quantity",
    "Score",
    "ScoreConfig",
    "Single",
    "Target",
    "VPrediction",
    "VPredictionConfig",
    "Velocity",
    "VelocityAndNoise",
    "VelocityAndNoiseConfig",
    "VelocityConfig",
    "build",
    "class_of",
    "convert",
    "convert_pair",
    "determines",
    "num_fields",
]
