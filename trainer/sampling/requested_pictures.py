"""Pictures that are restored or edited: held-out examples of the run, or a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed
from netsim.foundation.picture_file import read_picture
from netsim.foundation.refusal import prefixed
from netsim.foundation.settings import Section
from trainer.config.run import RunConfig
from trainer.data.picture import picture_names
from trainer.data.protocol import BadExamples
from trainer.flow.context import Space


class HeldOutPictures(Section):
    """Held-out examples of the run, which it has not learned from."""

    kind: Literal["held_out"] = "held_out"
    num: PositiveInt = 30
    """Pictures at most."""
    first: NonNegativeInt = 0
    """Pictures that are left out at the beginning."""


class FolderPictures(Section):
    """Pictures of any size and format in a folder and below it, in the order of their names.

    Each is cut to its middle part of the run's proportions and resized. Transparent parts are white, and turned
    photographs stand upright.
    """

    kind: Literal["folder"] = "folder"
    path: Path
    """The folder."""
    num: PositiveInt | None = None
    """Pictures at most; null: all."""
    first: NonNegativeInt = 0
    """Pictures that are left out at the beginning."""


CPU = torch.device("cpu")
PicturesConfig = Annotated[HeldOutPictures | FolderPictures, Field(discriminator="kind")]


def pictures_change(folder: Path | None, num: int | None) -> dict[str, Any] | None:
    """Changes that ``--images`` and ``--num`` make in a section of pictures; None if none."""
    change: dict[str, Any] = {} if folder is None else {"kind": "folder", "path": str(folder)}
    return {**change, **({} if num is None else {"num": num})} or None


@dataclass(frozen=True)
class Pictures:
    """Pictures in their order, read when they are needed.

    Attributes:
        names: paths of the files in the folder, or names made of the numbers of held-out examples. The random draws for
            a picture are keyed by its name.
        marks: distinguish pictures of the same name, for example by the length of the file.
        labels: classes int64 [N]; None: they are not known.
        read: reads the picture at a place, float32 [C, H, W] on the CPU.
    """

    names: tuple[str, ...]
    marks: tuple[str, ...]
    shape: tuple[int, ...]
    labels: Tensor | None
    read: Callable[[int], Tensor]

    def __len__(self) -> int:
        return len(self.names)

    def readable(self, rows: Tensor) -> tuple[Tensor, dict[int, str]]:
        """Pictures at places int64 [B]: float32 [B, C, H, W] from -1 (black) to 1, on the CPU.

        They are grey where one cannot be read; also returns, by row, the file and its problem.
        """
        images, reasons = [], {}
        for row in rows.tolist():
            try:
                images.append(self.read(row))
            except (OSError, ValueError) as error:
                reasons[row] = f"{self.names[row]} ({' '.join(str(error).split()) or type(error).__name__})"
                images.append(torch.zeros(self.shape))
        return torch.stack(images), reasons

    def check_some_readable(self, where: str) -> None:
        """Refuses pictures none of which can be read; looks no further than the first that can."""
        reasons: dict[int, str] = {}
        for row in range(len(self)):
            reasons |= self.readable(torch.tensor([row]))[1]
            if row not in reasons:
                return
        raise ValueError(f"{where}: none of its pictures can be read, {reasons[0]}; give a folder of pictures")

    def keys(self, rows: Tensor, purpose: str, *, seed: int) -> Tensor:
        """Keys int64 [B] for random draws; the key of a picture depends on its name alone."""
        return torch.tensor([derive_seed(seed, purpose, self.names[row]) for row in rows.tolist()])


def open_pictures(
    section: HeldOutPictures | FolderPictures,
    config: RunConfig,
    space: Space,
    *,
    device: torch.device = CPU,
    shape: tuple[int, ...] | None = None,
) -> Pictures:
    """Lists pictures in a run's shape, or files in `shape` (C, H, W); `space` decodes latents."""
    if isinstance(section, HeldOutPictures):
        return _held_out(section, config, space, device)
    return _of_folder(section, tuple(config.decoded_shape) if shape is None else shape)


def _held_out(section: HeldOutPictures, config: RunConfig, space: Space, device: torch.device) -> Pictures:
    dataset = trainer.data.build(config.data)
    ids = trainer.data.first_data_points(dataset, "held_out", section.first + section.num)[section.first :]
    if len(ids) == 0:
        count = len(dataset.data_points("held_out"))
        raise ValueError(f"pictures.first: {section.first} leaves none of the {count} held-out examples; use less")

    @torch.no_grad()
    def read(row: int) -> Tensor:
        example = dataset.get(ids[row : row + 1]).x_1.to(device)
        key = derive_seed(config.run.seed, "shown", int(ids[row]))
        return space.shown(example, generator=torch.Generator().manual_seed(key))[0].cpu()

    def label(row: int) -> int:
        try:
            labels = dataset.get(ids[row : row + 1]).labels
        except BadExamples:  # reading the picture refuses it
            return config.data.num_classes
        return config.data.num_classes if labels is None else int(labels)

    names = tuple(f"held_out_{number:05d}" for number in ids.tolist())
    labels = torch.tensor([label(row) for row in range(len(ids))]) if config.data.num_classes else None
    return Pictures(names, ("",) * len(names), tuple(config.decoded_shape), labels, read)


def _of_folder(section: FolderPictures, shape: tuple[int, ...]) -> Pictures:
    folder = section.path
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"pictures.kind: the run draws examples of shape {list(shape)}, which are no grey or coloured pictures; "
            "use held_out"
        )
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is missing"
        raise ValueError(f"pictures.path: {folder} {what}; give a folder of pictures")
    channels, height, width = shape
    with prefixed("pictures."):
        listed = picture_names(folder, ())
    names = tuple(listed)[section.first :][: section.num]
    if not names:
        raise ValueError(f"pictures.first: {section.first} leaves none of the {len(listed)} pictures; use less")

    def read(row: int) -> Tensor:
        pixels = read_picture(folder / names[row], channels, height, width)
        return torch.from_numpy(pixels.copy()).float().div(127.5).sub(1)

    marks = tuple(str((folder / name).stat().st_size) for name in names)
    return Pictures(names, marks, shape, None, read)
