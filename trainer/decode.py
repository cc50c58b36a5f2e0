"""From what a network draws to images."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.data import ShardsConfig, read_index
from trainer.layout import plan_layout
from trainer.model.autoencoder import Autoencoder
from trainer.restore import restore, restored_config


def images_of(config: RunConfig, drawn: Tensor) -> Tensor:
    """Decodes latents with the autoencoder that the index of the data names.

    Args:
        config: the run.
        drawn: [N, *shape] as its network draws them.

    Returns:
        Images [N, C, H, W]; those drawn, where no autoencoder is named.

    Raises:
        FileError: the folder of the data is gone or damaged.
    """
    return decoder_of(config)(drawn)


def decoder_of(config: RunConfig) -> Callable[[Tensor], Tensor]:
    """Returns what :func:`images_of` does, to be done many times: the autoencoder is read once.

    Raises:
        FileError: the folder of the data is gone or damaged.
    """
    folder = _autoencoder(config)
    if folder is None:
        return lambda drawn: drawn
    decoder_config = restored_config(folder, world_size=1)
    decoder = restore(decoder_config, plan_layout(decoder_config, 1), folder)
    assert isinstance(decoder, Autoencoder)
    assert isinstance(config.data, ShardsConfig)
    index = read_index(config.data.path)

    @torch.no_grad()
    def decode(drawn: Tensor) -> Tensor:
        return decoder.decode(index.raw(drawn))

    return decode


def decoded_shape(config: RunConfig) -> tuple[int, ...]:
    """Shape of what :func:`images_of` makes of one example.

    Raises:
        FileError: the folder of the data is gone or damaged.
    """
    folder = _autoencoder(config)
    return tuple((config if folder is None else restored_config(folder, world_size=1)).data.shape)


def _autoencoder(config: RunConfig) -> Path | None:
    if not isinstance(config.data, ShardsConfig):
        return None
    name = read_index(config.data.path).autoencoder
    return None if name is None else config.data.path / name
