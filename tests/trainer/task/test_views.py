"""Two views of each example of a batch."""

import pytest
import torch

from tests.draws import generator
from trainer.config.task.representation import Views

STILL = Views(shift=0, flip=0, scale=0, noise=0)


def test_views_are_functions_of_the_generator_and_differ_from_each_other() -> None:
    images = torch.randn(6, 3, 8, 8, generator=generator(1))
    first, again, other = (Views(flip=0.5).pair(images, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == images.shape


def test_nothing_is_changed_where_nothing_is_set() -> None:
    images = torch.randn(6, 1, 8, 8)
    assert all(torch.equal(view, images) for view in STILL.pair(images, generator()))


def test_shifts_are_of_whole_pixels_and_no_more_than_set() -> None:
    images = torch.zeros(400, 1, 9, 9)
    images[:, :, 4, 4] = 1
    view, _ = STILL.model_copy(update={"shift": 2}).pair(images, generator())
    assert torch.equal(view.sum((1, 2, 3)), torch.ones(400))
    rows, columns = (view.amax(axis).flatten(1).argmax(1) - 4 for axis in (3, 2))
    assert {-2, -1, 0, 1, 2} == set(rows.tolist()) == set(columns.tolist())


def test_scale_and_noise_are_of_every_shape_of_example() -> None:
    vectors = torch.ones(2000, 4)
    scaled, _ = STILL.model_copy(update={"scale": 0.2}).pair(vectors, generator())
    assert torch.equal(scaled, scaled[:, :1].expand_as(scaled))
    assert (scaled >= 0.8).all()
    assert (scaled <= 1.2).all()
    assert scaled.std() > 0.1
    noised, _ = STILL.model_copy(update={"noise": 0.3}).pair(vectors, generator())
    assert noised.std().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "shape", "said"),
    [
        (Views(), (16,), "task.views.shift: 1 moves images, and these examples have shape \\[16\\]; use 0"),
        (Views(shift=0, flip=0.5), (16,), "task.views.flip: 0.5 moves images"),
        (Views(shift=8), (1, 8, 8), "task.views.shift: 8 pixels are too large a shift for an image of 8; use 1 to 7"),
    ],
)
def test_examples_that_are_not_moved_so_are_refused(settings: Views, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings.check_examples(shape)
