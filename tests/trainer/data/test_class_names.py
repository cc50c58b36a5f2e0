"""Names of classes: known of every data set, kept by what is made of it, and shown above the columns of grids."""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel, ValidationError

from tests.trainer.data.pictures import folder
from trainer import data
from trainer.checkpoint.model_card import model_card
from trainer.config.run import RunConfig
from trainer.data import PairsConfig, ShardsConfig, write_shards
from trainer.data.builtin import PythonSourceConfig
from trainer.data.shard.index import PairIndex, ShardIndex, listed
from trainer.flow import Condition
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.pictures import headings_above, image_grid

NAMES = ("cat", "dog", "fox")
ENTRY = {"file": "shard_00000.safetensors", "num_examples": 9}
PAIRS = {"shape": (2,), "dtype": "float32", "num_classes": 3, "made_by": {"seed": 0}, "shards": [ENTRY]}


class Named(BaseModel):
    """Settings of a data set that names its classes."""

    shape: tuple[int, ...] = (2,)
    num_classes: int = 2
    class_names: tuple[str, ...] = ("left", "right")


class Own(data.Dataset):
    """A data set of a user's."""

    Config = Named

    def indices(self, split: data.Split) -> torch.Tensor:
        """None."""
        return torch.arange(len(split) * 0)

    def get(self, indices: torch.Tensor) -> data.Batch:
        """Zeros."""
        return data.Batch(torch.zeros(len(indices), 2), None, indices)


def run(**sections: Any) -> RunConfig:
    document = {"run": {"dir": "r"}, "model": {"hidden": 16}, "optim": {"steps": 1, "global_batch": 8}}
    return RunConfig.model_validate({**document, **sections})


def shards(path: Path, **changes: Any) -> ShardsConfig:
    document = ShardsConfig.resolved({"kind": "shards", "path": str(path), "held_out": 3, **changes})
    return ShardsConfig.model_validate(document)


def written(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    pieces = [(np.zeros((9, 1, 4, 4), np.float32), np.arange(9) % 3)]
    write_shards(path, pieces, num_classes=3, class_names=names)
    return path


def test_every_kind_of_data_tells_its_names() -> None:
    for kind in get_args(data.AnyConfig):
        assert hasattr(kind, "class_names") or "class_names" in kind.model_fields, kind


def test_names_are_those_of_folders_of_digits_and_of_a_class_of_the_users(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "pictures", classes=("dog", "cat"))
    document = {"kind": "image_folder", "path": str(pictures), "size": 8, "held_out": 2}
    assert data.ImageFolderConfig(**data.ImageFolderConfig.resolved(document)).class_names == ("cat", "dog")
    assert data.DigitsConfig().class_names == tuple(map(str, range(10)))
    assert data.ToyConfig(classes=True).class_names == PythonSourceConfig().class_names == ()
    own = {"class": f"{__name__}:Own"}
    assert run(data=own).data.class_names == ("left", "right")
    with pytest.raises(ValidationError, match=r"as class_names \('one',\), not a name for each of 2 classes; give so"):
        run(data={**own, "class_names": ["one"]})


def test_shards_and_pairs_carry_names_and_a_run_may_give_its_own(tmp_path: Path) -> None:
    path = written(tmp_path / "shards")
    assert ShardIndex.read(path).class_names == shards(path).class_names == NAMES
    assert shards(path, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    again = ShardsConfig.model_validate(json.loads(shards(path).model_dump_json()))
    assert again.class_names == NAMES, "a checkpoint's configuration keeps them"
    assert data.build(again).num_classes == 3
    with pytest.raises(ValidationError, match="class_names: 2 names do not fit 3 classes; name each class once"):
        shards(path, class_names=["a", "b"])
    PairIndex.model_validate({**PAIRS, "class_names": NAMES}).write(tmp_path)
    pairs = PairsConfig.resolved({"kind": "pairs", "path": str(tmp_path), "held_out": 3})
    assert PairsConfig.model_validate(pairs).class_names == NAMES
    with pytest.raises(ValidationError, match="class_names: 1 names do not fit 3 classes"):
        PairIndex.model_validate({**PAIRS, "class_names": ["cat"]})


def test_a_folder_without_names_is_the_one_that_it_was(tmp_path: Path) -> None:
    """Index and digest are the bytes from before there were names."""
    index, pairs = ShardIndex.read(written(tmp_path / "s", ())), PairIndex.model_validate(PAIRS)
    for one in (index, pairs):
        assert "class_names" not in one.model_dump_json()
    assert index.digest == hashlib.sha256(index.model_dump_json(exclude={"class_names"}).encode()).hexdigest()[:16]
    assert index.digest != ShardIndex.read(written(tmp_path / "named")).digest
    assert "class_names" not in shards(tmp_path / "s").model_dump()


def test_the_model_card_lists_them_and_shortens_a_long_list(tmp_path: Path) -> None:
    config = run(data=shards(written(tmp_path / "s")).model_dump())
    card = model_card(config, 1, 100, routers=False, weights="ema.safetensors")
    assert "| classes | 3 (cat, dog, fox) |\n" in card
    assert listed(tuple(f"n{number}" for number in range(1000))).endswith("n18, ..., n999)")


def test_headings_are_the_classes_of_columns() -> None:
    def of(labels: torch.Tensor, columns: int, names: tuple[str, ...] = NAMES) -> tuple[str, ...]:
        return Conditioning(Condition(label=labels)).headings(names, columns)

    assert of(torch.arange(9) % 3, 3) == NAMES
    assert of(torch.full((4,), 2), 2) == ("fox", "fox")
    assert of(torch.arange(9) % 3, 2) == ()
    assert of(torch.arange(9) % 3, 3, ()) == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_a_heading_above_the_middle_of_each_column(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (6, channels, 8, 8))
    image_grid(images, 3, tmp_path / "bare.png")
    image_grid(images, 3, tmp_path / "named.png", NAMES)
    bare, named = (np.asarray(Image.open(tmp_path / name)) for name in ("bare.png", "named.png"))
    above, below = np.split(named, [len(named) - len(bare)])
    np.testing.assert_array_equal(below, bare)
    ink = np.nonzero((above.reshape(*above.shape[:2], -1) < 128).any((0, 2)))[0]
    for column in range(3):
        own = ink[(ink >= 2 + column * 66) & (ink < 66 + column * 66)]
        assert abs((own[0] + own[-1]) / 2 - (2 + column * 66 + 31.5)) <= 2


def test_long_headings_are_broken_then_cut_and_never_leave_their_column() -> None:
    long = ["golden_retriever", "black-and-tan coonhound, a hound of the hunt", "W" * 40]
    row = headings_above(long, 64, 2, 3 * 66 + 2)
    columns = np.nonzero((row < 255).any(0))[0]
    assert not np.isin(columns, [column * 66 + offset for column in range(4) for offset in (0, 1)]).any()
    widest = long[-1]
    assert len(headings_above(["cat", widest], 64, 2, 134)) < len(row), "one line"
    blank = headings_above(["golden retriever", widest], 64, 2, 134)
    np.testing.assert_array_equal(blank[:, :68], row[:, :68])
