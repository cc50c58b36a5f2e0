"""A resume notices data that have changed: by a sample at every start, and whole where that is asked for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netsim.foundation.refusal import Refusal
from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.data import ShardsConfig, build, files, write_shards
from trainer.data.files import DataFiles
from trainer.data.image_folder import ImageFolder, ImageFolderConfig
from trainer.training.data_record import NAME, DataRecord, sampled, verify


class Data:
    """A data set of which nothing but its files matters."""

    def __init__(self, *files: DataFiles) -> None:
        self.files = files


def config(folder: Path, seed: int = 5) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": folder, "seed": seed},
            "model": {"hidden": 16, "num_layers": 1, "num_heads": 4},
            "optim": {"steps": 4, "global_batch": 16, "lr": 1e-2},
        }
    )


def begun(folder: Path, data: Any) -> DataRecord:
    record, lines = sampled(config(folder), data, 0, resumes=False)
    assert lines == []
    record.write(folder / NAME)
    return record


def pictures(folder: Path, colour: int = 0) -> ImageFolder:
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(folder / name)
    document = {"kind": "image_folder", "path": str(folder), "size": 8, "held_out": 1}
    return ImageFolder(ImageFolderConfig.model_validate(ImageFolderConfig.resolved(document)))


def test_pictures_of_other_content_under_the_same_names_are_refused(tmp_path: Path) -> None:
    begun(tmp_path, pictures(tmp_path / "data"))
    now = pictures(tmp_path / "data", colour=200)
    with pytest.raises(Refusal) as raised:
        sampled(config(tmp_path), now, 0, resumes=True)
    line = str(raised.value)
    assert line.startswith(f"{tmp_path / 'data' / 'a' / '0.png'}: content: differs from what the run learned from")
    assert "(as do 2 more of 3 sampled files)" in line
    assert line.endswith("; bring back what the run began with, or give another run.dir to start anew")


def test_bytes_of_a_shard_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_shards(folder, [(np.zeros((8, 3), np.float32), None)])
    data = build(ShardsConfig.model_validate(ShardsConfig.resolved({"kind": "shards", "path": folder, "held_out": 1})))
    begun(tmp_path, data)
    shard = folder / "shard_00000.safetensors"
    held = bytearray(shard.read_bytes())
    held[-1] ^= 1
    status = shard.stat()
    shard.write_bytes(held)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(Refusal, match=rf"{shard}: content: differs"):
        sampled(config(tmp_path), data, 0, resumes=True)


def test_what_is_the_same_is_resumed_whatever_the_seed_and_the_times(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    record = begun(tmp_path, data)
    os.utime(tmp_path / "data" / "a" / "0.png", ns=(1, 1))
    assert sampled(config(tmp_path, seed=6), data, 0, resumes=True) == (record, [])


def test_a_large_file_that_was_written_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SAMPLE_BYTES", 100_000)
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    data: Any = Data(DataFiles(tmp_path, ["large"]))
    begun(tmp_path, data)
    assert sampled(config(tmp_path), data, 0, resumes=True)[1] == []
    os.utime(tmp_path / "large", ns=(1, 1))
    (line,) = sampled(config(tmp_path), data, 0, resumes=True)[1]
    assert line.startswith(f"{tmp_path / 'large'}: was written again (1 of 1 sampled files were)")
    assert "--verify-data" in line


def test_a_run_from_before_there_was_a_record_gets_one(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    record, lines = sampled(config(tmp_path), data, 0, resumes=True)
    assert len(record.sets[0].sample) == 3
    assert lines == [f"{tmp_path / NAME}: is missing; the data are recorded as they are now"]


def test_a_malformed_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("{}")
    with pytest.raises(Refusal, match=NAME):
        sampled(config(tmp_path), pictures(tmp_path / "data"), 0, resumes=True)


def verified(rank: int, _: int, folder: Path, data: DataFiles) -> list[str]:
    """Reads a run's data whole: first, again, and when a byte that no sample reads has changed."""
    import torch.distributed as dist

    said = []
    for changes in (False, False, True):
        if changes and rank == 0:
            with (data.folder / "1").open("r+b") as file:
                file.seek(500_000)
                file.write(b"\1")
        dist.barrier()
        try:
            verify(folder, [data], lambda: None)
            said.append(str(DataRecord.read(folder / NAME).sets[0].whole is not None or rank))
        except Refusal as error:
            said.append(str(error))
    return said


def test_the_whole_content_is_compared_over_all_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("0", "1", "2"):
        (folder / name).write_bytes(bytes(1_000_000))
    data = DataFiles(folder, ["0", "1", "2"])
    begun(tmp_path, Data(data))
    for said in run_ranks(verified, 2, tmp_path, data):
        assert said[2].startswith(f"{folder / '1'}: content: differs from what the run learned from; ")
