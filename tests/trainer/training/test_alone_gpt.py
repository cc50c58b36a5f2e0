"""One process and a language model: train, generate, what both leave and refuse."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from tests.each import each
from tests.forked import LAUNCHED
from tests.trainer.commands import GPT, contents, refused, trained
from trainer import load_config
from trainer.__main__ import main
from trainer.checkpoint.contents import division_of, identity_of
from trainer.checkpoint.manifest import Manifest, records
from trainer.config.derived import tokens_per_example
from trainer.config.rules.plan import plan_layout
from trainer.data import Batch
from trainer.model.build import parameter_shapes
from trainer.observe.metrics import read_metrics
from trainer.task import NextTokenTask, build

TINY = (
    "moe=null",
    "parallel.expert=1",
    "model.hidden=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "data.context=32",
    "data.held_out=1000",
    "data.max_bytes=20000",
    "optim.steps=4",
    "optim.warmup_steps=0",
    "evaluate.every=2",
    "checkpoint.every=3",
    "sample={every: 2, prompts: ['def ', 'é'], num_bytes: 30}",
    "trace.steps=[3, 4]",
    "observe={log_every: 1, port: 0}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("gpt") / "run", GPT, *TINY)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    records = [record.values for record in read_metrics(run / "metrics.jsonl")]
    assert records[0]["loss"] == pytest.approx(math.log(256), rel=0.02)
    assert records[-1]["loss"] < records[0]["loss"]
    evaluated = [values for values in records if "held_out_loss" in values]
    assert len(evaluated) == 2
    for values in evaluated:
        assert values["held_out_bits_per_byte"] * math.log(2) == pytest.approx(values["held_out_loss"])
    for step in (2, 4):
        texts = (run / "samples" / f"step_{step:08d}.txt").read_text(encoding="utf-8").split(f"\n{'-' * 80}\n")
        assert [text.startswith(prompt) for text, prompt in zip(texts, ("def ", "é"), strict=True)] == [True, True]
    config = load_config(run / "config.yaml")
    averages = load_file(run / "checkpoints" / "step_00000004" / "ema.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in averages.items()} == parameter_shapes(config)
    assert (run / "traces" / "collectives.jsonl").exists()
    assert tokens_per_example(config) == 32


@pytest.mark.usefixtures("alone")
def test_generate_writes_on_behind_the_prompt(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def written(name: str, *options: str) -> bytes:
        path = tmp_path / "new" / name
        assert (
            main(["generate", str(run), "--prompt", "def f(", "--num-bytes", "12", "--out", str(path), *options]) == 0
        )
        return path.read_bytes()

    first = written("first", "--temperature", "2")
    assert first.startswith(b"def f(")
    assert len(first) == 18
    assert written("again", "--temperature", "2") == first
    assert written("other", "--temperature", "2", "--seed", "1") != first
    coldest = written("cold", "--temperature", "0")
    assert written("cold", "--temperature", "0", "--seed", "1") == coldest
    capsys.readouterr()
    assert main(["generate", str(run), "--prompt", "x = ", "--num-bytes", "12"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("x = ")
    assert not [letter for letter in shown if not (letter.isprintable() or letter in "\n\t")]


@pytest.mark.usefixtures("alone")
@each(
    ("options", "problem"),
    [
        (("--prompt", ""), "--prompt: 0 bytes cannot begin a text; give 1 to 255"),
        (("--prompt", "é" * 128), "--prompt: 256 bytes "),
        (("--num-bytes", 0), "--num-bytes: 0 after a prompt of 4 "),
        (
            ("--num-bytes", 253),
            "--num-bytes: 253 after a prompt of 4 is outside the network's context of 256; use 1 to 252",
        ),
        (("--temperature", -0.5), "--temperature: -0.5 "),
        (("--temperature", "nan"), "--temperature: nan "),
        (("--temperature", "inf"), "--temperature: inf "),
    ],
)
def test_generate_refuses(
    run: Path, options: tuple[Any, ...], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "generate", run, "--out", tmp_path / "text", *options)
    assert line.startswith(problem)
    assert contents(tmp_path) == {}
    assert not torch.distributed.is_initialized()


def test_each_model_has_its_verb(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(capsys, "sample", run, "--out", tmp_path / "grid.png")
    assert line == f"run_dir: {run} holds a model of kind gpt, which draws no images; use the generate verb"
    assert f"{tmp_path}/checkpoints: checkpoint: there is no complete checkpoint" in refused(
        capsys, "generate", tmp_path
    )
    for name, value in (("RANK", 0), ("WORLD_SIZE", 3), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", 29500)):
        monkeypatch.setenv(name, str(value))
    folder = tmp_path / "run" / "checkpoints" / "step_00000004"
    folder.mkdir(parents=True)
    config = load_config(GPT)
    (folder / "config.yaml").write_text(config.to_yaml())
    division = division_of(config, plan_layout(config, 2))
    manifest = Manifest(4, 4, identity_of(config), division, records(folder, [folder / "config.yaml"]))
    manifest.write(folder)
    line = refused(capsys, "generate", tmp_path / "run")
    assert line == "ranks: 3 do not share the network as the run's 2 did; start one, or a multiple of 2"


class Bigrams:
    """Predicts from the last byte alone, by a table of logits."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self.table[tokens].transpose(1, 2), targets, reduction="none")


def test_the_loss_of_a_window_is_what_its_bytes_cost() -> None:
    windows = torch.randint(256, (3, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch(x_1=windows, labels=None, ids=torch.arange(3))
    task = NextTokenTask(load_config(GPT))
    (drawn,) = task.draw([batch], [torch.Generator()])
    uniform = task.loss(Bigrams(torch.zeros(256, 256)), drawn).per_example
    assert torch.allclose(uniform, torch.full((3,), math.log(256)))
    examined = task.examine(Bigrams(torch.zeros(256, 256)), drawn)
    assert torch.equal(examined["held_out_loss"], uniform)
    assert examined["held_out_bits_per_byte"].tolist() == pytest.approx([8, 8, 8])
    table = torch.randn(256, 256, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = [-sum(float(table[a].log_softmax(0)[b]) for a, b in pairwise(row)) / 8 for row in windows.tolist()]
    found = task.loss(Bigrams(table), drawn).per_example
    assert found.tolist() == pytest.approx(expected)
    assert isinstance(build(load_config(GPT)), NextTokenTask)
