"""What the network predicts: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated

from moe.validation.own_class import KindOrClass, build_own
from trainer.flow.own import OwnTarget
from trainer.flow.path.protocol import Path
from trainer.flow.target.conversion import convert, convert_pair
from trainer.flow.target.data import Data, DataConfig
from trainer.flow.target.noise import Noise, NoiseConfig
from trainer.flow.target.protocol import Quantity, Target
from trainer.flow.target.score import Score, ScoreConfig
from trainer.flow.target.v_prediction import VPrediction, VPredictionConfig
from trainer.flow.target.velocity import Velocity, VelocityConfig
from trainer.flow.target.velocity_and_noise import VelocityAndNoise, VelocityAndNoiseConfig

Config = Annotated[
    VelocityConfig | DataConfig | NoiseConfig | ScoreConfig | VPredictionConfig | VelocityAndNoiseConfig | OwnTarget,
    KindOrClass(),
]


def build(config: Config, *, path: Path) -> Target:
    """Returns the target that `config.kind` or `config.class` names, converting with the coefficients of `path`.

    Raises:
        ValueError: the path does not allow it.
    """
    match config:
        case VelocityConfig():
            return Velocity(path)
        case DataConfig():
            return Data(path)
        case NoiseConfig():
            return Noise(path)
        case ScoreConfig():
            return Score(path)
        case VPredictionConfig():
            return VPrediction(path)
        case VelocityAndNoiseConfig():
            return VelocityAndNoise(path)
        case OwnTarget():
            return build_own(config, path=path)


def num_fields(config: Config) -> int:
    """How many states a prediction of the target holds, without a path."""
    if isinstance(config, OwnTarget):
        return getattr(config.imported(), "num_fields", 1)
    return VelocityAndNoise.num_fields if isinstance(config, VelocityAndNoiseConfig) else 1


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
    "Target",
    "VPrediction",
    "VPredictionConfig",
    "Velocity",
    "VelocityAndNoise",
    "VelocityAndNoiseConfig",
    "VelocityConfig",
    "build",
    "convert",
    "convert_pair",
    "num_fields",
]
