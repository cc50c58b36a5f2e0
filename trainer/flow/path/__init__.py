"""What lies between source and data: the protocol, its implementations, their configuration and `build`."""

from trainer.flow.path.affine import Affine, LinearConfig, Schedule, linear
from trainer.flow.path.protocol import Coefficients, Path, PathSample

Config = LinearConfig


def build(config: Config) -> Path:
    """Returns the path that `config.kind` names."""
    match config:
        case LinearConfig():
            return Affine(linear)


__all__ = ["Affine", "Coefficients", "Config", "LinearConfig", "Path", "PathSample", "Schedule", "build", "linear"]
