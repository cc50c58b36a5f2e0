"""A keyed sample of files tells folders with the same names apart; all of them are read whole where they are small."""

from pathlib import Path

import pytest

import trainer.data.files
from tests.each import each
from trainer.data.files import BLOCK_BYTES, FILES, DataFiles


def written(folder: Path, sizes: dict[str, int]) -> DataFiles:
    for name, size in sizes.items():
        (folder / name).write_bytes(bytes(size))
    return DataFiles(folder, [*sizes])


@each("place", [0, 1, 5_000, 99_999])
def test_any_byte_of_a_small_file_is_seen(place: int, tmp_path: Path) -> None:
    files = written(tmp_path, {"a": 100_000})
    before = files.sample(3)
    assert files.sample(3) == before
    altered = bytearray(100_000)
    altered[place] = 1
    (tmp_path / "a").write_bytes(altered)
    assert files.sample(3) != before


def test_blocks_of_large_files_are_drawn_by_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends are always read; a block within is seen by about its share of keys."""
    monkeypatch.setattr(trainer.data.files, "SAMPLE_BYTES", 10 * BLOCK_BYTES)
    files = written(tmp_path, {"a": 40 * BLOCK_BYTES + 7})
    keys = range(200)
    before = [files.sample(key) for key in keys]
    assert len({line for (line,) in before}) == 1, "zeros are zeros, whichever are read"

    def seen(place: int) -> int:
        altered = bytearray(40 * BLOCK_BYTES + 7)
        altered[place] = 1
        (tmp_path / "a").write_bytes(altered)
        return sum(files.sample(key) != old for key, old in zip(keys, before, strict=True))

    assert seen(0) == seen(40 * BLOCK_BYTES + 6) == len(keys)
    assert 20 <= seen(20 * BLOCK_BYTES) <= 65, "8 of 39 blocks: 41 of 200 keys"


def test_another_length_is_seen_though_the_bytes_are_the_same(tmp_path: Path) -> None:
    files = written(tmp_path, {"a": 10})
    before = files.sample(0)
    (tmp_path / "a").write_bytes(bytes(11))
    assert files.sample(0) != before
    assert before[0].split()[:2] == ["a", "10"]


@each("number", [0, 1, FILES, FILES + 1, 10 * FILES])
def test_no_more_files_are_read_than_said(number: int) -> None:
    files = DataFiles(Path("none"), [f"{place:06d}" for place in range(number)])
    drawn = files.sampled(1)
    assert len(drawn) == min(number, FILES)
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(files.names)
    if number > FILES:
        assert files.sampled(1) != files.sampled(2)
    assert files.share_bytes(1) * max(1, len(drawn)) <= trainer.data.files.SAMPLE_BYTES
    assert [name for group in files.groups for name in group] == files.names
    assert len(files.groups) <= trainer.data.files.GROUPS


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert DataFiles(tmp_path, ["gone"]).sample(0) == ["gone cannot be read (No such file or directory)"]


def test_every_byte_counts_where_files_are_read_whole(tmp_path: Path) -> None:
    files = written(tmp_path, {"a": 50, "b": 60})
    whole = [files.whole(group) for group in files.groups]
    assert len(whole) == 2
    (tmp_path / "b").write_bytes(bytes(59) + b"\1")
    assert files.whole(["a"]) == whole[0]
    assert files.whole(["b"]) != whole[1]
