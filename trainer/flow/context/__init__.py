"""Contexts of images: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated

from pydantic import Field

from trainer.flow.context.inpainting import Inpainting, InpaintingConfig
from trainer.flow.context.protocol import Context, Seen
from trainer.flow.context.semantic_map import SemanticMap, SemanticMapConfig, block_levels

AnyConfig = InpaintingConfig | SemanticMapConfig
Config = Annotated[AnyConfig, Field(discriminator="kind")]


def build(config: AnyConfig) -> Context:
    """Returns the context that `config.kind` names."""
    match config:
        case InpaintingConfig():
            return Inpainting(config)
        case SemanticMapConfig():
            return SemanticMap(config)


def context_shape(config: AnyConfig, *, example: tuple[int, ...], state: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape of the context of one image.

    Args:
        config: of the context.
        example: (C, H, W) of the image.
        state: (Z, h, w) of its state.
    """
    _, height, width = example
    channels, rows, columns = state
    match config:
        case InpaintingConfig():
            return channels + 1, rows, columns
        case SemanticMapConfig(levels=levels):
            return levels, height, width


__all__ = [
    "AnyConfig",
    "Config",
    "Context",
    "Inpainting",
    "InpaintingConfig",
    "Seen",
    "SemanticMap",
    "SemanticMapConfig",
    "block_levels",
    "build",
    "context_shape",
]
