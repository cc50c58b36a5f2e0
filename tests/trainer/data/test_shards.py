"""Folders of shards: written as told, read as written, row by row."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.commands import contents
from trainer import data
from trainer.data import BadExamples, Shards, ShardsConfig, write_shards
from trainer.data.shard.file import open_shard
from trainer.data.shard.index import ShardIndex
from trainer.data.shard.writer import Examples, save_shard


def examples(num: int = 50, shape: tuple[int, ...] = (2, 3, 3), dtype: str = "float32") -> np.ndarray:
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, (num, *shape), dtype=np.uint8)
    return (generator.standard_normal((num, *shape)) * 3 + 1).astype(dtype)


def labels(num: int = 50) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 5, num)


def pieces(*lengths: int, **settings: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    x, y = examples(sum(lengths), **settings), labels(sum(lengths))
    ends = np.cumsum(lengths)
    return [(x[end - n : end], y[end - n : end]) for n, end in zip(lengths, ends, strict=True)]


def config(path: Path, **changes: Any) -> ShardsConfig:
    return ShardsConfig.model_validate(
        ShardsConfig.resolved({"kind": "shards", "path": str(path), "held_out": 10, **changes})
    )


@each("file_type", ["safetensors", "npz"])
@each("dtype", ["float32", "float16", "uint8"])
def test_what_is_written_is_read(tmp_path: Path, file_type: Any, dtype: str) -> None:
    given = pieces(7, 1, 30, 12, dtype=dtype)
    index = write_shards(tmp_path / "s", given, num_classes=5, shard_examples=16, file_type=file_type)
    assert [shard.num_examples for shard in index.shards] == [16, 16, 16, 2]
    shards = data.build(config(tmp_path / "s"))
    assert (shards.shape, shards.num_classes) == ((2, 3, 3), 5)
    order = torch.from_numpy(np.random.default_rng(2).permutation(50))
    batch = shards.get(order)
    x, y = batch.x_1, batch.labels
    expected = examples(50, dtype=dtype).astype(np.float32)[order]
    expected = expected / 127.5 - 1 if dtype == "uint8" else expected
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=1e-6)
    assert x.dtype == torch.float32
    assert y is not None
    np.testing.assert_array_equal(y.numpy(), labels()[order])
    assert y.dtype == torch.int64


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_contexts_stay_beside_their_examples(tmp_path: Path, dtype: str) -> None:
    masks = np.random.default_rng(5).integers(0, 2, (50, 1, 3, 3)).astype(dtype) * (255 if dtype == "uint8" else 1)
    parts = [Examples(examples(50)[rows], labels()[rows], masks[rows]) for rows in (slice(0, 7), slice(7, 50))]
    index = write_shards(tmp_path / "s", parts, num_classes=5, shard_examples=16)
    section = config(tmp_path / "s")
    assert index.context_shape == section.context_shape == (1, 3, 3)
    order = torch.from_numpy(np.random.default_rng(2).permutation(50))
    read = data.build(section).get(order).context
    assert read is not None
    expected = masks[order].astype(np.float32)
    np.testing.assert_allclose(read.numpy(), expected / 127.5 - 1 if dtype == "uint8" else expected, atol=1e-6)


def test_a_context_is_no_part_of_an_index_without_one(tmp_path: Path) -> None:
    index = write_shards(tmp_path, pieces(50), num_classes=5)
    assert "context" not in json.loads(index.model_dump_json())
    assert "context_shape" not in config(tmp_path).model_dump()


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (np.zeros((49, 1, 3, 3), np.float32), "context: 49 do not fit 50 examples"),
        (np.zeros((50, 1, 3, 3), np.int64), "context: int64 is not read; give float32, float16 or uint8"),
        (np.full((50, 1, 3, 3), np.nan, np.float32), "context: contain values that are not finite"),
    ],
)
def test_contexts_that_are_refused(tmp_path: Path, masks: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        write_shards(tmp_path, [Examples(examples(50), labels(), masks)], num_classes=5)


def test_a_shard_without_the_context_of_its_index_is_refused(tmp_path: Path) -> None:
    masks = np.zeros((50, 1, 3, 3), np.float32)
    index = write_shards(tmp_path, [Examples(examples(50), labels(), masks)], num_classes=5)
    save_shard(tmp_path / index.shards[0].file, {"data": examples(50), "labels": labels()})
    with pytest.raises(Refusal, match="context: is missing"):
        data.build(config(tmp_path))


def test_a_shard_of_another_shape_than_its_index_is_refused(tmp_path: Path) -> None:
    index = write_shards(tmp_path, pieces(50), num_classes=5)
    save_shard(tmp_path / index.shards[0].file, {"data": examples(49), "labels": labels()[:49]})
    with pytest.raises(Refusal, match=r"data: has shape \(49, .*\) but the index says \(50, "):
        data.build(config(tmp_path))


def test_the_length_of_shards_changes_nothing_but_files(tmp_path: Path) -> None:
    for length in (1, 7, 100):
        write_shards(tmp_path / str(length), pieces(20, 30), num_classes=5, shard_examples=length)
    read = [data.build(config(tmp_path / str(length))) for length in (1, 7, 100)]
    for other in read[1:]:
        assert torch.equal(read[0].indices("train"), other.indices("train"))
        assert torch.equal(read[0].get(torch.arange(50)).x_1, other.get(torch.arange(50)).x_1)


def test_vectors_without_labels(tmp_path: Path) -> None:
    x = examples(20, (4,))
    write_shards(tmp_path, [(x, None)])
    shards = data.build(config(tmp_path))
    batch = shards.get(torch.arange(20))
    read, none = batch.x_1, batch.labels
    assert none is None
    np.testing.assert_array_equal(read.numpy(), x)


def test_the_split_is_fixed_and_complete(tmp_path: Path) -> None:
    write_shards(tmp_path, pieces(50), num_classes=5)
    few, many = (data.build(config(tmp_path, held_out=n)) for n in (10, 25))
    assert set(few.indices("held_out").tolist()) < set(many.indices("held_out").tolist())
    for shards in (few, many):
        assert sorted(torch.cat([shards.indices("train"), shards.indices("held_out")]).tolist()) == list(range(50))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_standardised_channels_have_mean_0_and_variance_1(tmp_path: Path, dtype: str) -> None:
    given = pieces(30, 20, dtype=dtype)
    given = [(x // (1 + np.arange(2, dtype=x.dtype).reshape(2, 1, 1)), y) for x, y in given]
    index = write_shards(tmp_path, given, num_classes=5, shard_examples=8, standardise=True)
    read = data.build(config(tmp_path)).get(torch.arange(50)).x_1
    np.testing.assert_allclose(read.mean((0, 2, 3)).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(read.std((0, 2, 3), correction=0).numpy(), 1, atol=1e-5)
    assert index.shift is not None
    assert index.scale is not None
    raw = np.concatenate([x for x, _ in given]).astype(float)
    raw = raw / 127.5 - 1 if dtype == "uint8" else raw
    back = read.numpy() * np.reshape(index.scale, (2, 1, 1)) + np.reshape(index.shift, (2, 1, 1))
    np.testing.assert_allclose(back, raw, atol=1e-5)


def test_a_channel_that_never_changes_is_left_finite(tmp_path: Path) -> None:
    write_shards(tmp_path, [(np.ones((20, 2), np.float32), None)], standardise=True)
    assert (data.build(config(tmp_path)).get(torch.arange(20)).x_1 == 0).all()


def test_rows_come_from_the_file_when_they_are_asked_for(tmp_path: Path) -> None:
    for file_type in ("safetensors", "npz"):
        folder = tmp_path / file_type
        write_shards(folder, pieces(50), num_classes=5, file_type=file_type)
        shards = Shards(config(folder))
        path = folder / f"shard_00000.{file_type}"
        x = examples()
        x[3] += 1
        save_file({"data": x, "labels": labels()}, path) if file_type == "safetensors" else np.savez(
            path, data=x, labels=labels()
        )
        np.testing.assert_array_equal(shards.get(torch.tensor([3])).x_1[0].numpy(), x[3])


def test_a_folder_without_an_index_is_told_with_the_commands_that_write_one(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"latents: python -m trainer encode, pairs: python -m trainer pairs"):
        ShardIndex.read(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(Refusal, match=r"index\.json: index: is not JSON"):
        ShardIndex.read(tmp_path)


def test_bad_rows_are_named_by_shard_and_row(tmp_path: Path) -> None:
    write_shards(tmp_path, pieces(50), num_classes=5, shard_examples=20)
    x, y = examples()[20:40], labels()[20:40]
    x[3, 0, 0, 0], x[7, 1, 2, 2], y[11] = np.nan, np.inf, 5
    save_file({"data": x, "labels": y}, tmp_path / "shard_00001.safetensors")
    shards = data.build(config(tmp_path))
    (tmp_path / "shard_00002.safetensors").unlink()
    with pytest.raises(BadExamples) as caught:
        shards.get(torch.arange(50))
    assert caught.value.reasons.keys() == {23, 27, 31, *range(40, 50)}
    shard = tmp_path / "shard_00001.safetensors"
    assert caught.value.reasons[23] == f"{shard}:3: data: contains values that are not finite"
    assert caught.value.reasons[31] == f"{shard}:11: labels: 5 is not one of the 5 classes"
    assert "shard_00002.safetensors" in caught.value.reasons[40]


def test_a_run_goes_on_with_the_shards_that_it_began_with(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", pieces(50), num_classes=5)
    resolved = config(tmp_path / "a")
    assert ShardsConfig.model_validate(resolved.model_dump(mode="json")) == resolved
    data.build(resolved)
    write_shards(tmp_path / "b", pieces(50), num_classes=5, shard_examples=9)
    moved = resolved.model_copy(update={"path": tmp_path / "b"})
    with pytest.raises(Refusal, match=r"data\.digest: "):
        data.build(moved)


def test_a_folder_is_not_written_twice(tmp_path: Path) -> None:
    write_shards(tmp_path, pieces(50), num_classes=5)
    before = contents(tmp_path)
    with pytest.raises(Refusal, match="already exists"):
        write_shards(tmp_path, pieces(10), num_classes=5)
    assert contents(tmp_path) == before


NAN = np.full((2, 2), np.nan, np.float32)
BAD_EXAMPLES: dict[str, tuple[list[tuple[np.ndarray, np.ndarray | None]], int, str]] = {
    "none": ([], 0, "there are none"),
    "not finite": ([(NAN, None)], 0, "not finite"),
    "labels without classes": ([(np.ones((2, 2), np.float32), np.zeros(2, int))], 0, "labels"),
    "classes without labels": ([(np.ones((2, 2), np.float32), None)], 3, "labels"),
    "a label too large": ([(np.ones((2, 2), np.float32), np.array([0, 3]))], 3, "exceed the 3 classes"),
    "two shapes": ([(np.ones((2, n), np.float32), None) for n in (2, 3)], 0, "one shape"),
    "two types": ([(np.ones((2, 2), dtype), None) for dtype in ("float32", "float16")], 0, "one shape and type"),
    "doubles": ([(np.ones((2, 2)), None)], 0, "float64 is not read; give float32"),
}


@each("case", BAD_EXAMPLES)
def test_what_is_no_data_set_is_not_written(tmp_path: Path, case: str) -> None:
    given, classes, problem = BAD_EXAMPLES[case]
    with pytest.raises(ValueError, match=problem):
        write_shards(tmp_path / "s", given, num_classes=classes)
    assert not (tmp_path / "s" / "index.json").exists()


def test_arrays_of_npz_files_in_the_order_of_fortran(tmp_path: Path) -> None:
    x = np.asfortranarray(examples(6))
    np.savez(tmp_path / "a.npz", data=x)
    np.testing.assert_array_equal(open_shard(tmp_path / "a.npz")["data"].row(4), x[4])
