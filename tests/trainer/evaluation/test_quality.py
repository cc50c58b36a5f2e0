import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.each import each
from trainer.evaluation.quality import ClassJudge, frechet_distance
from trainer.sampling.pictures import image_grid


def test_distance_is_zero_only_to_itself_and_survives_dead_pixels():
    digits = np.asarray(load_digits(return_X_y=True)[0]) / 8 - 1
    assert frechet_distance(digits, digits) == pytest.approx(0, abs=1e-5)
    halves = frechet_distance(digits[::2], digits[1::2])
    assert 0 < halves < 0.5
    assert frechet_distance(digits, digits.reshape(-1, 1, 8, 8) + 1) == pytest.approx(64, abs=1e-5)


@each(
    ("x", "y", "message"),
    [
        (np.zeros((1, 4)), np.zeros((5, 4)), "^x: .*fewer than two"),
        (np.zeros((5, 4)), np.zeros(4), "^y: .*fewer than two"),
        (np.zeros((5, 4)), np.zeros((5, 3)), "^y: 3 features"),
        (np.full((5, 4), np.nan), np.zeros((5, 4)), "^x: .*not finite"),
    ],
)
def test_distance_refuses_sets_it_cannot_compare(x, y, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)


def test_the_judge_knows_real_digits():
    pixels, y = map(np.asarray, load_digits(return_X_y=True))
    x = pixels.reshape(-1, 1, 8, 8) / 8 - 1
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1400], order[1400:]
    judge = ClassJudge(x[train], y[train])
    assert judge.accuracy(x[test], y[test]) > 0.95
    assert judge.accuracy(x[test], (y[test] + 1) % 10) < 0.05


@pytest.mark.parametrize(("labels", "judge_y", "field"), [(3, 5, "labels"), (4, 6, "judge_y")])
def test_the_judge_refuses_labels_that_do_not_match(labels, judge_y, field):
    with pytest.raises(ValueError, match=f"^{field}: shape"):
        ClassJudge(np.zeros((5, 2)), np.arange(judge_y) % 2).accuracy(np.zeros((4, 2)), np.zeros(labels, int))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_in_place(tmp_path, channels):
    images = np.random.default_rng(0).uniform(-1.2, 1.2, (5, channels, 8, 8))
    image_grid(images, 3, tmp_path / "grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    gap, cell = 2, 64
    assert pixels.shape == (2 * cell + 3 * gap, 3 * cell + 4 * gap, channels)
    for number, image in enumerate(images):
        top, left = (gap + index * (cell + gap) for index in divmod(number, 3))
        shown = pixels[top : top + cell, left : left + cell].astype(float)
        expected = np.kron(image.clip(-1, 1).transpose(1, 2, 0), np.ones((8, 8, 1)))
        np.testing.assert_allclose(shown / 127.5 - 1, expected, atol=1 / 255 + 1e-9)
    assert (pixels[:gap] == 255).all()
    assert (pixels[-cell:, -cell:] == 255).all()


def test_equal_images_give_equal_bytes_and_large_ones_keep_their_size(tmp_path):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 3, 100, 80))
    for name in ("a.png", "b.png"):
        image_grid(images, 2, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (2 * 80 + 3, 100 + 2)


@pytest.mark.parametrize(
    ("shape", "columns", "field"), [((4, 8, 8), 2, "images"), ((4, 2, 8, 8), 2, "images"), ((4, 1, 8, 8), 0, "columns")]
)
def test_a_grid_of_another_shape_is_refused_and_leaves_nothing(tmp_path, shape, columns, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        image_grid(np.zeros(shape), columns, tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())
