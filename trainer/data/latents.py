"""The folder that the encode verb wrote, as a run names it: an autoencoder and what its latents are like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.shard.index import LatentsEntry, ShardIndex, read_index


class LatentsConfig(Section):
    """States are latents of images: drawn anew at each step from what an autoencoder, frozen, makes of an image.

    The data are images, or the latents of the same folder (data.kind: shards).
    """

    path: Path
    """A folder that the encode verb wrote."""
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """(Z, h, w) of the latents of an image; left out: what the index says."""
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """(C, H, W) of an image; left out: what the index says."""
    digest: str
    """Of the index, so that a run goes on with the latents it began with; left out: taken from it."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(document.get("path"), str | Path):
            return document
        if all(document.get(name) is not None for name in ("shape", "image_shape", "digest")):
            return document
        try:
            index, entry = read_latents(Path(document["path"]))
        except Refusal as error:
            raise ValueError(f"path: {error}") from error
        said = {"shape": latent_shape(index), "image_shape": entry.image_shape, "digest": index.digest}
        return {**document, **{name: value for name, value in said.items() if document.get(name) is None}}


def read_latents(folder: Path) -> tuple[ShardIndex, LatentsEntry]:
    """Reads the index of a folder that the encode verb wrote; refuses shards that are no latents."""
    index = read_index(folder)
    if index.latents is None:
        raise Refusal(folder, "index", "belongs to shards that are not latents", "give what the encode verb wrote")
    return index, index.latents


def latent_shape(index: ShardIndex) -> tuple[int, int, int]:
    """(Z, h, w) of the latents that the examples of an index are Gaussians over."""
    channels, height, width = index.shape
    return channels // 2, height, width


def latents_of(data: Any) -> dict[str, Any] | None:
    """Facts about states from a user's section ``data`` that names a folder of latents; None for others."""
    if not isinstance(data, dict) or data.get("kind") != "shards" or not isinstance(data.get("path"), str | Path):
        return None
    try:
        index = read_index(Path(data["path"]))
    except Refusal:
        return None
    return {"path": data["path"]} if index.latents is not None else None
