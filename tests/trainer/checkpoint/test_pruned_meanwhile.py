"""A run deletes a checkpoint while another process reads it: the next newest is taken."""

from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from tests.trainer.checkpoint.test_checkpoint_damage import FILES, checkpoint
from trainer.checkpoint import intact
from trainer.checkpoint.directory import prune
from trainer.checkpoint.intact import newest_intact, with_newest

AVERAGES = FILES[0]


def go_on(root: Path, step: int) -> None:
    """What a run with ``checkpoint.keep`` 1 does."""
    checkpoint(root, step)
    prune(root, 1, step)


def test_the_next_newest_is_read_when_one_vanishes(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    checkpoint(root, 10)
    read: list[str] = []

    def use(folder: Path) -> bytes:
        read.append(folder.name)
        if len(read) < 3:
            go_on(root, 10 * (len(read) + 1))  # this one is deleted before its weights are read
        return (folder / AVERAGES).read_bytes()

    assert with_newest(tmp_path, use) == f"{AVERAGES} after step 30".encode()
    assert read == ["step_00000010", "step_00000020", "step_00000030"]


def test_an_error_of_a_checkpoint_that_is_still_there_is_told(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints", 10)

    def use(folder: Path) -> None:
        raise Refusal(folder, "weights", "are those of another network", "give others")

    with pytest.raises(Refusal, match="another network"):
        with_newest(tmp_path, use)


def test_folders_that_vanish_between_listing_and_reading_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that were listed are gone when they are read, and another is there."""
    for step in (10, 20):
        checkpoint(tmp_path, step)
    listed = intact.begun_steps

    def listing(root: Path) -> list[int]:
        found = listed(root)
        if found == [10, 20]:
            go_on(root, 30)
        return found

    monkeypatch.setattr(intact, "begun_steps", listing)
    assert newest_intact(tmp_path, FILES).name == "step_00000030"
    assert capsys.readouterr().err == ""
