"""Latents and contexts that the model or the data do not allow."""

import math

from trainer.config.network.sizes import divisors
from trainer.config.run import RunConfig
from trainer.data import PairsConfig
from trainer.flow.context import SemanticMapConfig


def check_context(config: RunConfig) -> None:
    """Refuses latents of other images than the data, and contexts that cannot be made of them.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    latent, context = config.flow.latent, config.flow.context
    shape: tuple[int, ...] = tuple(config.data.shape)
    if latent is not None and isinstance(config.data, PairsConfig):
        raise ValueError(
            f"flow.latent.path: {latent.path} makes latents of data points, and in data of kind pairs a source point "
            "has the shape of its data point; remove flow.latent"
        )
    if latent is not None and not config.data_are_latents and shape != latent.image_shape:
        raise ValueError(
            f"flow.latent.path: {latent.path} holds latents of images of shape {list(latent.image_shape)}, and the "
            f"data have {list(shape)}; give such images, or encode these (python -m trainer encode)"
        )
    if latent is not None and not config.model.takes_images:
        raise ValueError(f"flow.latent: latents are images, which an {config.model.kind} does not take; use a dit")
    if context is None:
        return
    if isinstance(config.data, PairsConfig) and config.data.parts is not None:
        raise ValueError(
            f"flow.context.kind: {context.kind} is made of images, and the pairs in data.path are parts of paths "
            f"({config.data.parts}), most of which end at noisy ones; use pairs of whole paths"
        )
    if not config.model.reads_context:
        raise ValueError(
            f"flow.context.kind: {context.kind} tells of images, which an {config.model.kind} does not take; use a dit"
        )
    if config.data_are_latents:
        raise ValueError(
            f"flow.context.kind: {context.kind} is made of images, and the data are latents; give the images as data, "
            "and flow.latent.path to encode them at each step"
        )
    if isinstance(context, SemanticMapConfig) and any(length % context.block for length in shape[1:]):
        raise ValueError(
            f"flow.context.block: {context.block} does not divide images of {shape[1]} x {shape[2]} pixels; "
            f"use one of {divisors(math.gcd(*shape[1:]))}"
        )
