"""Methods side by side: one data set, one budget, one order of the examples; what is finished is left alone."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import contents, refused
from trainer.__main__ import main
from trainer.experiment.comparison.method import candidates, shares
from trainer.experiment.comparison.results import Comparison, Entry, Outcome, spread
from trainer.experiment.comparison.run import prepare
from trainer.experiment.comparison.training import Training
from trainer.experiment.stage.train import TrainStage
from trainer.observe.metrics import read_metrics
from trainer.training.guard import RunFailed

METHODS = ROOT / "configs" / "methods"
SCHEMA = json.loads((ROOT / "configs" / "schemas" / "compare.schema.json").read_text())
BASE: dict[str, Any] = {
    "run": {"dir": "unused", "seed": 3},
    "data": {"kind": "toy", "name": "moons", "held_out": 20},
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 1},
    "optim": {"steps": 6, "global_batch": 8},
    "evaluate": {"every": None},
}


def written(folder: Path, name: str, **sections: Any) -> Path:
    path = folder / f"{name}.yaml"
    head = f"# yaml-language-server: $schema=run.schema.json\n# The {name} method. arXiv 1234.56789.\n"
    path.write_text(head + yaml.safe_dump({**BASE, **sections}))
    return path


def plan(tmp_path: Path, *words: Any, base: Path | None = None) -> Any:
    return prepare([str(word) for word in words], base or written(tmp_path, "base"), tmp_path / "out", 1)


def test_every_method_has_the_data_the_model_and_the_budget_of_the_base(tmp_path: Path) -> None:
    found = plan(tmp_path, *sorted(METHODS.glob("*.yaml")), "optim.steps=60", "data.name=rings")
    names = {method.name for method in found.methods}
    assert {"flow_matching", "ot_cfm", "weighted_cfm", "rectified_flow", "artm", "fhtm"} <= names
    for method in found.methods:
        stages = method.stages(tmp_path / "run", seed=5)
        trained = [stage for stage in stages if isinstance(stage, TrainStage)]
        assert sum(stage.document["optim"]["steps"] for stage in trained) == 60
        for stage in trained:
            assert stage.document["optim"]["global_batch"] == 8
            assert {**BASE["model"], **stage.document["model"]} == stage.document["model"]
            assert stage.document["run"]["seed"] == 5
        assert trained[0].document["data"] == {**BASE["data"], "name": "rings"}


def test_a_method_keeps_its_flow_and_a_sampler_of_its_own(tmp_path: Path) -> None:
    coupling = {"coupling": {"kind": "minibatch_ot"}}
    plain = written(tmp_path, "plain", flow=coupling, sample={"sampler": {"kind": "dopri5"}})
    noisy = written(tmp_path, "noisy", sample={"sampler": {"kind": "euler_maruyama"}})
    base = written(tmp_path, "base", flow={"coupling": {"kind": "gibbs_weighted"}})
    times = {"kind": "euler", "times": [0, 0.3, 1]}
    searched = written(tmp_path, "searched", sample={"sampler": times})
    one, other, third = plan(tmp_path, plain, noisy, searched, base=base).methods
    assert third.document["sample"]["sampler"] == times
    assert one.document["flow"] == coupling
    assert one.document["sample"]["sampler"]["kind"] == "euler"
    assert other.document["flow"] == {}
    assert other.document["sample"]["sampler"]["kind"] == "euler_maruyama"
    assert one.about == "The plain method. arXiv 1234.56789."
    assert one.paper == "arXiv 1234.56789"


def test_what_does_not_go_with_the_base_is_left_out(tmp_path: Path) -> None:
    latent = {"kind": "shards", "path": "nowhere", "held_out": 1}
    found = plan(
        tmp_path,
        written(tmp_path, "plain"),
        written(tmp_path, "same", data={"kind": "toy", "name": "rings"}),
        written(tmp_path, "latents", data=latent),
        written(tmp_path, "told", flow={"context": {"kind": "semantic_map", "levels": 3, "block": 4}}),
        written(tmp_path, "paired", flow={"coupling": {"kind": "paired"}}),
        written(tmp_path, "taught", stages=[{"name": "pairs", "pairs": {"run": "elsewhere", "num": 8}}]),
    )
    assert [method.name for method in found.methods] == ["plain"]
    assert "the same run as plain" in found.left_out["same"]
    assert "files in nowhere" in found.left_out["latents"]
    assert "flow.context: it solves another task" in found.left_out["told"]
    assert "flow.coupling.kind: paired takes each source point from the data" in found.left_out["paired"]
    assert "stages.pairs: the budget contains no training of its teacher" in found.left_out["taught"]


def test_wrong_input_is_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = written(tmp_path, "base"), tmp_path / "out"
    (tmp_path / "other").mkdir()
    twin = written(tmp_path / "other", "base")
    broken = tmp_path / "broken.yaml"
    broken.write_text("run: [")

    def line(*words: Any) -> str:
        return refused(capsys, "compare", *words, "--base", base, "--out", out)

    assert "CONFIG: there is no method" in line("optim.steps=1")
    assert "2 files are called base" in line(base, twin)
    assert "broken.yaml: line" in line(base, broken)
    misspelt = written(tmp_path, "misspelt", flow={"couplng": {"kind": "knn"}})
    assert "misspelt.yaml: flow.couplng: is not a known key" in line(base, misspelt)
    unknown = written(tmp_path, "unknown", flow={"coupling": {"kind": "knm"}})
    assert "unknown.yaml: flow.coupling.kind: 'knm' is not one of" in line(base, unknown)
    assert "missing.yaml: file: cannot be read" in line(base, tmp_path / "missing.yaml")
    assert "optim.steps: must be greater than 0 (0); use 1 or more" in line(base, "optim.steps=0")
    assert "belongs to each method of the comparison" in line(base, "flow.data_scale=2")
    assert "cannot be set, since every run has its own folder below --out; use --out" in line(base, "run.dir=x")
    assert "no method has that stage" in line(base, "stages.reflow.pairs.num=3")
    assert "--seeds: 0 is below 1" in line(base, "--seeds", "0")
    assert "--evaluations: '0' is not a list" in line(base, "--evaluations", "0")
    assert "--evaluations: 10001 is above 10000; use 10000 or less" in line(base, "--evaluations", "10001")
    assert "--fabric-ranks: 0 is below 1" in line(base, "--fabric-ranks", "0")
    assert "--fabric-examples: 0 is below 1" in line(base, "--fabric-examples", "0")
    assert "--teraflops: 0 is not a rate" in line(base, "--teraflops", "0")
    assert "missing.yaml: file: cannot be read" in line(base, "--fabric", tmp_path / "missing.yaml")
    assert "base.yaml has no topology; give one of configs/scenarios" in line(base, "--fabric", base)
    assert "no method goes with" in line(written(tmp_path, "paired", flow={"coupling": {"kind": "paired"}}))
    gpt = ROOT / "configs" / "runs" / "gpt_moe.yaml"
    assert "model.kind: a gpt model predicts" in refused(capsys, "compare", base, "--base", gpt, "--out", out)
    assert not out.exists()


@each(("total", "weights"), [(4000, [1500, 1500, 1000]), (7, [1, 1, 1]), (3, [1, 1000, 1]), (5, [9])])
def test_shares_are_whole_and_in_proportion(total: int, weights: list[int]) -> None:
    found = shares(total, weights)
    assert sum(found) == total
    assert min(found) >= 1
    for share, weight in zip(found, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) <= len(weights)


def test_who_is_compared_of_a_method_with_stages(tmp_path: Path) -> None:
    (method,) = plan(tmp_path, METHODS / "rectified_flow.yaml").methods
    assert [one.name for one in candidates(method)] == ["rectified_flow reflow", "rectified_flow distil"]
    reflow, distil = (one.stages(tmp_path, 0) for one in candidates(method))
    assert [stage.name for stage in reflow] == ["teacher", "pairs", "reflow"], "what it learned from is counted"
    assert len(distil) == 4
    (straightened,) = candidates(plan(tmp_path, METHODS / "boss.yaml").methods[0])
    assert straightened.name == "boss"
    assert [stage.verb for stage in straightened.stages(tmp_path, 0)] == ["train", "steps", "pairs", "train"]


def entry(name: str, values: dict[int, list[float]]) -> Entry:
    def outcome(seed: int) -> Outcome:
        results = [
            {"sampler": "euler", "evaluations": number, "figures": {"wasserstein_2": found[seed]}}
            for number, found in values.items()
        ]
        return Outcome(seed, "", 1.0, 0.0, 0.001, {"results": results})

    return Entry(name, "", None, "", "", "euler", 1, 0, tuple(outcome(seed) for seed in range(2)))


def test_figures_of_a_network_are_by_evaluations_and_seed() -> None:
    found = entry("a", {10: [1.0, 3.0], 2: [5.0, 5.0]})
    assert found.quality("wasserstein_2") == {2: [5.0, 5.0], 10: [1.0, 3.0]}
    assert spread([1.0, 3.0]) == (2.0, 1.0, 3.0)


STUDENT = {
    "stages": [
        {"name": "teacher", "train": {}},
        {"name": "pairs", "pairs": {"run": "{run.dir}/teacher", "num": 20, "sampler": {"kind": "euler", "steps": 2}}},
        {
            "name": "student",
            "train": {
                "data": {"kind": "pairs", "path": "{run.dir}/pairs", "held_out": 4},
                "model": {"init_from": "{run.dir}/teacher"},
                "flow": {"coupling": {"kind": "paired"}},
            },
        },
    ]
}


def compare(folder: Path, *words: str, names: tuple[str, ...] = ("plain", "reflowed")) -> int:
    paths = [str(folder / f"{name}.yaml") for name in names]
    options = ["--seeds", "1", "--evaluations", "1,2", "--num", "40", "--out", str(folder / "out")]
    return main(["compare", *paths, *words, "--base", str(folder / "plain.yaml"), *options])


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two methods, one of which has a teacher."""
    folder = tmp_path_factory.mktemp("compared")
    written(folder, "plain", checkpoint={"every": 3})
    written(folder, "reflowed", **STUDENT)
    assert compare(folder) == 0
    return folder


@pytest.mark.slow
def test_the_page_and_the_figures_hold_every_method(compared: Path) -> None:
    found = json.loads((compared / "out" / "compare.json").read_text())
    jsonschema.validate(found, SCHEMA)
    assert [one["name"] for one in found["entries"]] == ["plain", "reflowed"]
    assert [one["steps"] for one in found["entries"]] == [6, 6], "the stages share the budget"
    assert [one["pairs"] for one in found["entries"]] == [0, 20]
    assert found["budget"] == {"steps": 6, "global_batch": 8, "examples": 48}
    for one in found["entries"]:
        results = [
            result for result in one["outcomes"][0]["evaluation"]["results"] if result["sampler"] == one["sampler"]
        ]
        assert [cost["calls"] for cost in one["costs"]] == [result["calls"] for result in results]
        assert [cost["multiply_adds"] for cost in one["costs"]] == [result["multiply_adds"] for result in results]
        assert {cost["sent_bytes"] for cost in one["costs"]} == {0}, "no experts"
    page = (compared / "out" / "index.html").read_text()
    for text in ("plain", "reflowed", "The plain method.", "two sets of real samples", "paths, 2 evaluations"):
        assert text in page
    links = ("http://www.w3.org", "http://purl.org", "http://creativecommons.org")
    for link in links:
        page = page.replace(link, "")
    assert "http" not in page, "the page asks for something from a network"


@pytest.mark.slow
def test_what_is_written_is_read_back_and_stands_in_the_report(compared: Path, tmp_path: Path) -> None:
    out = compared / "out"
    document = json.loads((out / "compare.json").read_text())
    assert json.loads(json.dumps(Comparison.read(out / "compare.json").to_dict())) == document
    page = tmp_path / "report" / "index.html"
    run = out / "plain" / "seed_3"
    assert main(["report", str(run), "--comparison", str(out), "--out", str(page)]) == 0
    link = re.search(r'<a href="([^"]+)"', page.read_text())
    assert link is not None
    assert (page.parent / link[1]).resolve() == (out / "index.html").resolve()


@each(
    ("text", "problem"),
    [
        ("[", "cannot be read (it is not JSON)"),
        ("{}", "format: is not flowfabric.comparison/2 (None)"),
        ('{"format": "flowfabric.comparison/1"}', "document: is incomplete"),
        ('{"format": "flowfabric.comparison/2"}', "document: is incomplete"),
    ],
)
def test_what_is_no_comparison_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(Refusal, match=re.escape(problem)):
        Comparison.read(tmp_path / "compare.json")


@pytest.mark.slow
def test_figures_are_those_of_evaluate(compared: Path) -> None:
    def timeless(evaluation: dict[str, Any]) -> dict[str, Any]:
        return {**evaluation, "results": [{**one, "seconds_per_sample": 0.0} for one in evaluation["results"]]}

    for one in json.loads((compared / "out" / "compare.json").read_text())["entries"]:
        (outcome,) = one["outcomes"]
        out, data = compared / "evaluation.json", compared / "out" / "plain" / "seed_3"
        options = ["--evaluations", "1,2", "--num", "40", "--seed", "3", "--data-from", str(data), "--out", str(out)]
        assert main(["evaluate", outcome["run_dir"], *options]) == 0
        assert timeless(json.loads(out.read_text())) == timeless(outcome["evaluation"])


@pytest.mark.slow
def test_every_method_begins_alike_and_sees_the_same_examples(compared: Path) -> None:
    runs = [compared / "out" / "plain" / "seed_3", compared / "out" / "reflowed" / "seed_3" / "teacher"]
    first, second = (read_metrics(run / "metrics.jsonl")[0] for run in runs)
    assert (first.step, first.values["loss"]) == (second.step, second.values["loss"])
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
    for section in ("data", "model", "engine", "sample"):
        assert configs[0][section] == configs[1][section]


@pytest.mark.slow
def test_what_is_finished_is_left_alone_and_what_was_cut_off_goes_on(compared: Path) -> None:
    def kept() -> dict[str, bytes | None]:
        found = contents(compared / "out")
        return {name: found[name] for name in found if name not in ("compare.json", "index.html")}

    before = kept()
    assert compare(compared) == 0
    assert kept() == before
    run = compared / "out" / "plain" / "seed_3"
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    assert compare(compared) == 0
    after, weights = kept(), "plain/seed_3/checkpoints/step_00000006/ema.safetensors"
    assert {name for name in before if name.startswith("reflowed") and after[name] != before[name]} == set()
    assert after[weights] == before[weights]
    plain = compared / "plain.yaml"
    plain.write_text(plain.read_text().replace("The plain method.", "The plain method. In other words."))
    assert compare(compared) == 0, "what is said of a method is no setting"
    assert {name for name, text in kept().items() if after[name] != text} == {"plain/method.yaml"}


@pytest.mark.slow
def test_a_folder_of_another_comparison_is_refused(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(compared / "out")
    plain = compared / "plain.yaml"
    line = refused(capsys, "compare", plain, "optim.lr=0.5", "--base", plain, "--out", compared / "out")
    assert re.search(
        r"plain/method\.yaml: \S+: was .* when its runs were trained, and is .* now; give another --out", line
    )
    assert contents(compared / "out") == before


@pytest.mark.slow
def test_a_method_that_fails_is_told_of_and_the_others_are_compared(
    compared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RunFailed("it broke")

    monkeypatch.setattr(Training, "run", fail)
    written(compared, "failing", flow={"coupling": {"kind": "minibatch_ot"}})
    assert compare(compared, names=("plain", "reflowed", "failing")) == 1
    assert "it broke" in capsys.readouterr().err
    assert json.loads((compared / "out" / "compare.json").read_text())["left_out"] == {"failing": "it broke"}
    assert "it broke" in (compared / "out" / "index.html").read_text()
