"""Images drawn from captions that a person writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.trainer.sampling.encoders import Words, write_encoder
from trainer.__main__ import main
from trainer.data import write_shards

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What sample says of options that it refuses before it opens a run."""
    assert main(["sample", "runs/none", "--out", "none.png", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_options_that_do_not_go_together_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--caption: it needs --encoder DIR beside it" in complaint(capsys, "--caption", "a cat")
    assert "--encoder: it needs --caption TEXT beside it" in complaint(capsys, "--encoder", "t5")
    both = complaint(capsys, "--caption", "a cat", "--encoder", "t5", "--class", "1")
    assert "--class: a caption is drawn without a class" in both


@pytest.mark.slow
def test_what_is_drawn_is_what_the_caption_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Digits whose only condition is a caption; a classifier of the real ones tells the number of each drawn one."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    from trainer.sampling.sample import DrawingRequest, drawing

    real: Any = load_digits()
    encoder = tmp_path / "encoder"
    write_encoder("bert", encoder, Words())
    texts = [f"a handwritten {NUMBERS[number]}" for number in real.target]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    words = ["encode-captions", tmp_path / "texts.txt", "--encoder", encoder, "--out", tmp_path / "captions"]
    assert main(list(map(str, words))) == 0
    pixels = np.clip(real.images * 16, 0, 255).astype(np.uint8)[:, None]
    write_shards(tmp_path / "shards", [(pixels, None)])
    run = {
        "run": {"dir": str(tmp_path / "run")},
        "data": {"kind": "shards", "path": str(tmp_path / "shards"), "held_out": 97},
        "model": {"kind": "dit", "hidden": 64, "num_layers": 3},
        "flow": {"captions": {"path": str(tmp_path / "captions")}},
        "optim": {"steps": 500, "global_batch": 128, "lr": 2e-3},
        "evaluate": {"every": None},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    asked = tuple(f"a handwritten {number}" for number in NUMBERS)
    request = DrawingRequest(run_dir=tmp_path / "run", num=200, captions=asked, encoder=encoder, guidance=2.0)
    with drawing(request) as draws:
        examples = draws.examples(2.0)
        assert examples is not None
        draws.write(examples, tmp_path / "grid.png")
    judge = KNeighborsClassifier().fit(real.data, real.target)
    found = judge.predict(8 * (examples.clamp(-1, 1).reshape(200, 64).numpy() + 1))
    assert (found == torch.arange(200).numpy() % 10).mean() > 0.85
    capsys.readouterr()
    write_encoder("t5", tmp_path / "other", Words())
    words = ["sample", tmp_path / "run", "--caption", "a", "--encoder", tmp_path / "other", "--out", tmp_path / "x.png"]
    assert main(list(map(str, words))) == 2
    assert "give the encoder that encode-captions was given" in capsys.readouterr().err
