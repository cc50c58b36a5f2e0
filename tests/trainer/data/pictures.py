"""A user's pictures."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits


def digit_pictures(folder: Path, num: int = 60) -> Path:
    """Writes handwritten digits as CLASS/NUMBER.png, the classes in turn."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:num], digits.target[:num], strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype("uint8")).save(path)
    return folder
