"""The first frame of a clip as a context: what is fine in it, and how it is taken from states."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.draws import generator
from tests.each import each
from trainer.flow.context import FirstFrame, Identity, fine_details
from trainer.model.conditioning import FirstFrameReader
from trainer.model.values import initialised


def frames(num: int = 5, channels: int = 1, height: int = 8, width: int = 6) -> Tensor:
    return torch.randn(num, channels, height, width, generator=generator(3))


def by_numpy(frame: np.ndarray, share: float) -> np.ndarray:
    """The magnitudes [C, H, W] of one frame, frequency by frequency."""
    spectrum = np.fft.fftshift(np.fft.fft2(frame), axes=(1, 2))
    _, height, width = frame.shape
    radii = np.hypot(*np.meshgrid(np.arange(height) - height // 2, np.arange(width) - width // 2, indexing="ij"))
    total, below, radius = np.abs(spectrum).mean(0).sum(), 0.0, 0.0
    for place in sorted(np.ndindex(height, width), key=lambda place: radii[place]):  # equal radii by row and column
        below += np.abs(spectrum[:, place[0], place[1]]).mean()
        if below >= share * total:
            radius = radii[place]
            break
    return np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum * (radii >= radius - 1e-9), axes=(1, 2))))


@each("channels", [1, 3])
@each("share", [0.05, 0.3, 0.9])
def test_fine_details_are_what_numpy_leaves_of_a_frame(channels: int, share: float) -> None:
    given = frames(channels=channels)
    found = fine_details(given, torch.full((5,), share))
    for frame, fine in zip(given, found, strict=True):
        np.testing.assert_allclose(fine.numpy(), by_numpy(frame.numpy().astype(np.float64), share), atol=2e-5)


def test_nothing_is_cut_of_a_constant_frame_nor_at_a_share_of_nearly_nothing() -> None:
    constant = torch.full((2, 1, 6, 6), -0.7)
    torch.testing.assert_close(fine_details(constant, torch.tensor([0.1, 0.9])), constant.abs())
    given = frames()
    torch.testing.assert_close(fine_details(given, torch.full((5,), 1e-9)), given.abs(), atol=1e-5, rtol=1e-5)


def test_fine_details_move_with_the_frame() -> None:
    given, share = frames(), torch.full((5,), 0.4)
    rolled = fine_details(given.roll((2, 3), dims=(2, 3)), share)
    torch.testing.assert_close(rolled, fine_details(given, share).roll((2, 3), dims=(2, 3)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("reading", "channels"), [("concat", 1), ("shift", 1), ("shift_fourier", 2)])
def test_a_context_has_the_frame_and_what_is_fine_in_it(reading: Any, channels: int) -> None:
    clips = torch.randn(4, 3, 8, 8, generator=generator(1))
    seen = FirstFrame(reading=reading).draw(clips, Identity(), generator=generator())
    assert seen.context.shape == (4, channels, 8, 8)
    assert torch.equal(seen.context[:, :1], clips[:, :1])
    assert torch.equal(seen.completed(clips), clips), "what is drawn stays, the first frame too"


def test_training_draws_the_share_of_each_clip_and_drawing_has_one() -> None:
    context = FirstFrame(drawn_cut=0.2)
    clips = torch.randn(1, 2, 8, 8, generator=generator(1)).expand(3, -1, -1, -1)
    trained = context.draw(clips, Identity(), generator=generator()).context[:, 1]
    assert not torch.allclose(trained[0], trained[1])
    drawn = context.for_drawing().draw(clips, Identity(), generator=generator()).context[:, 1:]
    torch.testing.assert_close(drawn, fine_details(clips[:, :1], torch.full((3,), 0.2)))


def reader(with_details: bool, *, trained: bool = False) -> FirstFrameReader:
    made = initialised(FirstFrameReader(1, with_details=with_details), 0)
    if trained:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(7)))
    return made


@pytest.mark.parametrize("with_details", [True, False])
def test_a_reader_begins_as_one_that_shows_nothing_and_learns(with_details: bool) -> None:
    made, x_t, context = reader(with_details), torch.randn(2, 3, 8, 8), frames(2, 2, 8, 8)
    seen = made(x_t, context)
    assert torch.equal(seen[:, :3], x_t)
    assert not seen[:, 3:].any()
    seen.square().sum().backward()
    assert made.narrow.weight.grad is not None
    assert made.narrow.weight.grad.any()


def test_every_frame_is_shifted_by_the_same() -> None:
    made, x_t, context = reader(True, trained=True), torch.randn(2, 3, 8, 8), frames(2, 2, 8, 8)
    taken = x_t - made(x_t, context)[:, :3]
    torch.testing.assert_close(taken, made.shift(context[:, :1]).expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)


def test_paths_in_shifted_states_end_where_paths_in_plain_ones_do() -> None:
    """The shift is the same at all times, so it may be taken once at the start and added once at the end."""
    made, context = reader(False, trained=True), frames(2, 1, 8, 8)
    layer = torch.nn.Conv2d(3, 3, 3, padding=1)
    plain = start = torch.randn(2, 3, 8, 8, generator=generator(5))
    shift = made.shift(context).repeat(1, 3, 1, 1)
    shifted = start - shift
    for _ in range(10):
        plain = plain + 0.1 * layer(made(plain, context))
        shifted = shifted + 0.1 * layer(shifted)
    torch.testing.assert_close(shifted + shift, plain, atol=1e-5, rtol=1e-5)


def test_a_range_of_cuts_goes_up() -> None:
    with pytest.raises(ValueError, match=r"cut: 0\.9 exceeds 0\.1; exchange them"):
        FirstFrame(cut=(0.9, 0.1))
    assert FirstFrame(cut=(0.4, 0.4)).cut == (0.4, 0.4)
