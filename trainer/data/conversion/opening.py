"""Which kind of source a path is."""

from __future__ import annotations

from pathlib import Path

from netsim.foundation.refusal import Refusal
from trainer.data.conversion.arrays import ArraySource
from trainer.data.conversion.hugging_face import SavedDataset, is_saved_dataset
from trainer.data.conversion.pictures import PictureFolder
from trainer.data.conversion.source import Reading, Source
from trainer.data.shard.index import INDEX

KINDS = "an npz or npy file, a folder of pictures, or a folder that save_to_disk of Hugging Face's datasets wrote"


def open_source(path: Path, reading: Reading, scratch: Path) -> Source:
    """Opens a user's examples; `scratch` is on a disk with capacity for unpacked arrays.

    Raises:
        ValueError: they cannot be used; names file or option, value and remedy.
    """
    if path.is_file() and path.suffix in (".npz", ".npy"):
        return ArraySource(path, reading, scratch)
    if not path.is_dir():
        problem = "is not a kind of file that is read" if path.exists() else "is not there"
        raise Refusal(path, "source", problem, f"give {KINDS}")
    if is_saved_dataset(path):
        return SavedDataset(path, reading)
    if (path / INDEX).exists():
        remedy = f"train on it as it is (data={{kind: shards, path: {path}}})"
        raise Refusal(path, "source", "is a folder of shards already", remedy)
    return PictureFolder(path, reading)
