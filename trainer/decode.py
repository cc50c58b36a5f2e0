"""From what a network draws to images."""

from pathlib import Path

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.data import ShardsConfig, read_index
from trainer.layout import plan_layout
from trainer.model.autoencoder import Autoencoder
from trainer.restore import restore, restored_config


@torch.no_grad()
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
    if not isinstance(config.data, ShardsConfig):
        return drawn
    index = read_index(config.data.path)
    if index.autoencoder is None:
        return drawn
    folder: Path = config.data.path / index.autoencoder
    decoder_config = restored_config(folder, world_size=1)
    decoder = restore(decoder_config, plan_layout(decoder_config, 1), folder)
    assert isinstance(decoder, Autoencoder)
    return decoder.decode(index.raw(drawn))
