"""The steps verb on small runs, and the verbs and settings that take its file."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import refused, trained
from tests.trainer.untrained import save_untrained
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.config.rules.cautions import of_stale_grids
from trainer.config.rules.plan import plan_layout
from trainer.data.shard.index import INDEX
from trainer.flow import sampler
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.pairs_request import PairsRequest
from trainer.sampling.trained import opened

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "steps.schema.json").read_text())
GOLDEN = ROOT / "tests" / "files" / "steps.json"
TOY = str(ROOT / "configs" / "runs" / "toy.yaml")
TINY = ("optim.steps=2", "optim.global_batch=9", "model.hidden=16", "sample.every=null", "evaluate.every=null")
CLASSES = ("data.classes=true", "model.label_dropout=0.1", "sample.guidance=1.5")
FEW = ("--evaluations", "2,4", "--num", "12", "--fresh", "20", "--nodes", "12")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_untrained(load_config(Path(TOY), [*TINY, *CLASSES, f"run.dir={folder}"]), 2)
    return folder


@pytest.fixture(scope="module")
def grids(run: Path) -> Path:
    out = run.parent / "steps.json"
    assert main(["steps", str(run), *FEW, "--out", str(out), "--page", str(run.parent / "steps.html")]) == 0
    return out


@pytest.fixture(scope="module")
def unguided(run: Path) -> Path:
    out = run.parent / "unguided.json"
    assert main(["steps", str(run), *FEW, "--guidance", "1", "--out", str(out)]) == 0
    return out


def changed(file: Path, out: Path, **changes: Any) -> Path:
    out.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return out


def test_the_golden_file_is_read_and_meets_the_schema() -> None:
    jsonschema.validate(json.loads(GOLDEN.read_text()), SCHEMA)
    assert set(StepsFile.read(GOLDEN).grids) == {2, 4}


def test_the_file_says_what_was_searched_and_the_page_shows_it(run: Path, grids: Path, tmp_path: Path) -> None:
    document = json.loads(grids.read_text())
    jsonschema.validate(document, SCHEMA)
    file = StepsFile.read(grids)
    assert (file.sampler, file.segments, file.guidance) == ("euler", 1, 1.5)
    assert set(file.grids) == {2, 4}
    for evaluations, times in file.grids.items():
        assert len(times) == evaluations + 1
        assert np.allclose(np.multiply(times, 12) % 1, 0)
        assert file.figures["grids"][str(evaluations)]["endpoint"]["times"] == list(times)
    assert file.made_by.items() >= {"search": "endpoint", "nodes": 12, "num": 12, "seed": 0}.items()
    page = (run.parent / "steps.html").read_text()
    assert page.count("<svg") == 4
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    again = tmp_path / "again.json"
    assert main(["steps", str(run), *FEW, "--out", str(again)]) == 0
    assert again.read_bytes() == grids.read_bytes()


def test_a_chord_search_needs_no_descent(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    assert main(["steps", str(run), *FEW, "--search", "chord", "--out", str(out)]) == 0
    file = StepsFile.read(out)
    assert file.made_by["search"] == "chord"
    assert set(file.figures["grids"]["4"]) == {"uniform", "chord"}
    jsonschema.validate(json.loads(out.read_text()), SCHEMA)


def test_samples_are_drawn_on_the_grid(run: Path, grids: Path, unguided: Path, tmp_path: Path) -> None:
    def drawn(*more: str) -> bytes:
        out = tmp_path / "drawn.png"
        assert main(["sample", str(run), "--num", "8", "--out", str(out), *more]) == 0
        return out.read_bytes()

    by_most = drawn("--steps", str(grids))
    assert drawn("--steps", str(grids), "--evaluations", "4") == by_most
    assert drawn("--steps", str(grids), "--evaluations", "2") != by_most
    with opened(run) as flow:
        labels = flow.conditioning(8, seed=0).condition
        config = sampler.Euler(steps=4, times=unguided)
        found = flow.follow(labels, torch.arange(8), config, guidance=1.0, seed=0)
    assert found.times.tolist() == pytest.approx(StepsFile.read(unguided).grids[4])
    assert found.calls == {"network": 4}


@pytest.mark.slow
def test_a_third_kind_of_rows_is_measured(run: Path, unguided: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    words = ["--evaluations", "3", "--num", "40", "--steps", str(unguided), "--page", str(tmp_path / "page.html")]
    assert main(["evaluate", str(run), *words, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    jsonschema.validate(found, json.loads((ROOT / "configs" / "schemas" / "evaluation.schema.json").read_text()))
    rows = [(one["sampler"], one["evaluations"]) for one in found["results"]]
    assert rows == [
        *(("heun", number) for number in (2, 4)),
        *(("euler", number) for number in (2, 3, 4)),
        *(("euler, searched", number) for number in (2, 4)),
    ]
    by_row = dict(zip(rows, (one["figures"] for one in found["results"]), strict=True))
    assert by_row["euler", 4] != by_row["euler, searched", 4]
    assert "class_accuracy" not in by_row["euler, searched", 4], "it is drawn with guidance, and the grid is for none"


def test_pairs_are_drawn_on_the_grid_and_remember_its_times(run: Path, unguided: Path, tmp_path: Path) -> None:
    own = changed(unguided, tmp_path / "steps.json")
    words = ["pairs", str(run), "--num-pairs", "8", "--sampler", f"{{kind: euler, steps: 4, times: {own}}}"]
    assert main([*words, "--out", str(tmp_path / "pairs")]) == 0
    times = json.loads((tmp_path / "pairs" / INDEX).read_text())["made_by"]["times"]
    assert times == pytest.approx(StepsFile.read(own).grids[4])
    arrays = load_file(tmp_path / "pairs" / "shard_00000.safetensors")
    with opened(run) as flow:
        config = sampler.Euler(times=tuple(times))
        condition = flow.conditioning(8, seed=0).condition
        found = flow.follow(condition, torch.arange(8), config, guidance=1.0, seed=0, split="train")
    assert np.allclose(arrays["x_1"], found.final.numpy(), atol=1e-6)
    request = PairsRequest.model_validate(
        {"run": run, "num": 8, "sampler": {"kind": "euler", "steps": 4, "times": own}}
    )
    before = request.what_decides("weights", None)
    changed(own, own, grids={"4": [0, 0.2, 0.3, 0.4, 1]})
    assert request.what_decides("weights", None) != before


def test_a_file_of_other_samples_is_refused(
    run: Path, grids: Path, unguided: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    sample, evaluate = ("sample", run, "--num", "8", *out), ("evaluate", run, *out)
    assert "guidance: is 1, and the samples are drawn with 1.5" in refused(capsys, *sample, "--steps", unguided)
    assert "guidance: is 1.5, and the samples are drawn with 1" in refused(capsys, *evaluate, "--steps", grids)
    assert "--quality: it also draws without guidance" in refused(
        capsys, *sample, "--steps", grids, "--quality", tmp_path / "q.json"
    )
    others = changed(unguided, tmp_path / "others.json", made_by={"run": "runs/other", "weights": "0" * 64})
    said = refused(capsys, *evaluate, "--steps", others)
    assert "made_by: names the weights 000000000000 of runs/other" in said
    heun = changed(grids, tmp_path / "heun.json", sampler="heun")
    assert "sampler: is heun" in refused(capsys, *sample, "--steps", heun)
    segments = changed(grids, tmp_path / "segments.json", segments=2)
    assert "segments: is 2" in refused(capsys, *sample, "--steps", segments)
    assert "has none for 3 evaluations; use one of 2, 4" in refused(
        capsys, *sample, "--steps", grids, "--evaluations", "3"
    )
    assert "--evaluations: 0 is below 1" in refused(capsys, *sample, "--steps", grids, "--evaluations", "0")
    assert "give --steps FILE.json too" in refused(capsys, *sample, "--evaluations", "4")
    assert "cannot be read" in refused(capsys, *sample, "--steps", tmp_path / "missing.json")
    pairs = ("pairs", run, "--num-pairs", "8", "--sampler", f"{{kind: euler, steps: 4, times: {others}}}", *out)
    assert "made_by: names the weights" in refused(capsys, *pairs)


@each(
    ("words", "said"),
    [
        (("--evaluations", "2,13"), "evaluations: 13 exceed the 12 nodes"),
        (("--evaluations", "0"), "--evaluations"),
        (("--num", "0"), "--num: "),
        (("--fresh", "1"), "--fresh: "),
        (("--nodes", "0"), "--nodes: "),
        (("--guidance", "-1"), "--guidance: "),
        (("--seed", "-1"), "--seed: "),
        (("--search", "best"), "--search"),
    ],
)
def test_wrong_requests_are_refused(
    words: tuple[str, ...], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "steps", run, *FEW, *words, "--out", tmp_path / "steps.json")
    assert not (tmp_path / "steps.json").exists()


def test_a_run_takes_the_file_for_its_own_samples(grids: Path, tmp_path: Path) -> None:
    own = f"sample.sampler={{kind: euler, steps: 4, times: {grids}}}"
    folder = trained(tmp_path / "run", TOY, *TINY, *CLASSES, "sample.every=2", own)
    assert list(folder.rglob("*.png"))
    config = load_config(folder / "config.yaml")
    assert "was searched for the weights that" in str([*of_stale_grids(config)])
    assert not any(of_stale_grids(load_config(Path(TOY))))


def test_a_file_that_a_run_cannot_use_is_refused_before_it_trains(
    grids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for settings, said in (
        (("sample.sampler={kind: euler, steps: 4, times: none.json}",), "none.json: file: cannot be read"),
        ((f"sample.sampler={{kind: euler, steps: 3, times: {grids}}}",), "has none for 3 evaluations"),
        ((f"sample.sampler={{kind: euler, steps: 4, times: {grids}}}", "sample.guidance=2"), "guidance: is 1.5"),
    ):
        words = ["train", TOY, *TINY, *CLASSES, f"run.dir={tmp_path / 'run'}", *settings]
        assert said in refused(capsys, *words)
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_segments_that_do_not_divide_are_refused_and_edges_are_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blockwise = (
        "model={kind: blockwise_mlp, segments: 3, hidden: 16}",
        "sample.sampler={kind: segmented, segments: 3, within: {kind: euler, steps: 1}}",
    )
    run = trained(tmp_path / "run", TOY, *TINY, *blockwise)
    out = ("--out", tmp_path / "steps.json")
    assert "not a multiple of the 3 segments" in refused(capsys, "steps", run, *FEW, *out)
    assert "nodes: 10 is not a multiple of the 3 segments of the run's sampler; use 12" in refused(
        capsys, "steps", run, "--evaluations", "3", "--nodes", "10", *out
    )
    assert main(["steps", str(run), *FEW, "--evaluations", "3,6", "--out", str(tmp_path / "steps.json")]) == 0
    file = StepsFile.read(tmp_path / "steps.json")
    assert file.segments == 3
    for times in file.grids.values():
        assert all(min(abs(time - edge) for time in times) < 1e-9 for edge in (1 / 3, 2 / 3))
    assert file.grids[3] == pytest.approx((0, 1 / 3, 2 / 3, 1))
    sample = ("sample", run, "--num", "8", "--steps", tmp_path / "steps.json", "--out", tmp_path / "drawn.png")
    assert main([str(word) for word in sample]) == 0
    assert "4 does not divide among 3 segments; use 3" in refused(capsys, *sample, "--evaluations", "4")
    config = load_config(run / "config.yaml")
    plan_layout(config, 1)
