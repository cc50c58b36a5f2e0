"""Operators: laws against dense matrices, definitions against scipy, masks keyed by image, classes of a user."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import gaussian_filter
from torch import Tensor

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.flow.unions import members
from trainer.flow.context import BoxesConfig
from trainer.flow.operator import (
    AveragePool,
    Blur,
    BlurConfig,
    Config,
    Mask,
    MaskConfig,
    Operator,
    PictureConfig,
    check_laws,
)

SHAPE = (2, 4, 6)
NUMBERS = torch.tensor([5, 0, 7])
CONFIGS: list[Any] = [
    *(member() for member in members(Config)),
    MaskConfig(mask=BoxesConfig()),
    BlurConfig(deviation=3.0, least_singular_value=0.01),
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix_of(operator: Operator, shape: tuple[int, int, int], row: int, num: int) -> Tensor:
    """The dense matrix [M, N] of one row of an operator, by its images of unit vectors."""
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    columns = [operator.apply(unit.expand(num, *shape))[row].flatten() for unit in units]
    return torch.stack(columns, dim=1)


@each("config", CONFIGS, ids=str)
def test_adjoint_and_pseudo_inverse_are_those_of_the_matrix(config: Any) -> None:
    operator = config.build(SHAPE, NUMBERS, seed=3)
    x = drawn(len(NUMBERS), *SHAPE)
    observed = operator.apply(x)
    y = drawn(*observed.shape, seed=1)
    back, inverse = operator.adjoint(y), operator.pseudo_inverse(y)
    for row in range(len(NUMBERS)):
        matrix = matrix_of(operator, SHAPE, row, len(NUMBERS))
        pinv = torch.from_numpy(np.linalg.pinv(matrix.numpy(), rcond=1e-5))
        torch.testing.assert_close(matrix @ x[row].flatten(), observed[row].flatten(), atol=1e-6, rtol=0)
        torch.testing.assert_close(matrix.T @ y[row].flatten(), back[row].flatten(), atol=1e-6, rtol=0)
        torch.testing.assert_close(pinv @ y[row].flatten(), inverse[row].flatten(), atol=2e-5, rtol=1e-5)
    assert abs(float((observed * y).sum() - (x * back).sum())) <= 1e-6 * float(observed.norm() * y.norm())
    again = operator.apply(operator.pseudo_inverse(observed))
    torch.testing.assert_close(again, observed, atol=1e-5, rtol=0)


@each("config", CONFIGS, ids=str)
def test_an_image_is_seen_alike_in_any_batch(config: Any) -> None:
    x = drawn(len(NUMBERS), *SHAPE).float()
    whole = config.build(SHAPE, NUMBERS, seed=3)
    observed = whole.apply(x)
    for row in range(len(NUMBERS)):
        alone = config.build(SHAPE, NUMBERS[row : row + 1], seed=3)
        assert torch.equal(alone.apply(x[row : row + 1]), observed[row : row + 1])
        assert torch.equal(alone.pseudo_inverse(observed[row : row + 1]), whole.pseudo_inverse(observed)[row : row + 1])


def test_boxes_differ_from_image_to_image_and_follow_the_seed() -> None:
    config, shape = MaskConfig(mask=BoxesConfig()), (1, 16, 16)
    one, again, other = (config.build(shape, torch.arange(8), seed=seed) for seed in (0, 0, 1))
    assert isinstance(one, Mask)
    assert isinstance(again, Mask)
    assert isinstance(other, Mask)
    assert torch.equal(one.hole, again.hole)
    assert not torch.equal(one.hole, other.hole)
    assert len({tuple(hole.flatten().tolist()) for hole in one.hole}) > 4


def test_a_blur_is_the_gaussian_filter_of_scipy_where_nothing_is_left_out() -> None:
    images = drawn(2, 1, 9, 12)
    blur = Blur(1.3, 1e-9, (1, 9, 12))
    for image, blurred in zip(images, blur.apply(images), strict=True):
        expected = gaussian_filter(image[0].numpy(), 1.3, mode="reflect", truncate=4.0)
        torch.testing.assert_close(blurred[0], torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_a_blur_amplifies_noise_no_more_than_it_says() -> None:
    blur = BlurConfig(deviation=2.0, least_singular_value=0.1).build((1, 8, 8), torch.arange(1))
    singular = torch.linalg.svdvals(matrix_of(blur, (1, 8, 8), 0, 1))
    kept = singular[singular > 1e-6]
    assert float(kept.min()) >= 0.1
    assert float(kept.max()) == pytest.approx(1.0, abs=1e-6)
    assert len(kept) < 64


def test_white_is_hidden(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[2:4, 5:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    operator = MaskConfig(mask=PictureConfig(path=tmp_path / "mask.png")).build((3, 8, 8), torch.arange(2))
    observed = operator.apply(torch.ones(2, 3, 8, 8))
    assert torch.equal(observed == 0, torch.from_numpy(pixels == 255).expand(2, 3, 8, 8))


def test_masks_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, words in {"black.png": "hides no pixel", "text.png": "white where", "none.png": "No such file"}.items():
        with pytest.raises(Refusal, match=words) as caught:
            MaskConfig(mask=PictureConfig(path=tmp_path / name)).build((1, 8, 8), torch.arange(1))
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_a_factor_that_does_not_divide_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="factor: 3 does not divide the 8 x 12 pixels of an image; use one of 2, 4"):
        AveragePool(factor=3).build((1, 8, 12), torch.arange(1))


class Rows(Operator):
    """Every second row, and some ways to get that wrong.

    Args:
        wrong: what is wrong.
        shape: of an image.
    """

    def __init__(self, shape: tuple[int, int, int], wrong: str = "") -> None:
        self.wrong, self.shape = wrong, shape

    def apply(self, images: Tensor, /) -> Tensor:
        match self.wrong:
            case "offset":
                return images[:, :, ::2] + 1
            case "batch":
                return images[:, :, ::2] - images[:, :, ::2].mean(0)
            case "integers":
                return images[:, :, ::2].long()
            case "flat":
                return images[:, 0, 0, 0]
            case "short":
                return images[1:, :, ::2]
            case "raises":
                raise RuntimeError("out of rows")
        return images[:, :, ::2]

    def adjoint(self, observed: Tensor, /) -> Tensor:
        factor = 2 if self.wrong == "adjoint" else 1
        return factor * torch.zeros(len(observed), *self.shape).index_copy(2, self.kept, observed)

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        match self.wrong:
            case "inverse":
                return 0.5 * self.adjoint(observed)
            case "oblique":
                return observed.repeat_interleave(2, dim=2)
        return self.adjoint(observed)

    @property
    def kept(self) -> Tensor:
        return torch.arange(0, self.shape[1], 2)


def own(wrong: str = "") -> Any:
    return TypeAdapter(Config).validate_python({"class": f"{__name__}:Rows", "wrong": wrong})


def test_a_users_operator_is_built_with_the_shape() -> None:
    operator = own().build((1, 4, 4), NUMBERS)
    assert operator.apply(torch.zeros(3, 1, 4, 4)).shape == (3, 1, 2, 4)


@each(
    ("wrong", "law"),
    [
        ("offset", r"A \(x \+ 2 z\) = A x \+ 2 A z"),
        ("batch", "rows do not see each other"),
        ("adjoint", r"<A x, y> = <x, A' y>.*correct its adjoint"),
        ("inverse", r"A A\+ A = A.*correct its pseudo_inverse"),
        ("oblique", r"A\+ A is symmetric"),
        ("integers", r"apply returns int64 \[3, 1, 2, 4\] for 3 images; return floats \[3, ...\]"),
        ("flat", r"apply returns float32 \[3\] for 3 images"),
        ("short", r"apply returns float32 \[2, 1, 2, 4\] for 3 images"),
        ("raises", "apply fails .* RuntimeError: out of rows"),
    ],
)
def test_a_users_operator_that_breaks_a_law_is_refused_in_one_line(wrong: str, law: str) -> None:
    with pytest.raises(ValueError, match=law) as caught:
        own(wrong).build((1, 4, 4), NUMBERS)
    assert f"{__name__}:Rows" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_laws_hold_for_rows_alone() -> None:
    check_laws(Rows((1, 4, 4)), (1, 4, 4), 1, name="Rows")


def test_settings_out_of_range_are_refused() -> None:
    for document in ({"kind": "blur", "deviation": 0}, {"kind": "average_pool", "factor": 1}, {"kind": "sharpen"}):
        with pytest.raises(ValidationError):
            TypeAdapter(Config).validate_python(document)
