"""Tars of handwritten digits, as a stream: what a run sees, on any number of ranks, from any step, from anywhere."""

import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import torch
import webdataset.compat
from PIL import Image

from netsim.foundation.refusal import Refusal, Unreachable
from tests.each import each
from tests.trainer.commands import refused
from tests.trainer.data.tars import digit_tars, digits, encoded, tar_bytes
from trainer import data, load_config
from trainer.__main__ import main
from trainer.config.rules.cautions import cautions
from trainer.config.rules.plan import plan_layout
from trainer.data import BadExamples, Loader, WebDatasetConfig
from trainer.data.image_folder import ImageFolder
from trainer.data.loader import DataLoadingConfig, Prefetcher
from trainer.data.tar import files
from trainer.data.webdataset import WebDataset

STEPS = 17
"""An epoch of 110 examples in steps of 16 ends within the seventh."""


def config(path: str | list[str], index: Path, **changes: Any) -> WebDatasetConfig:
    section = {"kind": "webdataset", "path": path, "index": str(index), "size": 8, "channels": 1, "held_out": 10}
    return WebDatasetConfig.model_validate(
        WebDatasetConfig.resolved({**section, "streams": 8, "shuffle": 4, **changes})
    )


def indexed(path: str, index: Path, *options: str) -> Path:
    assert main(["index-tars", path, "--out", str(index), *options]) == 0
    return index


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A pattern of four tars of thirty digits, and their index."""
    folder = tmp_path_factory.mktemp("tars")
    pattern = digit_tars(folder)
    return pattern, indexed(pattern, folder / "index")


def dealt(dataset: WebDataset, world_size: int, first: int, end: int, workers: int = 0) -> list[torch.Tensor]:
    """Pixels, labels and ids of the global batches of some steps, from the ranks in their order."""
    micro_batch = 4 if world_size < 4 else 2
    settings: dict[str, Any] = {"global_batch": 16, "micro_batch": micro_batch, "seed": 5, "world_size": world_size}
    loading = DataLoadingConfig(prefetch=3 if workers else 0, workers=max(workers, 1))
    ranks = [Prefetcher(Loader(dataset, rank=rank, **settings), loading) for rank in range(world_size)]
    batches = [
        rank.batch(step, local)
        for step in range(first, end)
        for rank in ranks
        for local in range(16 // world_size // micro_batch)
    ]
    return [torch.cat([getattr(batch, name) for batch in batches]) for name in ("x_1", "labels", "ids")]


def test_examples_are_those_that_webdataset_yields(tars: tuple[str, Path]) -> None:
    pattern, index = tars
    dataset = data.build(config(pattern, index))
    assert isinstance(dataset, WebDataset)
    ids = torch.cat([dataset.indices(split) for split in data.SPLITS])
    batch = dataset.get(ids)
    assert batch.labels is not None
    pixels = batch.x_1.add(1).mul(127.5).round().to(torch.uint8).squeeze(1).numpy()
    found = {
        (example.key, image.tobytes(), label, bytes(example.members["txt"]))
        for example, image, label in zip(dataset.read(ids), pixels, batch.labels.tolist(), strict=True)
    }
    theirs = webdataset.compat.WebDataset(pattern, shardshuffle=False, empty_check=False)
    expected = {
        (one["__key__"], np.asarray(Image.open(io.BytesIO(one["png"]))).tobytes(), int(one["cls"]), one["txt"])
        for one in theirs
    }
    assert len(expected) == 120
    assert found == expected


def test_the_order_is_the_same_on_any_number_of_ranks_from_any_step(tars: tuple[str, Path]) -> None:
    dataset = WebDataset(config(*tars))
    straight = dealt(dataset, 1, 0, STEPS)
    assert sorted(straight[2][:110].tolist()) == sorted(dataset.indices("train").tolist())
    for world_size in (1, 2, 4):
        for first, workers in ((0, 0), (3, 3), (9, 2)):  # 3: within an epoch; 9: within the next
            resumed = dealt(WebDataset(config(*tars)), world_size, first, STEPS, workers)
            for one, other in zip(straight, resumed, strict=True):
                assert torch.equal(one[first * 16 :], other), (world_size, first)


def test_larger_held_out_parts_contain_smaller_ones(tars: tuple[str, Path]) -> None:
    few, many = (set(WebDataset(config(*tars, held_out=n)).indices("held_out").tolist()) for n in (10, 40))
    assert few < many
    assert len(many) == 40


class Counted:
    """Requests to remote tars, by tar."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        read = files.RemoteTar.read

        def counted(tar: files.RemoteTar, start: int, end: int) -> bytes:
            self.ranges.setdefault(tar._url, []).append((start, end))
            return read(tar, start, end)

        monkeypatch.setattr(files.RemoteTar, "read", counted)


@pytest.fixture
def remote(tars: tuple[str, Path]) -> Iterator[str]:
    """The same tars in another file system."""
    memory = fsspec.filesystem("memory")
    for tar in range(4):
        name = f"digits-{tar:03d}.tar"
        memory.pipe(f"/bucket/{name}", (Path(tars[0]).parent / name).read_bytes())
    yield "memory://bucket/digits-{000..003}.tar"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_remote_tars_are_read_by_large_requests_and_once(
    tars: tuple[str, Path], remote: str, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", 16 << 10)  # four examples, so that a tar has nine
    expected = dealt(WebDataset(config(*tars)), 1, 0, 7)
    counted = Counted(monkeypatch)
    ranks = [WebDataset(config(remote, tars[1])) for _ in range(world_size)]
    micro_batch = 16 // world_size
    found = [
        Loader(dataset, rank=rank, world_size=world_size, global_batch=16, micro_batch=micro_batch, seed=5).batch(s, 0)
        for s in range(7)
        for rank, dataset in enumerate(ranks)
    ]
    assert torch.equal(torch.cat([batch.x_1 for batch in found]), expected[0])
    assert torch.equal(torch.cat([batch.ids for batch in found]), expected[2])
    requests = [span for spans in counted.ranges.values() for span in spans]
    share = sum(end - start for start, end in requests) / sum(path.stat().st_size for path in local_tars(tars[0]))
    assert len(requests) < 80, "120 examples took a request each"
    assert share < 2.2, "beside the epoch, what was fetched ahead where a stream ends or begins anew"


def local_tars(pattern: str) -> list[Path]:
    return sorted(Path(pattern).parent.glob("*.tar"))


class Ranges(BaseHTTPRequestHandler):
    """Serves a folder, with or without ranges of bytes."""

    folder: ClassVar[Path]
    ranges: ClassVar[bool] = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        return

    def _answer(self) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.exists():
            self.send_error(404)
            return
        content, wanted = path.read_bytes(), self.headers.get("Range")
        if wanted and self.ranges:
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            content = content[first : last + 1]
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server(tars: tuple[str, Path]) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    Ranges.folder = Path(tars[0]).parent
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_tars_come_from_a_web_server(
    tars: tuple[str, Path], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server}/digits-{{000..003}}.tar"
    index = indexed(url, tmp_path / "index")
    for name in ("index.json", "examples.npy"):
        assert (index / name).read_bytes() == (tars[1] / name).read_bytes(), "an index does not say where its tars are"
    one, other = (dealt(WebDataset(config(path, index)), 2, 0, 3) for path in (url, tars[0]))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    monkeypatch.setattr(Ranges, "ranges", False)
    with pytest.raises(Refusal, match=r"digits-\d+\.tar: tar: gives 133,120 bytes where .* knows ranges of bytes"):
        dealt(WebDataset(config(url, index)), 1, 0, 1)
    with pytest.raises(Refusal, match=r"none\.tar: tar: cannot be read .*bring it back, or correct data\.path"):
        files.open_tar(f"{server}/none.tar")


def test_a_server_that_fails_is_asked_again_and_then_named(
    tars: tuple[str, Path],
    remote: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(files, "FIRST_PAUSE_S", 0)
    memory, failures = type(fsspec.filesystem("memory")), [4]
    cat = memory.cat_file

    def failing(self: Any, *arguments: Any, **options: Any) -> bytes:
        failures[0] -= 1
        if failures[0] >= 0:
            raise TimeoutError("slow down")
        return cat(self, *arguments, **options)

    monkeypatch.setattr(memory, "cat_file", failing)
    one = WebDataset(config(remote, tars[1])).get(torch.arange(3)).x_1
    assert torch.equal(one, WebDataset(config(*tars)).get(torch.arange(3)).x_1)
    failures[0] = 10**6
    with pytest.raises(Unreachable, match=r"digits-000\.tar: cannot be reached, 5 times .*slow down.*start again"):
        WebDataset(config(remote, tars[1])).get(torch.arange(3))
    capsys.readouterr()
    assert main(["index-tars", remote, "--out", str(tmp_path / "index")]) == 1, "not the fault of who asks"
    assert re.fullmatch(
        r"trainer index-tars: memory://.* 5 times .*; start again when it can\n", capsys.readouterr().err
    )
    assert not (tmp_path / "index").exists()


def test_bad_examples_are_named(tmp_path: Path) -> None:
    members = {number: dict(found) for number, (_, found) in enumerate(digits(0, 12))}
    members[1]["png"] = b"no picture"
    members[2]["png"] = members[2]["png"][:60]
    members[3] = {"cls": b"3", "txt": b"three"}
    members[4]["cls"] = b"-4"
    del members[5]["cls"]
    (tmp_path / "x.tar").write_bytes(tar_bytes((f"{number:02d}", found) for number, found in members.items()))
    index = indexed(str(tmp_path), tmp_path / "index")
    content = bytearray((tmp_path / "x.tar").read_bytes())
    start = int(np.load(index / "examples.npy")["start"][6])
    content[start + 130] ^= 1
    (tmp_path / "x.tar").write_bytes(content)
    dataset = WebDataset(config(str(tmp_path), index, held_out=1))
    with pytest.raises(BadExamples) as caught:
        dataset.get(torch.arange(12))
    reasons = caught.value.reasons
    assert reasons.keys() == {1, 2, 3, 4, 5, 6}
    assert all(reason.startswith(f"{tmp_path / 'x.tar'}: ") for reason in reasons.values())
    for number, words in {
        1: "01: is no picture",
        2: "02: ",
        3: "03: has no member jpg or jpeg or png or webp, only cls, txt",
        4: "04: has no class",
        5: "05: has no class",
        6: "example 6: has no header",
    }.items():
        assert words in reasons[number]
    assert Loader(dataset, global_batch=11, micro_batch=11, rank=0, world_size=1, seed=0, max_bad_share=0.9).batch(0, 0)


def test_tars_that_have_changed_end_a_run(tmp_path: Path) -> None:
    pattern = digit_tars(tmp_path / "tars", tars=2, per_tar=6)
    index = indexed(pattern, tmp_path / "index")
    resolved = config(pattern, index, held_out=2)
    assert WebDatasetConfig.model_validate(resolved.model_dump(mode="json")) == resolved
    tar = tmp_path / "tars" / "digits-001.tar"
    sound = tar.read_bytes()
    names = [(key.replace("digits", "digitS"), members) for key, members in digits(6, 12)]
    tar.write_bytes(tar_bytes(names))
    assert len(tar.read_bytes()) == len(sound)
    dataset = WebDataset(resolved)
    with pytest.raises(Refusal, match=r"digits-001\.tar: check: has other headers than the index says at example 0; "):
        dataset.get(torch.arange(12))
    tar.write_bytes(sound[:-1024])
    with pytest.raises(Refusal, match=r"digits-001\.tar: size: has [\d,]+ bytes but the index says [\d,]+; bring"):
        WebDataset(resolved)
    dataset._reader.tars.open.cache_clear()
    with pytest.raises(Refusal, match=r"digits-001\.tar: size: has"):
        dataset.get(torch.arange(12))
    tar.unlink()
    with pytest.raises(Refusal, match=r"digits-001\.tar: tar: cannot be read \(No such file"):
        WebDataset(resolved)
    with pytest.raises(Refusal, match=r"data\.path: names 1 tars, from digits-000\.tar .* but the index .* knows 2"):
        WebDataset(resolved.model_copy(update={"path": str(tmp_path / "tars")}))
    rows = np.load(index / "examples.npy")
    rows["label"][3] = 0
    np.save(index / "examples.npy", rows)
    tar.write_bytes(sound)
    with pytest.raises(Refusal, match=r"examples\.npy: examples_sha256: is not the one .*make the index with"):
        WebDataset(resolved)
    document = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**document, "num_classes": 11}))
    with pytest.raises(Refusal, match=r"data\.digest: is .* but the index says"):
        WebDataset(resolved)


def test_a_tar_is_found_again_wherever_it_lies(tars: tuple[str, Path], tmp_path: Path) -> None:
    """Moved, given as a folder, a list or a glob: the same data, and so the same run."""
    folder = Path(tars[0]).parent
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in folder.glob("*.tar"):
        (moved / path.name).write_bytes(path.read_bytes())
    listed = [str(path) for path in local_tars(tars[0])]
    expected = WebDataset(config(*tars)).get(torch.arange(60)).x_1
    for path in (
        str(moved),
        listed,
        str(moved / "*.tar"),
        f"{listed[0]}::{listed[1]}::{folder}/digits-{{002,003}}.tar",
    ):
        found = config(path, tars[1])
        assert found.digest == config(*tars).digest
        assert torch.equal(WebDataset(found).get(torch.arange(60)).x_1, expected)


def test_classes_from_json_with_names(tars: tuple[str, Path], tmp_path: Path) -> None:
    def labels(found: WebDatasetConfig) -> list[int]:
        told = WebDataset(found).get(torch.arange(120)).labels
        assert told is not None
        return told.tolist()

    plain = labels(config(*tars))
    named = config(tars[0], indexed(tars[0], tmp_path / "names", "--label", "json:name"))
    assert named.class_names == tuple(f"digit {number}" for number in range(10))
    assert labels(named) == plain
    (tmp_path / "names.txt").write_text("".join(f"digit {number}\n" for number in range(9, -1, -1)))
    backwards = indexed(
        tars[0], tmp_path / "back", "--label", "json:name", "--class-names", str(tmp_path / "names.txt")
    )
    assert [9 - label for label in labels(config(tars[0], backwards))] == plain
    numbered = config(*tars, class_names=str(tmp_path / "names.txt"))
    assert numbered.class_names[0] == "digit 9"
    none = config(tars[0], indexed(tars[0], tmp_path / "none", "--label", "none"))
    assert (none.num_classes, WebDataset(none).get(torch.arange(3)).labels) == (0, None)


def test_colours_sizes_and_middle_squares_are_those_of_image_folder(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    (tmp_path / "p" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "p" / "a" / f"{number}.png").write_bytes(encoded(pixels))
    (tmp_path / "x.tar").write_bytes(tar_bytes((f"{n}", {"seg.png": b"", "png": encoded(pixels)}) for n in range(3)))
    index = indexed(str(tmp_path / "x.tar"), tmp_path / "index", "--label", "none")
    ours = WebDataset(config(str(tmp_path / "x.tar"), index, size=7, channels=3, held_out=1, image="png"))
    section = {"kind": "image_folder", "path": str(tmp_path / "p"), "size": 7, "held_out": 1}
    folder = ImageFolder(data.ImageFolderConfig.model_validate(data.ImageFolderConfig.resolved(section)))
    assert torch.equal(ours.get(torch.arange(3)).x_1, folder.get(torch.arange(3)).x_1)


def run_file(folder: Path, section: dict[str, Any]) -> Path:
    path = folder / "run.yaml"
    optim = {"steps": 1, "global_batch": 40}
    path.write_text(json.dumps({"run": {"dir": str(folder / "run")}, "data": section, "model": {}, "optim": optim}))
    return path


def test_more_ranks_than_streams_are_told_what_they_fetch(tars: tuple[str, Path], remote: str, tmp_path: Path) -> None:
    section = {"kind": "webdataset", "path": remote, "index": str(tars[1]), "size": 8, "held_out": 10, "streams": 8}
    wanted = "data.streams: each byte is fetched up to 3 times an epoch by 20 ranks; set 20 or more"
    for changes, told in (({}, True), ({"streams": 20}, False), ({"path": tars[0]}, False)):
        config = load_config(run_file(tmp_path, {**section, **changes}))
        assert (wanted in cautions(config, plan_layout(config, 20))) == told


@each(
    ("changes", "words"),
    [
        ({"index": None}, "index: is missing; make it with: python -m trainer index-tars '{path}' --out"),
        ({"index": "nowhere"}, "cannot be read (No such file or directory); make the index with: python -m trainer"),
        ({"image": "webm"}, "image: no example has a member webm (120 have cls, json, png, txt); give one of these"),
        ({"held_out": 120}, "held_out: 120 of 120 examples leave none to train on; hold out fewer"),
        ({"class_names": "nowhere.txt"}, "class_names: nowhere.txt cannot be read"),
        ({"class_names": ["a"]}, "class_names: 1 names do not fit the 10 classes"),
    ],
)
def test_wrong_settings_are_refused(
    tars: tuple[str, Path], changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = {"kind": "webdataset", "path": tars[0], "index": str(tars[1]), "size": 8, "held_out": 10, **changes}
    section = {name: value for name, value in section.items() if value is not None}
    line = refused(capsys, "train", run_file(tmp_path, section))
    assert "data." in line or "data: " in line
    assert words.format(path=tars[0]) in line
    assert not (tmp_path / "run").exists()


def test_pax_headers_are_read_back_in_stretches(tmp_path: Path) -> None:
    long = [("k" * 150 + f"/ü{number}", members) for number, (_, members) in enumerate(digits(0, 9))]
    (tmp_path / "x.tar").write_bytes(tar_bytes(long, tarfile.PAX_FORMAT))
    dataset = WebDataset(config(str(tmp_path), indexed(str(tmp_path), tmp_path / "index"), held_out=1))
    assert [example.key for example in dataset.read(torch.arange(9))] == [key for key, _ in long]
