"""The networks: their configuration and `build`."""

from trainer.model.config import DiTConfig

Config = DiTConfig

__all__ = ["Config", "DiTConfig"]
