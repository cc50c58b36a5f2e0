"""Images drawn from captions that a person writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.each import each
from tests.trainer.sampling.encoders import Words, write_encoder
from trainer.__main__ import main
from trainer.config.run import RunConfig
from trainer.sampling.sample import DrawingRequest, drawing, row_between

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


@each(
    ("words", "message"),
    [
        (["a", "red", "--num", "3"], "--between: it needs --encoder DIR beside it; give both"),
        (["a", "--encoder", "t5"], "--between: 1 captions, and a row leads from one to another; give two"),
        (["a", "red", "blue", "--encoder", "t5"], "--between: 3 captions, and a row leads from one to another"),
        (["a", "red", "--encoder", "t5", "--num", "1"], "--num: 1 image is no row from one caption to another; use 2"),
        (["a", "red", "--encoder", "t5", "--caption", "on"], "--caption: it is beside --between"),
        (["a", "red", "--encoder", "t5", "--class", "1"], "leave --class or --between out"),
    ],
)
def test_a_row_leads_from_one_caption_to_another(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(capsys, "--between", *words)


def test_a_row_needs_paths_that_begin_at_captions() -> None:
    document = {"run": {"dir": "unused"}, "model": {}, "optim": {"steps": 1, "global_batch": 8}}
    request = DrawingRequest(run_dir=Path("unused"), between=("a", "red"), encoder=Path("none"))
    with pytest.raises(ValueError, match="--between: paths of unused do not begin at captions; use a run with"):
        row_between(RunConfig.model_validate(document), 8, request)


def captions_of_digits(folder: Path, encoder: Path) -> None:
    """Writes the captions of the 8 x 8 digits and their vectors."""
    from sklearn.datasets import load_digits

    real: Any = load_digits()
    texts = [f"a handwritten {NUMBERS[number]}" for number in real.target]
    (folder / "texts.txt").write_text("\n".join(texts))
    words = ["encode-captions", folder / "texts.txt", "--encoder", encoder, "--out", folder / "captions"]
    assert main(list(map(str, words))) == 0


def test_the_ends_of_a_row_are_what_their_captions_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same noise, and every image between them differs from its neighbours."""
    encoder = tmp_path / "encoder"
    write_encoder("bert", encoder, Words())
    captions_of_digits(tmp_path, encoder)
    run = {
        "run": {"dir": str(tmp_path / "run")},
        "data": {"kind": "digits", "held_out": 97},
        "model": {"kind": "encoded_dit", "hidden": 16, "num_layers": 1, "num_heads": 2},
        "flow": {"captions": {"path": str(tmp_path / "captions")}, "coupling": {"kind": "encoded"}},
        "optim": {"steps": 3, "global_batch": 16, "lr": 1e-2},
        "sample": {"sampler": {"kind": "euler", "steps": 2}, "every": 3},
        "evaluate": {"every": 3},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0

    def drawn(**asked: Any) -> torch.Tensor:
        request = DrawingRequest(run_dir=tmp_path / "run", encoder=encoder, seed=3, **asked)
        with drawing(request) as draws:
            examples = draws.examples(1.5)
            assert examples is not None
            draws.write(examples, tmp_path / "row.png")
        return examples

    ends = ("a handwritten three", "a handwritten eight")
    row = drawn(between=ends, num=5)
    for place, caption in ((0, ends[0]), (4, ends[1])):
        torch.testing.assert_close(row[place], drawn(captions=(caption,), num=1)[0], rtol=1e-4, atol=1e-4)
    assert float((row[1:] - row[:-1]).abs().flatten(1).amax(1).min()) > 1e-3
    request = DrawingRequest(run_dir=tmp_path / "run", between=ends, encoder=encoder)
    with drawing(request) as draws:
        assert draws.conditioning.columns() == len(draws.conditioning.labels) == 8
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "x.json"), "--likelihood", "4"]
    assert main(words) == 2
    assert "starts at captions, whose density is unknown; leave it out" in capsys.readouterr().err
    write_encoder("t5", tmp_path / "other", Words())
    words = ["sample", tmp_path / "run", "--caption", "a", "--encoder", tmp_path / "other", "--out", tmp_path / "x.png"]
    assert main(list(map(str, words))) == 2
    assert "give the encoder that encode-captions was given" in capsys.readouterr().err
