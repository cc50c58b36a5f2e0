"""The page about a run, its placement and its continuation."""

import json
import shutil
from pathlib import Path

import pytest

from moe.__main__ import main as moe
from moe.placement.placement import Placement
from trainer.__main__ import main

FILES = Path(__file__).parents[3] / "files"


def run_dir(folder: Path, losses: dict[int, float]) -> Path:
    (folder / "traces").mkdir(parents=True)
    shutil.copy(FILES / "routing.npz", folder / "traces" / "routing.npz")
    lines = [
        json.dumps({"step": step, "loss": loss, "lr": 1e-3, "held_out_loss": 2 * loss})
        for step, loss in sorted(losses.items())
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def placement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "placement.json"
    nodes = Placement.read(FILES / "placement.json").num_ranks
    arguments = [str(FILES / "routing.npz"), "--nodes", str(nodes), "--ranks-per-node", "1", "--out", str(path)]
    assert moe(["place", *arguments]) == 0
    capsys.readouterr()
    return path


def test_everything_stands_on_one_page(placement: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run_dir(tmp_path / "plain", {1: 0.5, 2: 0.25, 3: 0.125})
    placed = run_dir(tmp_path / "placed", {2: 0.25, 3: 0.25})
    quality = tmp_path / "quality.json"
    quality.write_text(json.dumps({"class_accuracy": 0.975, "frechet_distance_unguided": 1.25}))
    out = tmp_path / "page" / "index.html"
    arguments = ["--quality", quality, "--placement", placement, "--placed-run", placed, "--out", out]
    assert main(["report", str(plain), *map(str, arguments)]) == 0
    page, printed = out.read_text(), capsys.readouterr().out
    assert page.count("<svg") >= 4
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ), "the page asks for something from a network"
    for figure in ("97.5%", "largest difference of 2 losses is 0.1", "context-coherent dispatch", "0.2500"):
        assert figure in page, figure
    assert "largest difference 0.1 over 2 steps" in " ".join(printed.split())
    assert str(out) in printed


def test_a_language_model_shows_its_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_dir(tmp_path / "run", {1: 2.0})
    record = {"step": 2, "loss": 1.0, "lr": 1e-3, "held_out_loss": 0.7, "held_out_bits_per_byte": 1.0123}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "samples").mkdir()
    (folder / "samples" / "step_00000002.txt").write_text("def <b>(self):\n    return")
    assert main(["report", str(folder), "--out", str(tmp_path / "index.html")]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "<pre>def &lt;b&gt;(self):\n    return</pre>" in page
    assert "1.01" in page
    assert "1.012" in capsys.readouterr().out


def test_data_without_classes_has_distances_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, quality = run_dir(tmp_path / "run", {1: 0.5}), tmp_path / "quality.json"
    quality.write_text(json.dumps({"frechet_distance_unguided": 0.0123}))
    assert main(["report", str(folder), "--quality", str(quality), "--out", str(tmp_path / "index.html")]) == 0
    assert "0.012" in capsys.readouterr().out
    assert "class asked for" not in (tmp_path / "index.html").read_text()


def test_a_continuation_without_common_steps_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, other = run_dir(tmp_path / "plain", {1: 0.5}), run_dir(tmp_path / "other", {2: 0.5})
    arguments = [str(plain), "--placed-run", str(other), "--out", str(tmp_path / "index.html")]
    assert main(["report", *arguments]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "metrics.jsonl: step: shares none with" in line
    assert not (tmp_path / "index.html").exists()
