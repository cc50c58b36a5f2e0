"""Damage to a checkpoint is found and named, and an older one is taken."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.checkpoint.directory import step_folder
from trainer.checkpoint.intact import newest_apparently_intact, newest_intact
from trainer.checkpoint.manifest import Manifest, records

FILES = ("ema.safetensors", "ranks/rank_00000.pt", "state/index.json")


def checkpoint(root: Path, step: int) -> Path:
    folder = step_folder(root, step)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"{name} after step {step}".encode())
    Manifest(
        step, step, {"model.hidden": 8}, {"world_size": 1}, records(folder, [folder / name for name in FILES])
    ).write(folder)
    return folder


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_whole_files_are_taken(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    newest = checkpoint(tmp_path, 20)
    assert newest_intact(tmp_path, FILES) == newest
    assert newest_apparently_intact(tmp_path, allow_rng_loss=False) == (newest, [])
    assert Manifest.read(newest).updates == 20


@each("name", [*FILES, "COMPLETE"])
@each("spoil", [truncate, flip, Path.unlink])
def test_a_damaged_checkpoint_is_skipped_in_one_line_that_names_it(
    spoil: Callable[[Path], None], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newest = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    spoil(newest / name)
    assert newest_intact(tmp_path, FILES) == older
    warning = capsys.readouterr().err
    assert warning.startswith(f"skipped: {newest / name}: ")
    assert warning.count("\n") == 1


def test_every_flipped_bit_of_the_marker_that_matters_is_found(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 10)
    marker, manifest = folder / "COMPLETE", Manifest.read(folder)
    content = marker.read_bytes()
    found = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        marker.write_bytes(changed)
        try:
            assert Manifest.read(folder) == manifest, place  # only white space may change unnoticed
        except Refusal:
            found += 1
    assert found > 0.7 * len(content)


MARKERS = rb"""[]
null
{"step": 10}
{"format": "flowfabric.checkpoint/1", "world_size": 1}
{"format": "flowfabric.checkpoint/2", "step": 10, "updates": 10, "identity": {}, "division": {}}
{"format": "flowfabric.checkpoint/2", "step": 10, "updates": 10, "identity": {}, "division": {}, "files": 1}"""


@each("marker", [b"", b"\xff", *MARKERS.split(b"\n")])
def test_a_malformed_marker_alone_is_refused(marker: bytes, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 10)
    (folder / "COMPLETE").write_bytes(marker)
    with pytest.raises(Refusal, match=rf"none of 1 is undamaged \(the newest: {folder}/COMPLETE: "):
        newest_apparently_intact(tmp_path, allow_rng_loss=False)


def test_files_that_nobody_asks_for_may_be_damaged(tmp_path: Path) -> None:
    newest = checkpoint(tmp_path, 10)
    truncate(newest / "ranks/rank_00000.pt")
    assert newest_intact(tmp_path, ["ema.safetensors"]) == newest
    assert newest_apparently_intact(tmp_path, allow_rng_loss=True) == (newest, [])
    with pytest.raises(Refusal, match=r"none of 1 is undamaged \(the newest: .*rank_00000\.pt: length: is \d+ bytes"):
        newest_apparently_intact(tmp_path, allow_rng_loss=False)


@pytest.mark.parametrize("name", FILES)
def test_as_much_is_read_as_may_be(name: str, tmp_path: Path) -> None:
    newest = checkpoint(tmp_path, 10)
    sizes = {file: len((newest / file).read_bytes()) for file in FILES}
    assert len(set(sizes.values())) == len(FILES)
    flip(newest / name)
    needed = sum(size for size in sizes.values() if size <= sizes[name])
    assert newest_apparently_intact(tmp_path, allow_rng_loss=False, read_bytes=needed - 1) == (newest, [])
    with pytest.raises(Refusal, match=f"{name}: checksum: "):
        newest_apparently_intact(tmp_path, allow_rng_loss=False, read_bytes=needed)


def test_a_save_that_did_not_end_is_no_checkpoint(tmp_path: Path) -> None:
    (checkpoint(tmp_path, 10) / "COMPLETE").unlink()
    folder, skipped = newest_apparently_intact(tmp_path, allow_rng_loss=False)
    assert folder is None
    assert [line.split(": ")[1] for line in skipped] == ["marker"]
    with pytest.raises(Refusal, match="there is no complete checkpoint"):
        newest_intact(tmp_path, FILES)
