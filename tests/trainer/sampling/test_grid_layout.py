"""Grids of images: no wider than 2,000 pixels, each image in its column, columns without room below the others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.each import each
from tests.trainer.data.pictures import folder
from tests.trainer.untrained import untrained_run
from trainer.sampling.pictures import MOST_PIXELS, grid_layout, image_grid
from trainer.sampling.preview import preview
from trainer.sampling.trained import opened


@each("side", [1, 8, 20, 32, 64, 100, 256, 1024, 3000])
@each("columns", [1, 3, 10, 80, 1000])
def test_no_grid_is_too_wide_and_none_taller_than_it_has_to_be(side: int, columns: int) -> None:
    for rows in (1, 8):
        found = grid_layout(rows * columns, side, side, columns)
        assert found.band_width <= MOST_PIXELS
        assert [column for band in found.bands for column in band] == list(range(columns))
        assert max(map(len, found.bands)) - min(map(len, found.bands)) < len(found.bands), "about equally wide"
        assert min(found.height, found.width) >= min(32, side)
        tall = len(found.bands) * found.band_height
        assert tall <= MOST_PIXELS or max(found.height, found.width) < 64


def test_grids_with_capacity_look_as_they_always_did() -> None:
    """Ten digits in eight rows: cells of 64 pixels with lines of two between them."""
    found = grid_layout(80, 8, 8, 10)
    assert (found.enlarged, found.gap, found.band_width, found.band_height, len(found.bands)) == (8, 2, 662, 530, 1)
    assert grid_layout(80, 100, 80, 10).reduced == 1


@pytest.mark.parametrize("headings", [False, True])
def test_columns_without_room_stand_below_the_others(headings: bool, tmp_path: Path) -> None:
    """A band of columns is the picture that these columns give alone."""
    num, columns = 150, 60
    images = np.random.default_rng(0).uniform(-1, 1, (num, 3, 1, 1)) * np.ones((64, 64))  # quick to compress
    names = [f"n{column}" for column in range(columns)] if headings else []
    image_grid(images, columns, tmp_path / "all.png", names)
    layout = grid_layout(num, 64, 64, columns, 44 * headings)
    assert len(layout.bands) == 2
    whole, top = np.asarray(Image.open(tmp_path / "all.png")), 0
    for band in layout.bands:
        numbers = [row * columns + column for row in range(3) for column in band]
        white = np.ones((1, 3, 64, 64))
        own = np.concatenate([images[[number]] if number < num else white for number in numbers])
        image_grid(own, len(band), tmp_path / "band.png", [names[column] for column in band] if headings else [])
        alone = np.asarray(Image.open(tmp_path / "band.png"))
        np.testing.assert_array_equal(whole[top : top + len(alone)], alone)
        top += len(alone)
    assert top == len(whole)


def test_large_images_are_reduced_by_means(tmp_path: Path) -> None:
    images = np.zeros((90, 1, 256, 256))
    images[11] = np.random.default_rng(1).uniform(-1, 1, (256, 256))
    image_grid(images, 10, tmp_path / "grid.png")
    layout = grid_layout(90, 256, 256, 10)
    assert layout.reduced == 2
    shown = np.asarray(Image.open(tmp_path / "grid.png"))
    assert shown.shape == (layout.band_height, layout.band_width)
    levels = np.round((images[11, 0] + 1) * 127.5).reshape(128, 2, 128, 2).mean((1, 3))
    first = 1 + 129
    np.testing.assert_allclose(shown[first : first + 128, first : first + 128], levels, atol=0.51)


def test_a_run_of_several_shapes_draws_each_in_its_own(tmp_path: Path) -> None:
    shapes = [(8, 8), (6, 12), (12, 6)]
    folder(tmp_path / "pictures")
    resolved = {"held_out": 4, "classes": ["cat", "dog"], "digest": "0"}
    sections = {
        "data": {"kind": "image_folder", "path": str(tmp_path / "pictures"), "buckets": shapes, **resolved},
        "model": {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2},
        "sample": {"per_class": 2, "sampler": {"kind": "euler", "steps": 1}},
    }
    with opened(untrained_run(tmp_path / "run", sections)) as flow:
        preview(flow, tmp_path / "drawn.png", seed=1)
    for height, width in shapes:
        with Image.open(tmp_path / f"drawn_{height}x{width}.png") as grid:
            assert grid.width == grid_layout(4, height, width, 2, 44).band_width
