"""Captions: a vector for each example, read by a dit, left out by guidance; wrong folders and texts are refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainer.data
from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.sampling.encoders import Words, write_encoder
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import ShardsConfig
from trainer.data.derived import CaptionsConfig, CaptionsIndex
from trainer.flow import Condition
from trainer.model.build import build_model
from trainer.sampling.encoding import captions_of, in_order_of
from trainer.sampling.flow import FlowParts
from trainer.task.flow import FlowTask

NUM, WIDTH = 1797, 6
DIGITS: dict[str, Any] = {
    "run": {"dir": "runs/unused"},
    "data": {"kind": "digits", "held_out": 97},
    "model": {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2, "label_dropout": 0.5},
    "optim": {"steps": 2, "global_batch": 8},
}


def written(folder: Path, num: int = NUM) -> np.ndarray:
    """Captions of examples: any vectors."""
    folder.mkdir()
    vectors = np.random.default_rng(0).normal(size=(num, WIDTH)).astype(np.float16)
    np.save(folder / "captions.npy", vectors)
    (folder / "captions.jsonl").write_text("".join(f'"caption {row}"\n' for row in range(num)))
    statistics: dict[str, Any] = {"shift": (0.0,) * WIDTH, "scale": (1.0,) * WIDTH}
    CaptionsIndex(num_captions=num, width=WIDTH, encoder="0" * 16, texts="1" * 16, **statistics).write(folder)
    return vectors


def captioned(folder: Path, **model: Any) -> RunConfig:
    document = {**DIGITS, "model": {**DIGITS["model"], **model}, "flow": {"captions": resolved(folder)}}
    return RunConfig.model_validate(document)


def resolved(folder: Path) -> dict[str, Any]:
    return CaptionsConfig.resolved({"path": folder})


def test_each_example_has_its_own_vector(tmp_path: Path) -> None:
    vectors = written(tmp_path / "captions")
    config = captioned(tmp_path / "captions")
    assert config.flow is not None
    dataset = trainer.data.build(config.data, captions=config.flow.captions)
    ids = dataset.indices("train")[[5, 0, 5]]
    batch = dataset.get(ids)
    assert batch.captions is not None
    assert np.array_equal(batch.captions.numpy(), vectors[ids.numpy()].astype(np.float32))
    assert torch.equal(batch.x_1, trainer.data.build(config.data).get(ids).x_1)


def test_the_caption_steers_and_none_is_a_caption_of_zeros(tmp_path: Path) -> None:
    written(tmp_path / "captions")
    config = captioned(tmp_path / "captions")
    torch.manual_seed(0)
    model = build_model(config, plan_layout(config, 1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    x, t, label = torch.randn(4, 1, 8, 8), torch.rand(4), torch.arange(4)
    one, other = torch.randn(2, 4, WIDTH)
    asked = model(x, t, Condition(label, caption=one))
    assert not torch.allclose(asked, model(x, t, Condition(label, caption=other)), atol=1e-3)
    unasked = model(x, t, Condition(label))
    assert torch.equal(unasked, model(x, t, Condition(label, caption=torch.zeros_like(one))))
    nothing = model(x, t, Condition(torch.full_like(label, 10)))
    field = FlowParts(config).field(model, Condition(label, caption=one), 2.0)
    torch.testing.assert_close(field(x, t), nothing + 2 * (asked - nothing))


def test_half_of_the_captions_are_hidden_with_their_labels(tmp_path: Path) -> None:
    written(tmp_path / "captions")
    config = captioned(tmp_path / "captions")
    assert config.flow is not None
    dataset = trainer.data.build(config.data, captions=config.flow.captions)
    batch = dataset.get(dataset.indices("train")[:400])
    drawn = FlowTask(config).draw([batch], [torch.Generator().manual_seed(0)])[0].condition
    assert drawn.caption is not None
    assert drawn.label is not None
    hidden = drawn.label == 10
    assert 150 < int(hidden.sum()) < 250
    assert torch.equal(drawn.caption == 0, hidden[:, None].expand(-1, WIDTH))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"kind": "mlp"}, "data": {"kind": "toy"}}, "model.kind mlp does not read captions; use dit"),
        ({"flow": {"captions": {"path": "nowhere"}}}, "captions.path: nowhere/index.json: index: cannot be read"),
        (
            {"flow": {"captions": {"path": "captions", "width": 5}}},
            r"flow\.captions\.width: 5 is not that of the vectors, 6; leave it out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "captions", 3000)
    monkeypatch.chdir(tmp_path)
    document = {**DIGITS, "flow": {"captions": {"path": str(tmp_path / "captions")}}, **change}
    (tmp_path / "run.yaml").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=words):
        plan_layout(load_config(tmp_path / "run.yaml"), 1)


def test_captions_that_are_too_few_or_others_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "few", NUM - 1)
    data = DIGITS["data"]
    config = captioned(tmp_path / "few")
    assert config.flow is not None
    assert config.flow.captions is not None
    with pytest.raises(Refusal, match=f"num_captions: is {NUM - 1} for {NUM} examples; give each"):
        trainer.data.build(config.data, captions=config.flow.captions)
    changed = config.flow.captions.model_copy(update={"digest": "f" * 16})
    with pytest.raises(Refusal, match=r"but the run has f{16}; bring the captions of the run back"):
        trainer.data.build(config.data, captions=changed)
    (tmp_path / "few" / "captions.npy").write_bytes(b"x" * 100)
    with pytest.raises(Refusal, match=r"captions\.npy: captions: cannot be read"):
        trainer.data.build(config.data, captions=config.flow.captions)
    assert data["kind"] == "digits"


def test_texts_come_from_lines_or_from_beside_pictures(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a cat\na dog\n")
    (tmp_path / "lines.jsonl").write_text('"a cat"\n{"text": " a dog "}\n')
    assert captions_of(tmp_path / "lines.txt", "text") == ["a cat", "a dog"]
    assert captions_of(tmp_path / "lines.jsonl", "text") == ["a cat", "a dog"]
    for name in ("dogs/b", "cats/a", "cats/c"):
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.with_suffix(".txt").write_text(f"{name}\n")
    assert captions_of(tmp_path / "pictures", "text") == ["cats/a", "cats/c", "dogs/b"]


def test_captions_follow_the_order_that_the_shards_verb_drew(tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", data=np.arange(20.0, dtype=np.float32)[:, None])
    command = ["shards", tmp_path / "points.npz", "--no-labels", "--shard-examples", "8", "--out", tmp_path / "shards"]
    assert main(list(map(str, command))) == 0
    dataset = trainer.data.build(ShardsConfig.model_validate(ShardsConfig.resolved(shards_of(tmp_path / "shards"))))
    texts = in_order_of(tmp_path / "shards", [f"number {number}" for number in range(20)])
    found = dataset.get(torch.arange(20)).x_1[:, 0].tolist()
    assert texts == [f"number {int(value)}" for value in found]
    assert texts != sorted(texts, key=lambda text: int(text[7:])), "the verb shuffles"
    with pytest.raises(Refusal, match=r"names example .* of the source, and there are 5 captions"):
        in_order_of(tmp_path / "shards", texts[:5])


def shards_of(folder: Path) -> dict[str, Any]:
    return {"kind": "shards", "path": folder, "held_out": 5}


@each(
    ("name", "content", "words"),
    [
        ("a.txt", "a cat\n\n", r"line 2: contains no caption \(''\)"),
        ("a.jsonl", "{", "line 1: is not JSON"),
        ("a.jsonl", '{"text": "a"}\n', r"line 1, caption: is missing \(it has text\); give --field"),
        ("a.jsonl", "3\n", "line 1: contains no caption"),
        ("a.txt", "", "captions: there are none"),
        ("a.txt", None, "cannot be read"),
    ],
)
def test_wrong_texts_are_one_line(
    name: str, content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    command = ["encode-captions", tmp_path / name, "--encoder", tmp_path / "none", "--out", tmp_path / "out"]
    assert main(list(map(str, command))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line), line
    assert not (tmp_path / "out").exists()


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a cat\n")
    command = ["encode-captions", tmp_path / "a.txt", "--encoder", tmp_path, "--out", tmp_path / "out"]
    assert main(list(map(str, command))) == 2
    assert "config.json: is missing; give a folder that save_pretrained wrote" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "t5", "clip"])
def test_vectors_are_those_of_the_package(kind: str, tmp_path: Path) -> None:
    words = Words()
    model = write_encoder(kind, tmp_path / "encoder", words)
    texts = ["a red square", "a blue circle on a red square", "circle"]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    command = ["encode-captions", tmp_path / "texts.txt", "--encoder", tmp_path / "encoder", "--out", tmp_path / "out"]
    assert main(list(map(str, command))) == 0
    index = CaptionsIndex.model_validate_json((tmp_path / "out" / "index.json").read_text())
    found = np.load(tmp_path / "out" / "captions.npy").astype(np.float64)
    for row, text in enumerate(texts):
        output = model(input_ids=torch.tensor([words.ids(text, kind)]))
        vector = output.pooler_output[0] if kind == "clip" else output.last_hidden_state[0].mean(0)
        expected = (vector.detach().double().numpy() - index.shift) / index.scale
        np.testing.assert_allclose(found[row], expected, rtol=2e-3, atol=2e-3)
