"""The folder of a run before anything is written to it: what cannot be written or is not shared is refused."""

import os
import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.distributed import run_folder
from trainer.distributed.groups import Launch
from trainer.distributed.run_folder import check_writable, one_folder
from trainer.distributed.start_store import StartStore


@pytest.mark.parametrize("inner", ["run", "run/deep/below"])
def test_a_folder_that_can_be_made_is_taken_and_not_made(inner: str, tmp_path: Path) -> None:
    check_writable(tmp_path / inner)
    assert list(tmp_path.iterdir()) == []


@each("inner", ["file", "file/run", "checked", "/proc/run", "/proc/1/run", "/sys/run", "dangling"])
def test_a_folder_that_cannot_be_written_is_refused(inner: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "deep")
    (tmp_path / "checked").mkdir()
    (tmp_path / "checked" / "checkpoints").mkdir()
    if inner == "checked":
        (tmp_path / "checked" / "checkpoints").rmdir()
        (tmp_path / "checked" / "checkpoints").symlink_to("/proc/1")
    before = sorted(tmp_path.rglob("*"))
    folder = tmp_path / inner
    with pytest.raises(Refusal) as refused:
        check_writable(folder)
    assert str(refused.value).startswith(f"{folder}: run.dir: cannot be written (")
    assert str(refused.value).endswith("); choose another folder")
    assert sorted(tmp_path.rglob("*")) == before


def objections(folders: list[Path], ranks_per_node: int = 1) -> list[str | None]:
    """What each rank finds of the folder that it sees under one name, all of them threads with one store."""
    store = dist.HashStore()
    found: list[str | None] = [None] * len(folders)
    all_look = threading.Barrier(len(folders))

    def rank(number: int) -> None:
        launch = Launch(number, number % ranks_per_node, len(folders), ranks_per_node)
        with one_folder(StartStore(launch, lambda: store), folders[number]) as objection:
            found[number] = objection
            all_look.wait(10)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(folders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@each("inner", ["run", "deep/below/run"])
@each("there", [True, False])
def test_a_shared_folder_is_found_on_all_nodes(inner: str, there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / inner).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert objections([tmp_path / inner] * 4, ranks_per_node=2) == [None] * 4
    assert sorted(tmp_path.rglob("*")) == before


def test_another_folder_is_refused_and_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE_S", 0.1)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(run_folder, "str", lambda folder: f"/shared/{folder.name}", raising=False)
    first, second = objections([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    host = os.uname().nodename
    assert first is None
    assert second == (
        f"run.dir: {tmp_path / 'b' / 'run'} is another folder on node 1 ({host}, rank 1) than on node 0 "
        f"({host}, rank 0); give a folder that all nodes share"
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b"]


def test_folders_of_other_names_are_a_difference_of_settings(tmp_path: Path) -> None:
    assert objections([tmp_path / "a", tmp_path / "b"]) == [None, None]
