"""Clips of windows that move over pictures at a constant velocity."""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional

from moe.seeds import derive_seed, fold_in
from netsim.foundation.settings import Section, by_kind
from trainer.data.builtin import DigitsConfig
from trainer.data.idx import IdxConfig
from trainer.data.image_folder import ImageFolderConfig
from trainer.data.protocol import Batch, Listed
from trainer.data.shard.index import SPLITS, Split, resolved_inside
from trainer.data.shards import ShardsConfig

PictureConfig = DigitsConfig | IdxConfig | ImageFolderConfig | ShardsConfig
KINDS = by_kind(PictureConfig)


class MovingPicturesConfig(Section):
    """Clips of grey or coloured pictures: a window moves by whole pixels a frame, and the frames are the channels."""

    kind: Literal["moving_pictures"]
    pictures: Annotated[PictureConfig, Field(discriminator="kind")]
    """The pictures, a section as data; their classes are those of the clips."""
    frames: int = Field(default=4, ge=2)
    """Frames of a clip."""
    window: PositiveInt
    """Side of the window in pixels."""
    speed: PositiveInt = 1
    """Largest movement of a frame in pixels, along rows and along columns; a window never stands still."""
    pad: NonNegativeInt = 0
    """Black pixels added on each side of a picture."""
    clips: PositiveInt = 8
    """Clips of each picture, each with a velocity and a place of its own."""
    classes: tuple[NonNegativeInt, ...] | None = None
    """Numbers of the classes whose pictures move, in both splits; null: all."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        if "pictures" not in document:
            return document
        return {**document, "pictures": resolved_inside("pictures", document["pictures"], KINDS)}

    @model_validator(mode="after")
    def _the_window_stays_inside(self) -> Self:
        side, moved = min(self.pictures.shape[1:]) + 2 * self.pad, (self.frames - 1) * self.speed
        if self.window + moved > side:
            problem = f"{self.frames} frames of {self.window} pixels that move {self.speed} a frame need"
            remedy = f"use a window of {side - moved} or less, fewer frames, or a larger pad"
            raise ValueError(f"window: {problem} {self.window + moved} pixels, and pictures have {side}; {remedy}")
        if getattr(self.pictures, "augment", None) is not None:
            raise ValueError("pictures.augment: has no effect on clips, which move by themselves; leave it out")
        wrong = [number for number in self.classes or () if number >= self.num_classes]
        if wrong or self.classes == ():
            problem = f"{wrong[0]} is not one of the {self.num_classes} classes" if wrong else "is empty"
            raise ValueError(f"classes: {problem}; give numbers from 0 to {self.num_classes - 1}")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames * self.frame_channels, self.window, self.window

    @property
    def frame_channels(self) -> int:
        return self.pictures.shape[0]

    @property
    def num_classes(self) -> int:
        return self.pictures.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.pictures.class_names)

    def open(self) -> "MovingPictures":
        return MovingPictures(self)


class MovingPictures(Listed):
    """Clips of pictures; clip k of picture n has the id clips n + k, which alone decides its velocity and place."""

    def __init__(self, config: MovingPicturesConfig) -> None:
        self._pictures, self._config = config.pictures.open(), config
        self.shape, self.num_classes, self.files = config.shape, config.num_classes, self._pictures.files
        clips = torch.arange(config.clips)
        self.splits: dict[Split, Tensor] = {}
        for split in SPLITS:
            ids = self._pictures.indices(split)
            if config.classes is not None:
                labels = self._pictures.get(ids).labels
                assert labels is not None
                ids = ids[torch.isin(labels, torch.tensor(config.classes))]
            self.splits[split] = (ids * config.clips + clips[:, None]).flatten()  # neighbours are of other pictures

    def get(self, indices: Tensor) -> Batch:
        config = self._config
        batch = self._pictures.get(indices // config.clips)
        pictures = functional.pad(batch.x_1, (config.pad,) * 4, value=-1.0)
        places = self._places(indices, pictures.shape[2:])
        window = torch.arange(config.window)
        rows, columns = (places[..., axis, None] + window for axis in (0, 1))
        number = torch.arange(len(indices))[:, None, None, None]
        # Two axes that are indexed beside a whole one in front of them move to the front: [B, T, S, S, C].
        clips = pictures.movedim(1, 3)[number, rows[..., :, None], columns[..., None, :]]
        return Batch(clips.movedim(4, 2).flatten(1, 2), batch.labels, indices)

    def _places(self, indices: Tensor, size: torch.Size) -> Tensor:
        """The upper left corner of each frame, int64 [B, T, 2]."""
        config = self._config
        keys = fold_in(torch.tensor(derive_seed(0, "moving pictures")), indices)
        draws = torch.stack([fold_in(keys, number) & (2**62 - 1) for number in range(3)])
        width = 2 * config.speed + 1
        number = draws[0] % (width**2 - 1)
        number = number + (number >= width**2 // 2)  # the middle one stands still
        velocity = torch.stack([number // width, number % width], dim=1) - config.speed
        moved = (config.frames - 1) * velocity
        free = torch.tensor(size) - config.window - moved.abs()
        first = draws[1:].T % (free + 1) - moved.clamp(max=0)
        return first[:, None] + velocity[:, None] * torch.arange(config.frames)[:, None]
