"""Folders of pictures to learn from."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def picture(path: Path, seed: int, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> np.ndarray:
    """Writes a picture of noise, whose file loses nothing.

    Args:
        path: the file.
        seed: of the noise.
        size: width and height.
        mode: RGB or L.

    Returns:
        Its pixels.
    """
    channels = (3,) if mode == "RGB" else ()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode=None).save(path)
    return pixels


def folder(path: Path, per_class: int = 10, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Writes a folder with so many pictures of each class.

    Returns:
        The folder.
    """
    for label, name in enumerate(classes):
        for number in range(per_class):
            picture(path / name / f"{number:03d}.png", 100 * label + number)
    return path


def digit_pictures(folder: Path, num: int = 60) -> Path:
    """Writes handwritten digits as CLASS/NUMBER.png, the classes in turn."""
    pixels, labels = (np.asarray(values)[:num] for values in load_digits(return_X_y=True))
    for number, (image, label) in enumerate(zip(pixels.reshape(-1, 8, 8), labels, strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype("uint8")).save(path)
    return folder
