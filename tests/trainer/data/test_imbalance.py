"""Fewer examples of later classes, of every kind of data that can have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.trainer.data.pictures import digit_pictures
from tests.trainer.data.test_idx import write
from trainer import data
from trainer.data import Dataset, write_shards
from trainer.data.mixture import KINDS


def labels_of(dataset: Dataset, split: Any) -> torch.Tensor:
    labels = dataset.get(dataset.indices(split)).labels
    assert labels is not None
    return labels


def opened(document: dict[str, Any], imbalance: dict[str, Any] | None) -> Dataset:
    written = document if imbalance is None else {**document, "imbalance": imbalance}
    resolve = getattr(KINDS[document["kind"]], "resolved", lambda one: one)
    return data.build(TypeAdapter(data.Config).validate_python(resolve(written)))


@pytest.fixture(params=["digits", "idx", "image_folder", "shards"])
def document(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Data of each kind, with about as many of each class."""
    random = np.random.default_rng(0)
    match request.param:
        case "idx":
            for name, number in (("train", 400), ("t10k", 40)):
                write(tmp_path / f"{name}-images-idx3-ubyte", random.integers(0, 256, (number, 5, 4)))
                write(tmp_path / f"{name}-labels-idx1-ubyte", np.arange(number) % 4)
            return {"kind": "idx", "path": str(tmp_path), "held_out": 40}
        case "image_folder":
            digit_pictures(tmp_path, 400)
            return {"kind": "image_folder", "path": str(tmp_path), "size": 8, "channels": 1, "held_out": 40}
        case "shards":
            images, labels = random.normal(size=(440, 1, 4, 4)).astype(np.float32), np.arange(440) % 4
            write_shards(tmp_path, [(images, labels)], num_classes=4, shard_examples=300)
            return {"kind": "shards", "path": str(tmp_path), "held_out": 40}
        case _:
            return {"kind": "digits"}


def test_later_classes_keep_fewer_examples_by_the_same_factor(document: dict[str, Any]) -> None:
    whole, tail = opened(document, None), opened(document, {"ratio": 10})
    before, after = (torch.bincount(labels_of(one, "train"), minlength=whole.num_classes) for one in (whole, tail))
    exponents = torch.arange(whole.num_classes) / (whole.num_classes - 1)
    assert (after - before * 10**-exponents).abs().max() <= 0.5 + 1e-6
    assert after[0] == before[0]


def test_held_out_examples_all_stay_and_the_order_of_the_others_too(document: dict[str, Any]) -> None:
    whole, tail = opened(document, None), opened(document, {"ratio": 10})
    assert torch.equal(whole.indices("held_out"), tail.indices("held_out"))
    stays = set(tail.indices("train").tolist())
    assert tail.indices("train").tolist() == [one for one in whole.indices("train").tolist() if one in stays]


def test_a_larger_ratio_keeps_some_of_those_of_a_smaller_one_and_another_seed_others(document: dict[str, Any]) -> None:
    chosen = [{"ratio": 20}, {"ratio": 5}, {"ratio": 5, "seed": 1}]
    many, few, other = (set(opened(document, one).indices("train").tolist()) for one in chosen)
    assert many < few
    assert len(few) == len(other)
    assert few != other


def test_a_class_never_vanishes() -> None:
    labels = labels_of(opened({"kind": "digits"}, {"ratio": 1e6}), "train")
    assert torch.bincount(labels, minlength=10).min() == 1


def test_examples_without_classes_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [(np.zeros((30, 1, 4, 4), np.float32), None)])
    with pytest.raises(ValidationError, match="imbalance: is between classes, and these examples have 0; leave it out"):
        opened({"kind": "shards", "path": str(tmp_path), "held_out": 4}, {"ratio": 10})


def test_what_was_written_before_stays_the_same() -> None:
    assert "imbalance" not in data.DigitsConfig().model_dump()


@pytest.mark.parametrize("ratio", [1, 0.5, 1e7])
def test_ratios_out_of_range_are_refused(ratio: float) -> None:
    with pytest.raises(ValidationError):
        data.DigitsConfig.model_validate({"imbalance": {"ratio": ratio}})
