"""What train and sample refuse before anything is joined or written: ports, folders, checkpoints, weights."""

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.each import each, rows
from tests.forked import command
from tests.trainer.commands import ALONE, DIGITS, contents, refused, trained
from trainer import load_config
from trainer.__main__ import main
from trainer.checkpoint.contents import division_of, identity_of
from trainer.checkpoint.directory import complete_steps, prune, step_folder
from trainer.checkpoint.manifest import Manifest, records
from trainer.config.rules.plan import plan_layout
from trainer.distributed import run_folder
from trainer.experiment.stage import description
from trainer.model.build import parameter_shapes


def test_a_port_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(capsys, "train", DIGITS, *ALONE, f"run.dir={tmp_path / 'run'}", f"observe.port={port}")
    assert f"observe.port: cannot serve metrics on 127.0.0.1:{port}" in line
    assert "choose another port" in line
    assert contents(tmp_path) == {}


def test_a_run_folder_in_use_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE_S", 0.2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with locked(tmp_path):
        before = contents(tmp_path)
        code = main(["train", DIGITS, *ALONE, f"run.dir={tmp_path}", f"observe.port={free}"])
        assert contents(tmp_path) == before
    assert code == 2
    waiting, line = (line.removeprefix("trainer train: ") for line in capsys.readouterr().err.splitlines())
    assert waiting == f"{tmp_path}: in use; waits up to 0.2 s for an earlier start to end"
    assert line.startswith(f"{tmp_path}: run.dir: is in use by another run; ")
    with socket.socket() as again:
        again.bind(("127.0.0.1", free))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield
    os.close(handle)


def test_a_file_in_place_of_the_run_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    before = contents(tmp_path)
    for verb, folder in product(("train", "check"), ("run", "run/inner")):
        line = refused(capsys, verb, DIGITS, *ALONE, f"run.dir={tmp_path / folder}")
        assert line.startswith(f"{tmp_path / folder}: run.dir: cannot be written (")
        assert line.endswith("); choose another folder")
    assert contents(tmp_path) == before


def test_malformed_metrics_of_an_earlier_start_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    (tmp_path / "config.yaml").write_text("mine")
    (tmp_path / ".lock").touch()
    before = contents(tmp_path)
    line = refused(capsys, "train", DIGITS, *ALONE, f"run.dir={tmp_path}")
    assert line.startswith(f"{tmp_path / 'metrics.jsonl'}: line 1: step: ")
    assert contents(tmp_path) == before


def checkpoint(
    run_dir: Path, step: int = 10, files: Mapping[str, bytes] = MappingProxyType({}), **changes: Any
) -> Path:
    """A complete checkpoint of the digits run on one rank, as far as its marker tells, but for what is changed."""
    config = load_config(DIGITS, ALONE)
    folder = step_folder(run_dir / "checkpoints", step)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    identity, division = {**identity_of(config), **changes}, division_of(config, plan_layout(config, 1))
    Manifest(step, step, identity, division, records(folder, [folder / name for name in files])).write(folder)
    return folder


def test_never_resume_refuses_a_folder_with_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path)
    before = contents(tmp_path)
    line = refused(capsys, "train", DIGITS, *ALONE, f"run.dir={tmp_path}", "run.resume=never")
    assert line.startswith(f"{DIGITS}: run.dir: {tmp_path} already holds checkpoints; ")
    assert contents(tmp_path) == before


OTHER_RUNS = """
- | engine.precision | is None but this run has fp32
engine.precision=bf16 | engine.precision | is fp32 but this run has bf16
model.hidden=128 | model.hidden | is 64 but this run has 128
moe.num_experts=16 | moe.num_experts | is 8 but this run has 16
moe=null | moe.num_experts | is 8 but this run has 0
data.size=16 | data.size | is 8 but this run has 16
flow.path={kind: trigonometric} | flow.path
| is {'kind': 'linear', 'sigma_min': 0.0} but this run has {'kind': 'trigonometric'}
flow.coupling={kind: knn} | flow.coupling | is {'kind': 'independent'} but this run has {'kind': 'knn', 'k': 4}
"""


@each(("override", "field", "values"), rows(OTHER_RUNS))
def test_the_checkpoint_of_another_run_is_refused(
    override: str, field: str, values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = () if override == "-" else (override,)
    changes: dict[str, Any] = {} if overrides else {field: None}
    folder = checkpoint(tmp_path, **changes)
    before = contents(tmp_path)
    line = refused(capsys, "train", DIGITS, *ALONE, f"run.dir={tmp_path}", *overrides)
    assert line == f"{folder / 'COMPLETE'}: {field}: {values}; continue with the former, or give another run.dir"
    assert contents(tmp_path) == before
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("verb", "damage"), [("check", b"whole"), ("check", b"hol"), ("train", b"hol")])
def test_a_run_whose_only_checkpoint_is_damaged_is_refused(
    verb: str, damage: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint(tmp_path, files={"state": b"whose"})
    (folder / "state").write_bytes(damage)
    before = contents(tmp_path)
    problem = (
        "checksum: does not match what was saved" if len(damage) == 5 else "length: is 3 bytes and was saved with 5"
    )
    assert refused(capsys, verb, DIGITS, *ALONE, f"run.dir={tmp_path}") == (
        f"{folder.parent}: checkpoints: none of 1 is undamaged (the newest: {folder}/state: {problem}); "
        f"restore one from a copy; or remove {folder.parent} to start anew, or give a new run.dir"
    )
    assert contents(tmp_path) == before


def test_what_check_did_not_read_the_ranks_refuse(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, files={"state": b"whose"})
    (folder / "state").write_bytes(b"whole")
    result = command("train", DIGITS, *ALONE, f"run.dir={tmp_path}")
    assert result.returncode == 2
    line = (
        f"trainer train: {folder.parent}: checkpoints: none of 1 is undamaged (the newest: {folder}/state: checksum: "
    )
    assert result.stderr.startswith(line), result.stderr
    assert result.stderr.count("\n") == 1
    assert (folder / "state").read_bytes() == b"whole"


def test_check_says_what_it_did_not_read_and_what_will_be_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path, 10, {"state": bytes(60_000_000), "small": b"whose"})
    newest = checkpoint(tmp_path, 20, {"state": b"whose"})
    arguments = ["check", DIGITS, *ALONE, f"run.dir={tmp_path}"]
    assert main(arguments) == 0
    assert "finished at step 20; nothing to do; every file of the checkpoint is as it was" in capsys.readouterr().out
    arguments.append("optim.steps=21")
    assert main(arguments) == 0
    assert "resumes after step 20; every file of the checkpoint is as it was written" in capsys.readouterr().out
    (newest / "state").write_bytes(b"whole")
    monkeypatch.setattr(description, "READ_BYTES", 1_000)
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "resumes after step 10; 0.1 GB of the checkpoint were not read" in said.out
    assert said.err.startswith(f"will be skipped: {newest}/state: checksum: ")
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_a_finished_run_says_so_and_is_left_as_it_is(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", DIGITS, *ALONE)
    before = contents(run)
    again = command("train", DIGITS, *ALONE, f"run.dir={run}")
    assert again.returncode == 0
    assert again.stderr == f"{run}: finished at step 1; nothing to do\n"
    assert contents(run) == before


def test_copies_under_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    for step in (10, 20, 30, 123456789):
        checkpoint(tmp_path, step)
    step_folder(root, 5).mkdir()
    kept = step_folder(root, 20).rename(root / "step_00000020_good")
    (root / "step_notes").write_text("mine")
    assert complete_steps(root) == [10, 30, 123456789]
    prune(root, 2, 123456789)
    assert complete_steps(root) == [30, 123456789]
    assert {path.name for path in root.iterdir()} == {"step_00000030", "step_123456789", kept.name, "step_notes"}


@each("case", ["missing", "a folder", "no safetensors", "truncated", "other names", "other shapes"])
def test_weights_that_do_not_fit_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ema.safetensors"
    shapes = parameter_shapes(load_config(DIGITS))
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    last = list(shapes)[-1]
    field = "weights"
    match case:
        case "a folder":
            path.mkdir()
        case "no safetensors":
            path.write_bytes(b"weights")
        case "truncated":
            save_file(tensors, path)
            path.write_bytes(path.read_bytes()[:-4])
        case "other names":
            save_file({name: tensor for name, tensor in tensors.items() if name != last}, path)
            field = last
        case "other shapes":
            save_file({**tensors, last: torch.zeros(3)}, path)
            field = last
    before = contents(tmp_path)
    for verb in ("train", "check") if case == "other shapes" else ("train",):
        line = refused(capsys, verb, DIGITS, *ALONE, f"run.dir={tmp_path / 'run'}", f"model.init_from={path}")
        assert line.startswith(f"{path}: {field}: ")
        assert "ema.safetensors of a run with the same model" in line
    assert contents(tmp_path) == before


@each(
    ("options", "problem"),
    [
        (("--num", 0), "--num: 0 is below 1; use 1 or more"),
        (("--num", -10), "--num: -10 "),
        (("--guidance", -1), "--guidance: -1.0 "),
        (("--guidance", "nan"), "--guidance: nan "),
        (("--guidance", "inf"), "--guidance: inf "),
        ((), "ema.safetensors: weights: cannot be read"),
    ],
)
def test_sample_refuses(
    options: tuple[object, ...], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint(tmp_path / "run") / "config.yaml").write_text(load_config(DIGITS).to_yaml())
    before = contents(tmp_path)
    line = refused(capsys, "sample", tmp_path / "run", "--out", tmp_path / "grid.png", *options)
    assert problem in line
    assert contents(tmp_path) == before
    assert not torch.distributed.is_initialized()


def test_sample_needs_a_complete_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint(tmp_path) / "COMPLETE").unlink()
    line = refused(capsys, "sample", tmp_path, "--out", tmp_path / "grid.png")
    assert line.startswith(f"{tmp_path / 'checkpoints'}: checkpoint: there is no complete checkpoint; ")
    line = refused(capsys, "sample", tmp_path / "none", "--out", tmp_path / "grid.png")
    assert line.startswith(f"{tmp_path / 'none'}: run_dir: does not exist; ")
    checkpoint(tmp_path, 20)
    line = refused(capsys, "sample", tmp_path, "--out", tmp_path / "grid.png")
    assert line.startswith(f"{step_folder(tmp_path / 'checkpoints', 20) / 'config.yaml'}: file: cannot be read")
