"""Writes WebDataset tars, here of scikit-learn's handwritten digits: python -m configs.examples.webdataset

A tar holds examples one after the other. The members of an example have the same name up to the first dot, and what
follows the dot says what they are: `0007.png` the picture and `0007.cls` its class. `tar --sort=name` writes such tars
too. Put examples in random order before you cut them into tars: an epoch is shuffled in neighbourhoods.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TARS = 8


def main(folder: Path = Path("runs/tars")) -> None:
    """Writes eight tars.

    Args:
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    for number, chosen in enumerate(np.array_split(order, TARS)):
        with tarfile.open(folder / f"digits-{number:03d}.tar", "w") as tar:
            for example in chosen:
                picture = io.BytesIO()
                Image.fromarray((images[example].reshape(8, 8) * 15).astype(np.uint8)).save(picture, "PNG")
                add(tar, f"{example:04d}.png", picture.getvalue())
                add(tar, f"{example:04d}.cls", str(labels[example]).encode())


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Writes one member."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
