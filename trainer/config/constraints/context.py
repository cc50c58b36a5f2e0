"""Latents, contexts and captions that the model or the data do not allow."""

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
    pairs = config.data if isinstance(config.data, PairsConfig) else None
    if pairs is not None and pairs.latents != (latent and latent.digest):
        drawn = "no latents" if pairs.latents is None else f"latents of a folder whose index is {pairs.latents}"
        named = "is null" if latent is None else f"is {latent.path}, whose index is {latent.digest}"
        remedy = "leave it out" if pairs.latents is None else "give it the path that it has in the teacher's run"
        raise ValueError(f"flow.latent: {named}, and the pairs in data.path hold {drawn}; {remedy}")
    if latent is not None and pairs is None and not config.data_are_latents and shape != latent.image_shape:
        raise ValueError(
            f"flow.latent.path: {latent.path} holds latents of images of shape {list(latent.image_shape)}, and the "
            f"data have {list(shape)}; give such images, or encode these (python -m trainer encode)"
        )
    if latent is not None and not config.model.takes_images:
        raise ValueError(f"flow.latent: latents are images, which an {config.model.kind} does not take; use a dit")
    if config.flow.captions is not None:
        _check_captions(config)
    if context is None:
        return
    if isinstance(config.data, PairsConfig) and config.data.parts is not None:
        raise ValueError(
            f"flow.context.kind: {context.kind} is made of images, and the pairs in data.path are parts of paths "
            f"({config.data.parts}), most of which end at noisy ones; use pairs of whole paths"
        )
    if not config.model.reads_context:
        raise ValueError(
            f"flow.context.kind: {context.kind} describes images, which an {config.model.kind} does not take; use a dit"
        )
    if config.data_are_latents or (pairs is not None and latent is not None):
        raise ValueError(
            f"flow.context.kind: {context.kind} is made of images, and the data are latents; give the images as data, "
            "and flow.latent.path to encode them at each step"
        )
    if isinstance(context, SemanticMapConfig) and any(length % context.block for length in shape[1:]):
        raise ValueError(
            f"flow.context.block: {context.block} does not divide images of {shape[1]} x {shape[2]} pixels; "
            f"use one of {divisors(math.gcd(*shape[1:]))}"
        )


def _check_captions(config: RunConfig) -> None:
    """Refuses captions that the network cannot read, or that the examples do not have."""
    if not config.model.reads_captions:
        raise ValueError(f"flow.captions: model.kind {config.model.kind} does not read captions; use dit")
    if getattr(config.model, "embeddings", "shared") != "shared":
        raise ValueError("model.embeddings: each_block does not go with flow.captions; use shared")
    if isinstance(config.data, PairsConfig):
        raise ValueError("flow.captions: pairs have no captions; give the images themselves as data")
