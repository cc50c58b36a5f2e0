"""The command line: help, wrong words, wrong configurations; exit code 2, one line, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import DIGITS, contents, refused
from trainer.__main__ import VERBS, main
from trainer.distributed.groups import Launch


@each("verb", [verb.name for verb in VERBS])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    example = text.partition("example:\n")[2].strip()
    assert f"-m trainer {verb} " in example
    assert "\n" not in example, "the example can be copied as it stands"


def test_the_help_of_all_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert {verb.name for verb in VERBS} <= set(text.split())
    assert "Exit codes" in text


@each(
    ("arguments", "problem"),
    [
        (["train"], "config"),
        (["check", DIGITS, "--world-size", "two"], "--world-size"),
        (["check", DIGITS, "--world"], "expected one argument"),
        (["sample", "runs/x"], "--out"),
        (["sample", "runs/x", "--out", "x.png", "--num", "1.5"], "--num"),
        (["evaluate", "runs/x"], "--out"),
        (["generate"], "run_dir"),
        (["generate", "runs/x", "--num-bytes", "many"], "--num-bytes"),
        (["generate", "runs/x", "--temperature", "warm"], "--temperature"),
        (["trace", DIGITS, "--out", "x"], "--world-size"),
        (["trace", DIGITS, "--world-size", "2", "--out", "x", "--gap-ns", "1", "--times", "t"], "not allowed with"),
        (["report"], "run_dir"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *arguments)
    assert problem in line
    assert line.endswith(f"; see python -m trainer {arguments[0]} --help")


@each("arguments", [[], ["dance"], ["check", DIGITS, "--fast"], ["report", "a", "b", "--out", "c"]])
def test_words_that_mean_nothing_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("trainer: ")
    assert error.count("\n") == 1
    assert "--help" in error


def test_options_and_overrides_come_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["optim.steps=5", "--all", "--world-size", "2", "model.hidden=32", "run.seed=3"]
    assert main(["check", DIGITS, *words]) == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in ("steps: 5\n", "hidden: 32\n", "seed: 3\n"))


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", DIGITS, "optim.steps=0", "--debug"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.splitlines()[-1].startswith(f"trainer check: {DIGITS}: optim.steps: ")


@each("verb", ["check", "train", "trace"])
@each(("override", "field"), [("optim.stepz=1", "optim.stepz"), ("optim.global_batch=127", "optim.global_batch")])
def test_a_wrong_configuration_is_refused_by_every_verb(
    verb: str, override: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "check": ["--world-size", 2],
        "train": [f"run.dir={tmp_path / 'run'}"],
        "trace": ["--world-size", 2, "--out", tmp_path / "trace.jsonl"],
    }
    alone = ["parallel.expert=1", "optim.micro_batch=4"] if verb == "train" else []
    line = refused(capsys, verb, DIGITS, *alone, override, *options[verb])
    assert line.startswith(f"{DIGITS}: {field}: ")
    assert "; " in line
    assert contents(tmp_path) == {}


def test_only_the_first_rank_of_a_node_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("trainer.__main__.PATIENCE_S", 0.0)
    assert main(["train", DIGITS, "optim.stepz=1"]) == 2
    assert main(["train"]) == 2
    output = capsys.readouterr()
    assert output.err == output.out == ""


def test_ranks_that_cannot_find_each_other_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "environment: WORLD_SIZE is 2" in refused(capsys, "train", DIGITS)
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert "environment: WORLD_SIZE is not a whole number of 1 or more (two)" in refused(capsys, "train", DIGITS)
    monkeypatch.delenv("WORLD_SIZE")
    assert Launch.from_environment() == Launch(0, 0, 1, 1)


@each(
    ("options", "field"),
    [
        (("--world-size", 0), "--world-size"),
        (("--world-size", -2), "--world-size"),
        (("--world-size", 2, "--ranks-per-node", 0), "--ranks-per-node"),
        (("--world-size", 2, "--gap-ns", -1), "--gap-ns"),
        (("--world-size", 2, "--times", "none.jsonl"), "none.jsonl: file"),
        (("--world-size", 2, "--times", DIGITS), DIGITS),
        (("--world-size", 2, "moe=null", "parallel.expert=1", "parallel.tensor=3"), f"{DIGITS}: parallel.tensor"),
    ],
)
def test_trace_refuses(
    options: tuple[object, ...], field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "trace", DIGITS, *options, "--out", tmp_path / "trace.jsonl")
    assert line.startswith(f"{field}: ")
    assert "; " in line
    assert contents(tmp_path) == {}


def test_check_counts_ranks_from_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "check", DIGITS, "--world-size", 0).startswith("--world-size: 0 ")


@pytest.mark.slow  # torchrun and two ranks import torch; test_only_the_first_rank_of_a_node_speaks has the rule
def test_torchrun_shows_the_line_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*command, "-m", "trainer", "train", DIGITS, "optim.global_batch=127", f"run.dir={tmp_path / 'run'}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count(f"trainer train: {DIGITS}: optim.global_batch: 127 is not a multiple") == 1
    assert str(ROOT / "trainer") not in result.stderr, "the only traceback is torchrun's own"
    assert contents(tmp_path) == {}


def test_check_is_one_screen_and_ends_with_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["moe=null", "parallel.expert=1", "run.dir=runs/a b"]
    assert main(["check", DIGITS, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert lines[-1] == f"next: python -m trainer train {DIGITS} moe=null parallel.expert=1 'run.dir=runs/a b'"
    (export,) = [line for line in lines if line.startswith("export --to ")]
    assert export == (
        "export --to diffusers: model.waves: plain is nothing that a DiTTransformer2DModel has; train with "
        "model.waves=diffusers, or export without --to"
    )
    assert main(["check", DIGITS, *words, "model.waves=diffusers"]) == 0
    assert "export --to diffusers: possible" in capsys.readouterr().out
