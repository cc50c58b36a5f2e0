"""What the network predicts: the protocol, its implementations, their configuration and `build`."""

from trainer.flow.path.protocol import Path
from trainer.flow.target.conversion import convert
from trainer.flow.target.protocol import Quantity, Target
from trainer.flow.target.velocity import Velocity, VelocityConfig

Config = VelocityConfig


def build(config: Config, *, path: Path) -> Target:
    """Returns the target that `config.kind` names, converting with the coefficients of `path`."""
    match config:
        case VelocityConfig():
            return Velocity(path)


__all__ = ["Config", "Quantity", "Target", "Velocity", "VelocityConfig", "build", "convert"]
