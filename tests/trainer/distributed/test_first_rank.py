"""Rank 0 looks at the files of a data set, and the other ranks are told."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.ranks import run_ranks
from tests.trainer.data.pictures import folder
from trainer.data import image_folder
from trainer.data.found_once import found_once
from trainer.data.image_folder import ImageFolder, ImageFolderConfig
from trainer.distributed import first_rank
from trainer.distributed.first_rank import first_rank_looks, shared
from trainer.distributed.groups import Launch

TWO = [Launch(rank, rank, 2, 2) for rank in range(2)]


def never() -> Any:
    raise AssertionError("a rank that is told looks itself")


def failing() -> Any:
    raise ValueError("path: there is nothing there; give another")


def test_the_others_are_told_what_rank_0_finds() -> None:
    store = dist.HashStore()
    names = [f"class {number % 7}/{number * 7919:08d} \udcff.png" for number in range(20_000)]
    assert shared(store, TWO[0], "names", lambda: names) == names
    assert shared(store, TWO[1], "names", never) == names


def test_long_answers_come_in_parts_that_a_store_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_rank, "PART_BYTES", 100)
    store, names = dist.HashStore(), [str(number * number) for number in range(1000)]
    shared(store, TWO[0], "names", lambda: names)
    assert int(store.get("found/names")) > 10
    assert shared(store, TWO[1], "names", never) == names


@pytest.mark.parametrize("launch", TWO)
def test_what_is_wrong_on_rank_0_is_wrong_on_all(launch: Launch) -> None:
    store = dist.HashStore()
    if launch.rank:
        with pytest.raises(ValueError, match="nothing there"):
            shared(store, TWO[0], "names", failing)
    with pytest.raises(ValueError, match="nothing there"):
        shared(store, launch, "names", failing if launch.rank == 0 else never)


def test_a_process_alone_looks_once_as_long_as_it_is_asked_to() -> None:
    looked: list[str] = []

    def find() -> str:
        looked.append("once")
        return "found"

    with first_rank_looks(Launch(0, 0, 1, 1)):
        assert [found_once("key", find), found_once("key", find)] == ["found", "found"]
    assert looked == ["once"]
    assert found_once("key", find) == "found"
    assert looked == ["once", "once"]


def open_folder(rank: int, world_size: int, path: str) -> list[str]:
    """Opens a folder of pictures that only rank 0 can list."""
    store = dist.distributed_c10d._get_default_store()
    patched = pytest.MonkeyPatch()
    patched.setattr(first_rank, "launch_store", lambda *_: store)
    if rank:
        patched.setattr(image_folder, "_listed", never)
        patched.setattr(image_folder, "_sub_folders", never)
    document = {"kind": "image_folder", "path": path, "size": 8, "held_out": 4}
    with first_rank_looks(Launch(rank, rank, world_size, world_size)):
        images = ImageFolder(ImageFolderConfig.model_validate(ImageFolderConfig.resolved(document)))
    return images._names


def test_all_ranks_have_the_listing_of_rank_0(tmp_path: Path) -> None:
    folder(tmp_path, classes=("dog", "ant"))
    first, second = run_ranks(open_folder, 2, str(tmp_path))
    assert first == second
    assert len(first) == 20
