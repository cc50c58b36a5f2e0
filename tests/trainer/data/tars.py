"""WebDataset tars to learn from."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

Examples = Iterable[tuple[str, Mapping[str, bytes]]]
"""Keys, and the content of each member by extension."""


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tar_bytes(examples: Examples, tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of examples, as Python's own writer makes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for key, members in examples:
            for extension, content in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def digits(first: int, end: int) -> Examples:
    """Handwritten digits as pictures with their classes, and a caption each."""
    pixels, labels = (np.asarray(values) for values in load_digits(return_X_y=True))
    for number in range(first, end):
        image = encoded((pixels[number].reshape(8, 8) * 15).astype(np.uint8))
        label = int(labels[number])
        described = json.dumps({"label": label, "name": f"digit {label}"}).encode()
        yield (
            f"digits/{number:04d}",
            {"png": image, "cls": str(label).encode(), "json": described, "txt": f"a {label}".encode()},
        )


def digit_tars(folder: Path, *, tars: int = 4, per_tar: int = 30) -> str:
    """Writes tars of handwritten digits.

    Returns:
        The pattern that names them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for tar in range(tars):
        content = tar_bytes(digits(tar * per_tar, (tar + 1) * per_tar))
        (folder / f"digits-{tar:03d}.tar").write_bytes(content)
    return str(folder / f"digits-{{000..{tars - 1:03d}}}.tar")
