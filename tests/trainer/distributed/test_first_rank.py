"""Rank 0 looks at the files of a data set, and the other ranks are told; a node with files of its own looks, too."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.each import each
from tests.ranks import run_ranks
from tests.trainer.data.pictures import folder
from trainer.data import image_folder, picture
from trainer.data.files import found_once
from trainer.data.image_folder import ImageFolder, ImageFolderConfig
from trainer.distributed import first_rank
from trainer.distributed.first_rank import first_rank_looks, shared
from trainer.distributed.groups import Launch
from trainer.distributed.start_store import StartStore


def ranks_of(nodes: int, ranks_per_node: int) -> list[StartStore]:
    """All ranks of a run, with one store."""
    store, world_size = dist.HashStore(), nodes * ranks_per_node
    launches = [Launch(rank, rank % ranks_per_node, world_size, ranks_per_node) for rank in range(world_size)]
    return [StartStore(launch, lambda: store) for launch in launches]


def never() -> Any:
    raise AssertionError("a rank that is told looks itself")


def failing() -> Any:
    raise ValueError("path: there is nothing there; give another")


def test_the_others_are_told_what_rank_0_finds() -> None:
    first, second = ranks_of(1, 2)
    names = [f"class {number % 7}/{number * 7919:08d} \udcff.png" for number in range(20_000)]
    assert shared(first, "names", lambda: names) == names
    assert shared(second, "names", never) == names


def test_long_answers_come_in_parts_that_a_store_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_rank, "PART_BYTES", 100)
    first, second = ranks_of(1, 2)
    names = [str(number * number) for number in range(1000)]
    shared(first, "names", lambda: names)
    assert int(first.store.get("found/names")) > 10
    assert shared(second, "names", never) == names


def test_what_is_wrong_on_rank_0_is_wrong_on_all() -> None:
    for ranks, find in zip(ranks_of(1, 2), (failing, never), strict=True):
        with pytest.raises(ValueError, match="nothing there"):
            shared(ranks, "names", find)


def test_the_first_rank_of_each_other_node_looks_at_its_own_files() -> None:
    looked: list[int] = []
    ranks = ranks_of(2, 2)
    for rank, one in enumerate(ranks):
        shared(one, "names", lambda rank=rank: [looked.append(rank), ("a", 1)][1])
    assert looked == [0, 2]


@each(
    ("here", "said"),
    [
        (["a", "b"], r"names: 2 here and 3 on node 0 \(c only on node 0\); give all nodes the same data"),
        (["a", "b", "d"], r"names: 3 here and 3 on node 0 \(c only on node 0\)"),
        (["a", "b", "c", "b2"], r"names: 4 here and 3 on node 0 \(b2 only here\)"),
        (["b", "a", "c"], r"names: 3 here and 3 on node 0 \(their order "),
        ({"rows": 3}, "names differ from those of node 0"),
    ],
)
def test_a_node_with_other_files_is_refused(here: Any, said: str) -> None:
    first, second = ranks_of(2, 1)
    shared(first, "names", lambda: ["a", "b", "c"])
    with pytest.raises(ValueError, match=said):
        shared(second, "names", lambda: here)


def test_a_node_that_shares_the_folder_of_rank_0_does_not_look(tmp_path: Path) -> None:
    first, second = ranks_of(2, 1)
    folder(tmp_path / "data")
    shared(first, "names", lambda: ["a"], tmp_path / "data")
    assert shared(second, "names", never, tmp_path / "data") == ["a"]
    (tmp_path / "data" / "new.png").touch()  # a copy is as a folder that has changed: not the same
    assert shared(second, "names", lambda: ["a"], tmp_path / "data") == ["a"]


def test_a_process_alone_looks_once_as_long_as_it_is_asked_to() -> None:
    looked: list[str] = []

    def find() -> str:
        looked.append("once")
        return "found"

    with first_rank_looks(StartStore(Launch(0, 0, 1, 1))):
        assert [found_once("key", find), found_once("key", find)] == ["found", "found"]
    assert looked == ["once"]
    assert found_once("key", find) == "found"
    assert looked == ["once", "once"]


def open_folder(rank: int, world_size: int, path: str) -> list[str]:
    """Opens a folder of pictures that only rank 0 can list."""
    store = dist.distributed_c10d._get_default_store()
    patched = pytest.MonkeyPatch()
    if rank:
        patched.setattr(picture, "_listed", never)
        patched.setattr(image_folder, "sub_folders", never)
    document = {"kind": "image_folder", "path": path, "size": 8, "held_out": 4}
    with first_rank_looks(StartStore(Launch(rank, rank, world_size, world_size), lambda: store)):
        images = ImageFolder(ImageFolderConfig.model_validate(ImageFolderConfig.resolved(document)))
    return images._names


def test_all_ranks_have_the_listing_of_rank_0(tmp_path: Path) -> None:
    folder(tmp_path, classes=("dog", "ant"))
    first, second = run_ranks(open_folder, 2, str(tmp_path))
    assert first == second
    assert len(first) == 20
