"""The multi-node trainer: data, flow parts, networks, engines, checkpoints, traces and figures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config.file import load_config

__all__ = ["load_config"]


def __getattr__(name: str) -> Any:
    """Imports `load_config` when it is asked for: parts of the package work without torch, which it brings along."""
    if name != "load_config":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from trainer.config.file import load_config

    return load_config
