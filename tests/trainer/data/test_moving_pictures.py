"""Clips of windows that move over pictures."""

from typing import Any

import pytest
import torch

from trainer.data import build
from trainer.data.moving_pictures import MovingPictures, MovingPicturesConfig


def config(**changes: Any) -> MovingPicturesConfig:
    document = {"kind": "moving_pictures", "pictures": {"kind": "digits", "held_out": 360}, "pad": 4, "window": 12}
    return MovingPicturesConfig.model_validate(MovingPicturesConfig.resolved({**document, **changes}))


def clips(**changes: Any) -> MovingPictures:
    made = build(config(**changes))
    assert isinstance(made, MovingPictures)
    return made


@pytest.mark.parametrize("speed", [1, 2])
def test_every_frame_is_the_one_before_moved_by_the_same_pixels(speed: int) -> None:
    made = clips(speed=speed, window=9, frames=3)
    x = made.get(made.indices("train")[:400]).x_1
    assert x.shape == (400, 3, 9, 9)
    steps, found = range(-speed, speed + 1), set()
    for clip in x:
        fitting = {
            (rows, columns)
            for rows in steps
            for columns in steps
            if all(
                torch.equal(
                    clip[frame + 1, max(0, -rows) : 9 - max(0, rows), max(0, -columns) : 9 - max(0, columns)],
                    clip[frame, max(0, rows) : 9 + min(0, rows), max(0, columns) : 9 + min(0, columns)],
                )
                for frame in range(2)
            )
        }
        assert fitting, "no constant velocity explains the clip"
        if len(fitting) == 1:
            found |= fitting
    assert found == {(rows, columns) for rows in steps for columns in steps} - {(0, 0)}


def test_a_clip_depends_on_its_number_alone_and_a_picture_has_several() -> None:
    made = clips(clips=3)
    ids = made.indices("held_out")
    assert len(ids) == 3 * 360
    batch = made.get(ids[:9])
    assert torch.equal(made.get(ids[[4, 2]]).x_1, batch.x_1[[4, 2]])
    assert batch.labels is not None
    again = made.get(3 * (ids[:9] // 3))
    assert again.labels is not None
    assert torch.equal(batch.labels, again.labels), "clips of one picture have its class"
    assert len({clip.numpy().tobytes() for clip in batch.x_1}) > 6


def test_classes_choose_the_pictures() -> None:
    made = clips(classes=(2, 5))
    for split in ("train", "held_out"):
        labels = made.get(made.indices(split)).labels
        assert labels is not None
        assert set(labels.tolist()) == {2, 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 9}, r"window: 9 frames of 12 pixels .* need 20 pixels, and pictures have 16; use a window of 8"),
        ({"classes": (10,)}, r"classes: 10 is not one of the 10 classes"),
        ({"classes": ()}, r"classes: is empty; give numbers"),
    ],
)
def test_clips_that_cannot_be_made_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)
