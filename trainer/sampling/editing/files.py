"""What is written of the edits of one picture, and read again for their figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.files import replacing
from trainer.sampling.editing.edits import Calls, Edits
from trainer.sampling.editing.plan import EditPlan

EDITED = "edited"
"""Folder of the edited pictures, with a folder for each picture."""


@dataclass(frozen=True)
class PictureEdits:
    """The edits of one picture, row b of `Edits`."""

    picture: Tensor
    edited: Tensor
    reconstructed: Tensor
    fresh: Tensor
    coded: Tensor
    inversion_errors: Tensor | None
    edit_errors: Tensor | None
    calls: Calls

    @classmethod
    def of(cls, pictures: Tensor, edits: Edits, row: int) -> Self:
        """Those of one row of a batch, whose pictures are [B, C, H, W]."""
        inverted, corrected = edits.inversion_errors, edits.edit_errors
        return cls(
            picture=pictures[row],
            edited=edits.edited[row],
            reconstructed=edits.reconstructed[row],
            fresh=edits.fresh[row],
            coded=edits.coded[row],
            inversion_errors=None if inverted is None else inverted[row],
            edit_errors=None if corrected is None else corrected[row],
            calls=edits.calls,
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Self:
        """What `arrays` gave."""
        inverted, drawn, *levels = arrays["calls"].tolist()
        return cls(
            arrays["picture"],
            arrays["edited"],
            arrays["reconstructed"],
            arrays["fresh"],
            arrays["coded"],
            arrays.get("inversion_errors"),
            arrays.get("edit_errors"),
            Calls(inverted, drawn, tuple(levels)),
        )

    def arrays(self) -> dict[str, Tensor]:
        """All of it as tensors, to be kept in a file."""
        calls = torch.tensor([self.calls.inversion, self.calls.drawing, *self.calls.levels])
        optional = {"inversion_errors": self.inversion_errors, "edit_errors": self.edit_errors}
        return {
            "picture": self.picture,
            "edited": self.edited,
            "reconstructed": self.reconstructed,
            "fresh": self.fresh,
            "coded": self.coded,
            "calls": calls,
        } | {name: values for name, values in optional.items() if values is not None}


def write_pictures(out: Path, name: str, edits: PictureEdits, plan: EditPlan) -> None:
    """Writes the edits of a picture as PNG, one file for each level and class."""
    from PIL import Image

    for level, images in zip(plan.levels, edits.edited.numpy(), strict=True):
        for target, image in zip(file_names(plan), images, strict=True):
            words = [f"{plan.level_name}_{level:.4g}", *([target] if target else [])]
            with replacing(out / EDITED / name / f"{'_'.join(words)}.png") as temporary:
                Image.fromarray(pixels(image)).save(temporary, format="PNG")


def file_names(plan: EditPlan) -> Sequence[str]:
    """The names of the classes as parts of names of files, no two the same."""
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in plan.names]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{name}_{target}" for name, target in zip(plain, plan.targets, strict=True)]


def pixels(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """An image [C, H, W] from -1 to 1 as pixels, uint8 [H, W] if grey and [H, W, 3] if coloured."""
    values = np.round((np.nan_to_num(image).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return values[0] if len(values) == 1 else values.transpose(1, 2, 0)
