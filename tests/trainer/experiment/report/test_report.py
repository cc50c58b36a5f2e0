"""The page about a run, its placement and its continuation."""

import json
import shutil
from pathlib import Path

import pytest

from moe.__main__ import main as moe
from moe.placement.placement import Placement
from tests.trainer.commands import refused
from trainer.__main__ import main

pytestmark = pytest.mark.usefixtures("blank_pictures")

FILES = Path(__file__).parents[3] / "files"


def run_dir(folder: Path, losses: dict[int, float], *, own_from: int = 0, **figures: float) -> Path:
    """A folder as a run leaves it; from step `own_from` on its clock is its own."""
    (folder / "traces").mkdir(parents=True)
    shutil.copy(FILES / "routing.npz", folder / "traces" / "routing.npz")
    records = []
    for step, loss in sorted(losses.items()):
        clock = {"step_s": 0.1 if step < own_from else 0.1 + len(folder.name) / 100}
        records.append({"step": step, "loss": loss, "lr": 1e-3, "held_out_loss": 2 * loss, "time": clock, **figures})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def placement(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("placement") / "placement.json"
    nodes = Placement.read(FILES / "placement.json").num_ranks
    arguments = [str(FILES / "routing.npz"), "--nodes", str(nodes), "--ranks-per-node", "1"]
    assert moe(["place", *arguments, "--objective", "coherent", "--out", str(path)]) == 0
    return path


def test_everything_stands_on_one_page(placement: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run_dir(tmp_path / "plain", {1: 0.5, 2: 0.25, 3: 0.125}, own_from=2)
    placed = run_dir(tmp_path / "placed", {2: 0.25, 3: 0.25}, own_from=2)
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


def test_what_is_in_the_folder_of_the_run_is_found(
    placement: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_dir(tmp_path / "run", {1: 0.5, 2: 0.25})
    shutil.copy(placement, run / "placement.json")
    (run / "quality.json").write_text(json.dumps({"class_accuracy": 0.975, "frechet_distance_unguided": 1.25}))
    assert main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    given = ["--quality", run / "quality.json", "--placement", run / "placement.json", "--out", tmp_path / "given.html"]
    assert main(["report", str(run), *map(str, given)]) == 0
    assert (run / "report.html").read_bytes() == (tmp_path / "given.html").read_bytes()


def test_what_is_there_of_another_run_is_named_and_left_out(
    placement: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_dir(tmp_path / "run", {1: 0.5})
    shutil.copy(placement, run / "placement.json")
    for name, file in {"price": "price.json", "edited": "results.json"}.items():
        (run / name).mkdir()
        (run / name / file).write_text("{}")
    assert main(["report", str(run)]) == 0
    assert [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()] == ["left out"] * 2
    assert "context-coherent" in (run / "report.html").read_text()
    assert main(["report", str(run), "--price", str(run / "price")]) == 2, "what is given has to fit"


def test_a_shared_history_does_not_count_as_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten steps were taken once and copied, two were taken twice: by clock and loss alike these are two, not twelve."""
    losses = {step: 1 / step for step in range(1, 13)}
    plain = run_dir(tmp_path / "plain", losses, own_from=11)
    placed = run_dir(tmp_path / "placed", losses | {12: 1.0}, own_from=11)
    arguments = ["--placed-run", str(placed), "--out", str(tmp_path / "index.html")]
    assert main(["report", str(plain), *arguments]) == 0
    assert "largest difference 0.9 over 2 steps" in " ".join(capsys.readouterr().out.split())
    assert "igration" not in (tmp_path / "index.html").read_text()


def test_what_was_not_taken_apart_is_no_continuation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run_dir(tmp_path / "plain", {1: 0.5, 2: 0.4}, own_from=3)
    for name, losses, problem in (
        ("copy", {1: 0.5, 2: 0.4}, "none was taken apart from"),
        ("other", {3: 0.5}, "shares none with"),
    ):
        other = run_dir(tmp_path / name, losses, own_from=3)
        line = refused(capsys, "report", plain, "--placed-run", other, "--out", tmp_path / "index.html")
        assert f"metrics.jsonl: step: {problem}" in line
    assert not (tmp_path / "index.html").exists()


def test_one_truth_about_the_placement(placement: Path, tmp_path: Path) -> None:
    """For copies the share of choices stays about a half while copies become fewer: it is not on the page."""
    run = run_dir(tmp_path / "run", {1: 0.5})
    copies = tmp_path / "copies.json"
    shape = ["--nodes", str(Placement.read(placement).num_ranks), "--ranks-per-node", "1", "--objective", "copies"]
    assert moe(["place", str(FILES / "routing.npz"), *shape, "--out", str(copies)]) == 0
    assert main(["report", str(run), "--placement", str(copies), "--out", str(tmp_path / "index.html")]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "by affinity" not in page
    assert page.count("moves of a token between ranks in place of") == 2, "on top and in its section, in the same words"
    assert "Affinity between consecutive layers" not in page


def test_migrations_of_the_run_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_dir(tmp_path / "run", {1: 0.5})
    states = {10: (0, 0, 0.5), 20: (1, 5, 0.5), 30: (1, 5, 0.4), 40: (2, 8, 0.3)}
    records = [
        {
            "step": step,
            "loss": 1.0,
            "migration_version": version,
            "migration_moved_experts": moved,
            "migration_regret": 0.125,
            "crossnode_token_fraction": share,
        }
        for step, (version, moved, share) in states.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert main(["report", str(folder), "--out", str(tmp_path / "index.html")]) == 0
    page, printed = (tmp_path / "index.html").read_text(), " ".join(capsys.readouterr().out.split())
    assert "8 experts in 2 moves, placement version 2" in printed
    assert "<td>10 and 20</td><td>5</td><td>1</td><td>12.5%</td>" in page
    assert "<td>30 and 40</td><td>3</td><td>2</td><td>12.5%</td>" in page
    assert "crosses nodes went from 50.0% to 30.0%" in page


def test_a_language_model_shows_its_texts_and_data_without_classes_distances_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, quality = run_dir(tmp_path / "run", {1: 2.0}), tmp_path / "quality.json"
    quality.write_text(json.dumps({"frechet_distance_unguided": 0.0123}))
    record = {"step": 2, "loss": 1.0, "lr": 1e-3, "held_out_loss": 0.7, "held_out_bits_per_byte": 1.0123}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "samples").mkdir()
    (folder / "samples" / "step_00000002.txt").write_text("def <b>(self):\n    return")
    assert main(["report", str(folder), "--quality", str(quality), "--out", str(tmp_path / "index.html")]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "<pre>def &lt;b&gt;(self):\n    return</pre>" in page
    assert "1.01" in page
    assert "requested class" not in page.lower()
    printed = capsys.readouterr().out
    assert "1.012" in printed
    assert "0.012" in printed
