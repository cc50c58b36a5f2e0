"""Classes of a user's in a run: they train the same bits as the built-in parts that they copy, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.benchmarks.methods.plain_loop import PlainNetwork, follow, train
from tests.each import each, rows
from tests.forked import command
from tests.trainer import own_parts
from tests.trainer.commands import refused
from tests.trainer.own_parts import BUILT_IN, OWN
from tests.trainer.runs import timeless
from trainer import load_config
from trainer.__main__ import main
from trainer.checkpoint.contents import identity_of
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch, build
from trainer.experiment.forecast.unknown import without_formula
from trainer.experiment.stage.reading import stages_of
from trainer.experiment.stage.train import TrainStage
from trainer.flow import sampler
from trainer.task import FlowTask

MODULE = own_parts.__name__


def document(parts: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A run configuration of these parts, with some of them changed."""
    parts = {**parts, **changes}
    flow = {name: part for name, part in parts.items() if name not in ("data", "sampler")}
    return {
        "run": {"dir": "unused"},
        "data": parts["data"],
        "model": {"kind": "mlp", "hidden": 16, "num_layers": 2},
        "flow": flow,
        "optim": {"steps": 4, "global_batch": 32},
        "evaluate": {"every": 2},
        "checkpoint": {"every": 2},
        "sample": {"sampler": parts["sampler"]},
    }


def trained(parts: dict[str, dict[str, Any]], **changes: Any) -> tuple[list[Tensor], Tensor]:
    """The weights after three steps in a plain loop, and samples of them."""
    config = RunConfig.model_validate(document(parts, **changes))
    plan_layout(config, 1)
    task, data = FlowTask(config), build(config.data)

    def examples(num: int, generator: torch.Generator) -> Batch:
        ids = data.indices("train")
        return data.get(ids[torch.randint(len(ids), (num,), generator=generator)])

    network = PlainNetwork(2, hidden=16, layers=2, seed=3)
    train(task, examples, network, steps=3, batch=16, lr=1e-2, seed=5)
    noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    drawn = follow(task, network, noise, config=config.sample.sampler)  # pyright: ignore[reportAttributeAccessIssue]
    return list(network.parameters()), drawn.final


@each("part", OWN)
def test_a_copy_of_a_part_trains_the_same_bits(part: str) -> None:
    weights, samples = trained(BUILT_IN)
    own_weights, own_samples = trained(BUILT_IN, **{part: OWN[part]})
    assert all(torch.equal(one, other) for one, other in zip(weights, own_weights, strict=True))
    assert torch.equal(samples, own_samples)


@each("part", OWN)
def test_a_class_of_a_user_s_is_part_of_the_identity_of_a_run(part: str) -> None:
    own = RunConfig.model_validate(document(BUILT_IN, **{part: OWN[part]}))
    written = yaml.safe_load(own.to_yaml())
    again = RunConfig.model_validate(written)
    assert again == own
    assert again.to_yaml() == own.to_yaml()
    section = written["data"] if part == "data" else written["sample"] if part == "sampler" else written["flow"]
    assert (section if part == "data" else section[part])["class"] == OWN[part]["class"]
    same = identity_of(own) == identity_of(RunConfig.model_validate(document(BUILT_IN)))
    assert same == (part == "sampler")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs of two steps, resumed for two more: of built-in parts and of a user's."""
    folder = tmp_path_factory.mktemp("own_parts")
    found = {}
    for name, parts in (("built_in", BUILT_IN), ("own", OWN)):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document(parts)))
        found[name] = folder / name
        for steps in (2, 4):
            result = command("train", str(path), f"run.dir={folder / name}", f"optim.steps={steps}")
            assert result.returncode == 0, result.stderr
    return found


def test_a_run_of_own_parts_alone_is_the_run_of_built_in_ones(runs: dict[str, Path]) -> None:
    records = {name: dict(timeless(folder / "metrics.jsonl")) for name, folder in runs.items()}
    assert records["own"][4]["loss"] == records["built_in"][4]["loss"]
    assert records["own"][4]["held_out_loss"] == records["built_in"][4]["held_out_loss"]
    assert records["own"][4]["effective_share"] == records["built_in"][4]["effective_share"]


def test_samples_and_figures_of_a_run_of_own_parts(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 100)
    found = {}
    for name, folder in runs.items():
        figures, page = tmp_path / f"{name}.json", tmp_path / f"{name}.html"
        options = ("--num", "32", "--evaluations", "4,6", "--out", str(figures), "--page", str(page))
        assert main(["evaluate", str(folder), "--trust-code", *options]) == 0
        document = json.loads(figures.read_text())
        measured = [(one["evaluations"], one["figures"]) for one in document["results"]]
        found[name] = measured, document["paths"]
        assert (f"{MODULE}:Rings" in page.read_text()) == (name == "own")
    assert found["own"] == found["built_in"]
    assert main(["sample", str(runs["own"]), "--trust-code", "--num", "16", "--out", str(tmp_path / "points.png")]) == 0


def test_a_run_folder_of_own_parts_is_checked(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(runs["own"] / "config.yaml"), "--all"]) == 0
    said = capsys.readouterr().out
    assert f"class: {MODULE}:Weighted" in said
    assert "finished at step 4; nothing to do" in said
    line = refused(capsys, "check", runs["own"] / "config.yaml", "flow.coupling.epsilon=2.0")
    assert "flow.coupling" in line


def test_own_samplers_take_a_number_of_evaluations() -> None:
    config = RunConfig.model_validate(document(OWN)).sample.sampler  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(config, sampler.OwnSampler)
    assert config.grid().tolist() == torch.linspace(0, 1, 7).tolist()
    changed = config.with_evaluations(8)
    assert changed is not None
    assert len(changed.grid()) == 5
    assert config.with_evaluations(7) is None


@each(
    ("part", "named"),
    [
        ({"coupling": {"class": f"{MODULE}:Silent"}}, f"flow.coupling.class: {MODULE}:Silent may gather points"),
        ({"objective": OWN["objective"]}, f"flow.objective.class: {MODULE}:Squared may ask the network more than once"),
        ({"coupling": OWN["coupling"]}, None),
        ({"path": OWN["path"], "time": OWN["time"], "target": OWN["target"], "data": OWN["data"]}, None),
    ],
)
def test_no_formula_is_given_for_what_only_the_author_knows(part: dict[str, Any], named: str | None) -> None:
    reason = without_formula(RunConfig.model_validate(document(BUILT_IN, **part)))
    assert (reason is None) if named is None else (reason is not None and reason.startswith(named))


WRONG = """
flow.coupling={class: 'OWN:Empty'} | flow.coupling.class: Empty lacks the method draw of trainer.flow.coupling.Coupling;
flow.time={class: 'OWN:Straight', rest: 0.1}
| flow.time.class: Straight.sample cannot be called as trainer.flow.time.TimeSampler.sample is (
flow.path={class: 'OWN:Inner'} | flow.path.class: Inner.sample cannot be called as trainer.flow.path.Path.sample is (
flow.target={class: 'OWN:Empty'} | flow.target.class: Empty lacks the method
flow.objective={class: 'OWN:Empty'}
| flow.objective.class: Empty lacks the method loss of trainer.flow.objective.Objective; write
sample.sampler={class: 'OWN:Empty'}
| sample.sampler.class: Empty lacks the method sample of trainer.flow.sampler.Sampler; write it as the
data={class: 'OWN:Empty'} | data.class: Empty lacks the method indices of trainer.data.Dataset; write
flow.source={class: 'OWN:Empty'} | flow.source.class: Empty lacks the method indices of trainer.data.Dataset; write
data={class: 'OWN:Unshaped'} | data.class: the settings of OWN:Unshaped have as shape None, not a shape such as (2,)
flow.coupling.class=mine:Mine
| flow.coupling.class: mine:Mine is given beside kind gibbs_weighted; remove one of the two
flow.time={class: 'OWN:Inner', margn: 0.1} | flow.time.margn: is not a known key (0.1); write margin, or remove it
flow.target={class: 'OWN:Draw', path: linear}
| flow.target.path: is not a known key ('linear'); correct its name or remove it
flow.path={class: 'OWN:Straight'} | flow.path.rest: is missing; add it
flow.coupling={class: 'OWN:Weighted', epsilon: 0}
| flow.coupling.epsilon: must be greater than 0 (0); use a number above 0
data={class: 'OWN:Rings', num_examples: 9, held_out: 9, shape: [1]}
| data.path: its examples have shape [1], and an mlp takes vectors of 2 values or more; use a dit model for
"""


@each(("override", "said"), rows(WRONG.replace("OWN", MODULE)))
def test_what_is_wrong_with_a_class_is_said_in_one_line(override: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(BUILT_IN)))
    with pytest.raises(ValueError, match=": ") as refusal:
        plan_layout(load_config(path, [override]), 1)
    assert str(refusal.value).removeprefix(f"{path}: ").startswith(said)


def test_a_stage_replaces_a_kind_by_a_class_and_back(tmp_path: Path) -> None:
    first = staged(document(BUILT_IN), {"coupling": OWN["coupling"], "path": OWN["path"]}, tmp_path)
    assert first["coupling"] == OWN["coupling"]
    assert first["path"] == OWN["path"]
    back = staged(document({**BUILT_IN, "path": OWN["path"]}), {"path": {"kind": "trigonometric"}}, tmp_path)
    assert back["path"] == {"kind": "trigonometric"}
    changed = staged(document(OWN), {"path": {**OWN["path"], "rest": 0.2}}, tmp_path)
    assert changed["path"] == {**OWN["path"], "rest": 0.2}


def staged(base: dict[str, Any], flow: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The section flow of the only stage of a configuration, as far as it is written out."""
    stages = [{"name": "only", "train": {"flow": flow}}]
    (stage,) = stages_of(folder / "run.yaml", {**base, "run": {"dir": str(folder)}, "stages": stages})
    assert isinstance(stage, TrainStage)
    written = stage.config().model_dump(mode="json", exclude_unset=True)["flow"]
    return {name: written[name] for name in ("coupling", "path")}


def test_a_section_of_an_own_data_set_is_told_by_its_class() -> None:
    source = RunConfig.model_validate(document(BUILT_IN, source=OWN["data"]))
    assert source.source is not None
    assert source.source.kind == f"{MODULE}:Rings"
