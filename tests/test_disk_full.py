"""A full disk ends a command with 1 and one line that names the file, whoever writes and however it says so."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from moe.__main__ import main as moe
from moe.collective_trace import TraceHeader, rank_path, write_lines
from moe.placement.placement import Placement
from netsim.__main__ import main as netsim
from netsim.foundation.files import replacing
from netsim.foundation.refusal import DiskFull
from netsim.simulation.results import replacing as netsim_replacing
from tests.forked import ROOT
from tests.multinode.namespaces import obstacle
from trainer.checkpoint.storage import write_tensors
from trainer.data import write_shards
from trainer.distributed.process.debug import dump_failure
from trainer.distributed.run_folder import locked
from trainer.observe.dashboards import TensorBoard
from trainer.observe.metrics import MetricsFile, read_metrics, truncate_after
from trainer.sampling.results_folder import ResultsFolder
from trainer.trace import merge as merging

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=f"mounts a small file system: {obstacle()}")
MUCH = torch.zeros(50_000)
SCENARIO = """
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 2}
workload: {kind: collective, op: all_to_all, bytes_per_rank: 16KB}
transports: [ecmp]
seeds: [0]
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leaves no byte free; empty files can still be made."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def metrics(folder: Path) -> None:
    sink = MetricsFile(folder / "metrics.jsonl")
    try:
        for step in range(1, 10_000):
            sink.write(step, {"loss": 1 / step})
    finally:
        sink.close()  # says nothing more


def tensorboard(folder: Path) -> None:
    sink = TensorBoard(folder, last_step=0)
    try:
        for step in range(1, 10_000):
            sink.write(step, {"loss": 1 / step})
    finally:
        sink.close()


def numbers(folder: Path) -> None:
    with replacing(folder / "numbers.npy") as temporary, temporary.open("wb") as file:
        np.save(file, MUCH.numpy())


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "metrics": (metrics, "metrics.jsonl"),
    "numpy": (numbers, "numbers.npy"),
    "state": (lambda folder: write_tensors(folder / "state", {"a": (50_000,)}, [MUCH], {}), "state"),
    "results": (lambda folder: ResultsFolder(folder, {}).write("a", {"x": MUCH}), "arrays/a.safetensors"),
    "shards": (
        lambda folder: write_shards(folder, [(MUCH.numpy().reshape(50, 1000), None)]),
        "shard_00000.safetensors",
    ),
    "placement": (
        lambda folder: Placement.contiguous(500, 64, 8, 1).write(folder / "placement.json"),
        "placement.json",
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_names_its_file(name: str, disk: Path) -> None:
    write, file = WRITERS[name]
    with pytest.raises(DiskFull) as raised:
        write(disk)
    line = str(raised.value)
    assert line.startswith(f"{disk / file}")
    assert line.endswith(
        ": cannot be written (No space left on device); make space there and give the same command again"
    )
    assert "\n" not in line
    assert raised.value.__context__ is raised.value.__cause__, "nothing else went wrong on the way out"
    assert not list(disk.rglob("*.partial"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_names_its_folder(disk: Path) -> None:
    with pytest.raises(DiskFull, match=f"{disk}: cannot be written"):
        tensorboard(disk)


def test_what_metrics_hold_when_the_disk_is_full_can_be_read(disk: Path) -> None:
    with pytest.raises(DiskFull):
        metrics(disk)
    path = disk / "metrics.jsonl"
    whole = path.read_bytes().count(b"\n")
    assert whole > 100
    path.write_bytes(path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
    assert [record.step for record in read_metrics(path)] == list(range(1, whole + 1))


def test_a_failure_on_a_full_disk_is_not_hidden_by_its_own_record(disk: Path) -> None:
    fill(disk)
    dump_failure(disk, 0, 1, RuntimeError("the first error"))
    with locked(disk):
        pass  # an empty file has its space


def test_cutting_back_leaves_the_metrics_as_they_were(disk: Path) -> None:
    sink = MetricsFile(disk / "metrics.jsonl")
    for step in range(1, 300):
        sink.write(step, {"loss": 1 / step})
    sink.close()
    before = (disk / "metrics.jsonl").read_bytes()
    fill(disk)
    with pytest.raises(DiskFull, match=r"metrics\.jsonl"):
        truncate_after(disk / "metrics.jsonl", 290)
    assert (disk / "metrics.jsonl").read_bytes() == before


def test_the_process_that_merges_traces_says_so_to_the_run(
    disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header = TraceHeader("recorded", 1, 1, {}, (1,), "0" * 64, "2.0", "host")
    write_lines(rank_path(disk, 0), header, [])
    fill(disk)
    merging.main([str(disk)])
    said = capsys.readouterr().out
    monkeypatch.setattr(merging, "killed_with_parent", lambda _: [sys.executable, "-c", f"print({said!r})"])
    with pytest.raises(DiskFull, match=rf"{disk / 'collectives.jsonl'}: cannot be written"):
        merging.Merging(disk, routing=False).finish(stopped=False)


def test_netsim_names_the_file(disk: Path) -> None:
    with pytest.raises(DiskFull, match=rf"{disk / 'links.csv'}: cannot be written \(No space left"):  # noqa: SIM117
        with netsim_replacing(disk / "links.csv") as file:
            file.write("x" * 100_000)
    assert not list(disk.iterdir())


def test_moe_ends_with_1_and_one_line(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk)
    trace, out = ROOT / "tests" / "files" / "routing.npz", disk / "placement.json"
    page = out.with_suffix(".html")  # written first
    placed = [
        "place",
        str(trace),
        "--nodes",
        "2",
        "--ranks-per-node",
        "2",
        "--solver",
        "packing",
        "--objective",
        "home",
    ]
    assert moe([*placed, "--out", str(out)]) == 1
    line = f"moe place: {page}: cannot be written (No space left on device); make space there and give the same command"
    assert capsys.readouterr().err == f"{line} again\n"


def test_netsim_ends_with_1_and_one_line(disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    assert netsim(["compare", str(tmp_path / "scenario.yaml"), "engine=simpy", "--out", str(disk / "out")]) == 1
    *_, error = capsys.readouterr().err.splitlines()  # before it, perhaps that an engine is compiled
    assert error.startswith(f"netsim compare: {disk / 'out'}")
    assert "cannot be written (No space left on device)" in error


@pytest.mark.slow
def test_a_run_ends_with_1_and_one_line(disk: Path) -> None:
    fill(disk)
    words = [
        "train",
        str(ROOT / "configs" / "runs" / "digits_moe.yaml"),
        "parallel.expert=1",
        f"run.dir={disk / 'run'}",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "trainer", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"trainer train: {disk / 'run'}/")
    assert "cannot be written (No space left on device)" in ended.stderr.splitlines()[-1]
