"""The networks: their configuration and `build`."""

from trainer.config.model import DiTConfig

Config = DiTConfig

__all__ = ["Config", "DiTConfig"]
