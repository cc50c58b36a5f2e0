"""The part of the report about drawing in few calls: searched times, and what a drawing sends."""

import json
import shutil
from pathlib import Path

import pytest

from tests.trainer.commands import ALONE, DIGITS, refused, trained
from trainer.__main__ import main

pytestmark = pytest.mark.usefixtures("blank_pictures")

SMALL = ("model={kind: dit, hidden: 16, num_layers: 1, num_heads: 2}", "moe.num_experts=4", "optim.global_batch=16")
RUN = (*SMALL, *ALONE, "checkpoint.every=1", "evaluate.every=null", "optim.warmup_steps=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with grids, and the collectives of a drawing on two ranks by formula."""
    folder = trained(tmp_path_factory.mktemp("runs") / "run", DIGITS, *RUN)
    searched = ["--evaluations", "2,4", "--nodes", "12", "--num", "4", "--fresh", "4", "--out", folder / "steps.json"]
    assert main(["steps", str(folder), *map(str, searched)]) == 0
    (folder / "drawing").mkdir()
    for name, steps in (("formula.jsonl", 4), ("collectives.jsonl", 4)):
        sampling = ["--sampling", f"{{kind: euler, steps: {steps}}}", "--examples", "2", "--guidance", "1"]
        launch = ["--world-size", "2", "--ranks-per-node", "1"]
        out = ["--out", str(folder / "drawing" / name)]
        assert main(["trace", str(folder / "config.yaml"), "parallel.expert=2", *launch, *sampling, *out]) == 0
    return folder


def of_the_run(run: Path, drawing: Path) -> None:
    """Gives traces of two ranks the hash of the run's own configuration, which has one."""
    from trainer.config.file import load_config

    digest = load_config(run / "config.yaml").digest
    for path in drawing.iterdir():
        first, rest = path.read_text().split("\n", 1)
        path.write_text(json.dumps({**json.loads(first), "config_sha256": digest}) + "\n" + rest)


def test_the_page_shows_searched_times_and_the_bytes_of_a_drawing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = shutil.copytree(run / "drawing", tmp_path / "drawing")
    of_the_run(run, drawing)
    out = tmp_path / "index.html"
    assert (
        main(["report", str(run), "--steps", str(run / "steps.json"), "--drawing", str(drawing), "--out", str(out)])
        == 0
    )
    page, printed = out.read_text(), " ".join(capsys.readouterr().out.split())
    figures = json.loads((run / "steps.json").read_text())["figures"]["grids"]["4"]
    share = figures["endpoint"]["error"] / figures["uniform"]["error"]
    assert f"{share:.2f} x that of equal steps" in printed
    assert f"{share:.2f} x" in page
    assert "drawing, bytes between ranks" in printed
    assert "<td>4</td>" in page or ">4<" in page


def test_grids_of_other_weights_and_drawings_of_other_runs_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index.html"
    document = json.loads((run / "steps.json").read_text())
    document["made_by"]["weights"] = "0" * 64
    (tmp_path / "steps.json").write_text(json.dumps(document))
    assert "made_by" in refused(capsys, "report", run, "--steps", tmp_path / "steps.json", "--out", out)
    del document["figures"]["grids"], document["made_by"]["weights"]
    (tmp_path / "steps.json").write_text(json.dumps(document))
    assert "figures: is incomplete ('grids')" in refused(
        capsys, "report", run, "--steps", tmp_path / "steps.json", "--out", out
    )
    assert "config_sha256" in refused(capsys, "report", run, "--drawing", run / "drawing", "--out", out)
    assert not out.exists()
