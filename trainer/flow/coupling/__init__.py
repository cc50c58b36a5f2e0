"""Who is paired with whom: the protocol, its implementations, their configuration and `build`."""

from trainer.flow.coupling.independent import Independent, IndependentConfig
from trainer.flow.coupling.protocol import Coupling, Pairs

Config = IndependentConfig


def build(config: Config) -> Coupling:
    """Returns the coupling that `config.kind` names."""
    match config:
        case IndependentConfig():
            return Independent()


__all__ = ["Config", "Coupling", "Independent", "IndependentConfig", "Pairs", "build"]
