"""One process and a user's text: train on tokens of a tokenizer, generate, export."""

import math
from pathlib import Path

import pytest

from tests.forked import LAUNCHED
from tests.trainer.commands import GPT, refused, trained
from tests.trainer.data.texts import encoded, small_tokenizer, stories
from trainer import load_config
from trainer.__main__ import main
from trainer.config.model import GPTConfig
from trainer.data.text.tokens import TextIndex, read_tokenizer
from trainer.observe.metrics import read_metrics

STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds text/, the stories as tokens, and run/, a run on them."""
    path = tmp_path_factory.mktemp("text")
    tokenizer = small_tokenizer(path / "tokenizer.json")
    encoded(path / "text", stories(path / "stories"), tokenizer=tokenizer)
    settings = (
        "moe=null",
        "parallel.expert=1",
        "model={kind: gpt, hidden: 16, num_layers: 1, num_heads: 2, context: 64}",
        f"data={{kind: text, path: {path / 'text'}, context: 16}}",
        f"optim={{steps: {STEPS}, global_batch: 16, lr: 1.0e-2, warmup_steps: 0}}",
        f"evaluate.every={STEPS}",
        f"checkpoint.every={STEPS}",
        f"sample={{every: {STEPS}, prompts: ['Story 1', 'é'], num_tokens: 20}}",
        "trace.steps=[]",
        "observe={log_every: 1}",
    )
    trained(path / "run", GPT, *settings)
    return path


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def test_losses_are_given_in_nats_a_token_and_bits_a_byte(folder: Path) -> None:
    records = [record.values for record in read_metrics(folder / "run" / "metrics.jsonl")]
    assert records[0]["loss"] == pytest.approx(math.log(300), rel=0.02)
    assert records[-1]["loss"] < records[0]["loss"]
    last, held_out = records[-1], TextIndex.read(folder / "text").held_out
    nats_of_the_text = last["held_out_loss"] * held_out.num_tokens
    assert last["held_out_bits_per_byte"] == pytest.approx(nats_of_the_text / math.log(2) / held_out.num_bytes)
    assert last["held_out_perplexity"] == pytest.approx(math.exp(last["held_out_loss"]))
    speeds = {name: last[f"time.{name}_per_s"] for name in ("samples", "tokens")}
    assert speeds["tokens"] == pytest.approx(16 * speeds["samples"])


@pytest.mark.usefixtures("_alone")
def test_a_run_is_used_without_its_text(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "text").rename(tmp_path / "gone")
    try:
        tokenizer = read_tokenizer(tmp_path / "gone" / "tokenizer.json")
        options = ["--prompt", "Story 7: é", "--num-tokens", "12", "--temperature", "2"]
        assert main(["generate", str(folder / "run"), *options, "--out", str(tmp_path / "text")]) == 0
        text = (tmp_path / "text").read_bytes()
        assert text.startswith("Story 7: é".encode())
        model = load_config(folder / "run" / "config.yaml").model
        assert isinstance(model, GPTConfig)
        assert model.vocabulary == 300
        assert main(["export", str(folder / "run"), "--out", str(tmp_path / "exported")]) == 0
        exported = tmp_path / "exported" / "tokenizer.json"
        assert exported.read_bytes() == (tmp_path / "gone" / "tokenizer.json").read_bytes()
        assert "next token" in (tmp_path / "exported" / "README.md").read_text()
        longest = len(tokenizer.encode(b"def "))
        capsys.readouterr()
        for words, problem in (
            (("--num-bytes", 5), "--num-bytes: the run writes tokens of a tokenizer, not bytes; use --num-tokens"),
            (("--num-tokens", 64), f"--num-tokens: 64 after a prompt of {longest} is outside the network's context"),
            (("--num-tokens", 3, "--num-bytes", 3), "--num-bytes: stands beside --num-tokens"),
            (("--prompt", ""), "--prompt: 0 tokens cannot begin a text; give 1 to 63"),
            (("--prompt", "\udcff"), "--prompt: is not UTF-8, which the tokenizer reads"),
        ):
            assert refused(capsys, "generate", folder / "run", *words).startswith(problem)
    finally:
        (tmp_path / "gone").rename(folder / "text")


def test_prompts_are_continued_while_training(folder: Path) -> None:
    texts = (folder / "run" / "samples" / f"step_{STEPS:08d}.txt").read_text(encoding="utf-8")
    first, second = texts.split(f"\n{'-' * 80}\n")
    assert (first.startswith("Story 1"), second.startswith("é")) == (True, True)
