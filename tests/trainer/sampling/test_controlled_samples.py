"""Samples under controls: what is drawn, what it is counted as, which verbs leave controls out, what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from torch import Tensor

from tests.each import each, rows
from tests.forked import ROOT
from tests.trainer import own_controls
from tests.trainer.commands import refused
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.checkpoint.pretrained import restore
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.trust import trusting
from trainer.evaluation.evaluation import sample_multiply_adds
from trainer.flow.sampler import AnyConfig as AnySampler
from trainer.flow.sampler import Dopri5, Euler, FirstOrder, Heun, Trajectory
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.sampling.pairs import run as draw_pairs
from trainer.sampling.pairs_request import PairsRequest
from trainer.sampling.preview import preview
from trainer.sampling.sample import DrawingRequest, drawing
from trainer.sampling.sampler_choice import read_controls
from trainer.sampling.trained import opened

MODULE = own_controls.__name__
STRONG = f'[{{class: "{MODULE}:Towards", strength: 2}}]'
NONE = f'[{{class: "{MODULE}:Towards", strength: 0}}]'
ASKING = f'[{{kind: cost_gradient, cost: {{class: "{MODULE}:Predicted"}}}}]'
SCHEMAS = ROOT / "configs" / "schemas"
COST = f'cost: {{class: "{MODULE}:Distance"}}'
POINTS: dict[str, Any] = {
    "data": {"kind": "toy", "name": "rings", "classes": True, "held_out": 64},
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 2, "label_dropout": 0.1},
    "sample": {"num": 16, "guidance": 1.5, "sampler": {"kind": "euler", "steps": 4}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("plain") / "run", POINTS)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, in a run that has controls of its own."""
    sample = {**POINTS["sample"], "controls": yaml.safe_load(STRONG)}
    return untrained_run(tmp_path_factory.mktemp("controlled") / "run", {**POINTS, "sample": sample})


def drawn(run: Path, controls: str | None = None, **asked: Any) -> Tensor:
    chosen = None if controls is None else read_controls(controls)
    with drawing(DrawingRequest(run_dir=run, controls=chosen, **asked)) as draws:
        found = draws.examples(draws.guidance)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def flow(run: Path) -> TrainedFlow:
    config = load_config(run / "checkpoints" / "step_00000010" / "config.yaml")
    folder = run / "checkpoints" / "step_00000010"
    return TrainedFlow(config, FlowParts(config), restore(config, Layout.single(config), folder))


def followed(
    flow: TrainedFlow, controls: str, chosen: AnySampler, rows: Sequence[int], told: list[int] | None = None
) -> Trajectory:
    condition = flow.conditioning(8, seed=3).condition
    progress = None if told is None else told.append
    under = flow.under(read_controls(controls))
    return under.follow(condition, torch.tensor(rows), chosen, guidance=1.5, seed=3, progress=progress)


def test_no_controls_and_strength_0_draw_the_bits_of_plain_sampling(run: Path) -> None:
    plain = drawn(run)
    assert torch.equal(drawn(run, "[]"), plain)
    assert torch.equal(drawn(run, NONE), plain)
    assert not torch.allclose(drawn(run, STRONG), plain, atol=0.1)


def test_an_empty_list_is_not_written_and_changes_no_digest(run: Path) -> None:
    """So a run that began before there was the key goes on, and what was recorded of it stays its own."""
    config = load_config(run / "checkpoints" / "step_00000010" / "config.yaml")
    assert "controls" not in config.to_yaml()
    document = config.model_dump(mode="json")
    listed = RunConfig.model_validate({**document, "sample": {**document["sample"], "controls": []}})
    assert listed == config
    assert listed.digest == config.digest


def test_a_run_with_controls_is_read_again_as_it_was(controlled: Path) -> None:
    config = load_config(controlled / "checkpoints" / "step_00000010" / "config.yaml")
    assert yaml.safe_load(config.to_yaml())["sample"]["controls"] == yaml.safe_load(STRONG)
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.slow
def test_the_controls_of_a_run_are_those_that_are_asked_for(run: Path, controlled: Path, tmp_path: Path) -> None:
    """In a list, a single section, a file of either, or a file with the key."""
    with trusting(folders=True):  # the folder names a class of the tests
        wanted = drawn(controlled)
    assert torch.equal(drawn(run, STRONG), wanted)
    for number, text in enumerate((STRONG, STRONG[1:-1], f"controls: {STRONG}", f"- {STRONG[1:-1]}")):
        (tmp_path / f"{number}.yaml").write_text(text)
        assert read_controls(str(tmp_path / f"{number}.yaml")) == read_controls(STRONG)
    assert read_controls(STRONG[1:-1]) == read_controls(f"- {STRONG[1:-1]}") == read_controls(STRONG)
    with trusting(folders=True):
        assert torch.equal(drawn(controlled, "[]"), drawn(run))


def test_controls_act_on_the_guided_field_and_on_their_own_rows(flow: TrainedFlow) -> None:
    """Two steps of Euler's method, written out; and rows that pass through the network alone or together."""
    together = followed(flow, STRONG, Euler(steps=2), range(8))
    condition = flow.conditioning(8, seed=3).condition
    field, label, x = flow.parts.field(flow.model, condition, 1.5), condition.label, together.x[0]
    assert label is not None
    with torch.no_grad():
        for step in range(2):
            x = x + 0.5 * (field(x, torch.full((8,), 0.5 * step)) + 2 * (label[:, None] - x))
    torch.testing.assert_close(together.final, x, rtol=1e-5, atol=1e-6)
    alone = [followed(flow, STRONG, Euler(steps=2), rows).final for rows in ([5, 0], [3, 6])]
    torch.testing.assert_close(torch.cat(alone), together.final[[5, 0, 3, 6]], rtol=1e-5, atol=1e-6)


def test_a_cost_of_a_user_s_pulls_as_its_gradient(flow: TrainedFlow) -> None:
    cost = f'{{kind: cost_gradient, cost: {{class: "{MODULE}:Distance"}}, strength: 2, weight: constant, limit: null}}'
    by_cost = followed(flow, cost, Heun(steps=3), range(8))
    by_hand = followed(flow, STRONG, Heun(steps=3), range(8))
    torch.testing.assert_close(by_cost.final, by_hand.final, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chosen", [Euler(steps=3), Heun(steps=3), FirstOrder(steps=3)])
def test_calls_of_the_network_by_a_cost_are_counted(flow: TrainedFlow, chosen: AnySampler) -> None:
    plain, asking = (followed(flow, controls, chosen, range(4)) for controls in (STRONG, ASKING))
    expected = chosen.calls()
    assert plain.calls == expected
    assert expected is not None
    assert asking.calls == {"network": 2 * expected["network"]}


def test_progress_tells_the_calls_of_the_network(flow: TrainedFlow) -> None:
    told: list[int] = []
    found = followed(flow, ASKING, Euler(steps=3), range(4), told)
    assert told == [1, 2, 3, 4, 5, 6]
    assert found.calls == {"network": 6}


def test_a_sampler_that_chooses_its_steps_counts_every_call(flow: TrainedFlow) -> None:
    plain, asking = (followed(flow, controls, Dopri5(), range(4)) for controls in ("[]", ASKING))
    assert asking.calls["network"] % 2 == 0
    assert plain.calls["network"] > 6


def test_previews_are_drawn_under_the_controls(controlled: Path, tmp_path: Path) -> None:
    with opened(controlled) as own:
        preview(own, tmp_path / "own.png", seed=1)
        preview(own.under(()), tmp_path / "none.png", seed=1)
    assert (tmp_path / "own.png").read_bytes() != (tmp_path / "none.png").read_bytes()


def test_evaluate_measures_what_is_drawn_and_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 500)
    out = tmp_path / "evaluation.json"
    words = ("--evaluations", "2", "--num", "16", "--out", str(out), "--controls", ASKING)
    assert main(["evaluate", str(run), *words]) == 0
    assert "all samples and paths are drawn under cost_gradient" in capsys.readouterr().out
    document = json.loads(out.read_text())
    jsonschema.validate(document, json.loads((SCHEMAS / "evaluation.schema.json").read_text()))
    assert document["controls"] == [one.model_dump(mode="json") for one in read_controls(ASKING)]
    (result,) = document["results"]
    assert (result["evaluations"], result["calls"], result["multiply_adds"]) == (4, {"network": 4}, None)


def test_multiply_adds_are_known_where_a_control_asks_the_field_alone(flow: TrainedFlow) -> None:
    chosen, under = Euler(steps=2), flow.under(read_controls(STRONG))
    conditioning = flow.conditioning(1, seed=0)
    known = sample_multiply_adds(flow, conditioning, chosen, {"network": 2})
    assert sample_multiply_adds(under, conditioning, chosen, {"network": 2}) == known is not None
    assert sample_multiply_adds(under, conditioning, chosen, {"network": 4}) is None


def test_pairs_are_those_of_the_flow_itself(run: Path, controlled: Path, tmp_path: Path, capsys: Any) -> None:
    for name, folder in (("plain", run), ("controlled", controlled)):
        document = {"run": folder, "num": 8, "sampler": {"kind": "euler", "steps": 2}}
        assert draw_pairs(PairsRequest.model_validate(document), tmp_path / name) == 0
        assert ("without its sample.controls" in capsys.readouterr().err) == (name == "controlled")
    plain, other = ((tmp_path / name / "shard_00000.safetensors").read_bytes() for name in ("plain", "controlled"))
    header = 8 + int.from_bytes(plain[:8], "little")
    assert plain[header:] == other[header:]


def test_grids_are_searched_for_the_flow_itself(run: Path, controlled: Path, tmp_path: Path, capsys: Any) -> None:
    files = []
    for name, folder in (("plain", run), ("controlled", controlled)):
        words = ("--evaluations", "2", "--num", "4", "--fresh", "4", "--nodes", "6")
        assert main(["steps", str(folder), "--trust-code", *words, "--out", str(tmp_path / f"{name}.json")]) == 0
        assert ("without its sample.controls" in capsys.readouterr().out) == (name == "controlled")
        files.append(StepsFile.read(tmp_path / f"{name}.json"))
    assert files[0].grids == files[1].grids
    assert files[0].figures == files[1].figures


REFUSED = rows("""
[{kind: pull}] | --controls.0.kind: pull leads to a picture, and samples have none;
{class: "OWN:OfPicture"} | --controls.0.class: OWN:OfPicture leads to a picture
[{kind: pul}] | --controls.0.kind: 'pul' is not one of cost_gradient, straight_through; use one of them
[{}] | --controls.0.cost: is missing
[{class: "OWN:Towards", strngth: 1}] | --controls.0.strngth: is not a known key (1); write strength, or remove it
[{strength: -1, cost: {class: "OWN:Distance"}}] | --controls.0.strength: must be greater
[{class: "nowhere:Mine"}] | --controls.0.class: nowhere cannot be imported
[{class: "OWN:Pulled"}] | --controls.0.class: Pulled lacks the
[3] | --controls.0: is not a section
[{kind | --controls: [{kind cannot be read (expected ',' or '}'
'' | --controls: '' lists no controls; give a list such as
pull | pull: file: cannot be read (No such file or directory); give a list
[{kind: cost_gradient, cost: {kind: attention, subjects: [[0], [1]]}}]
| --controls: sample.controls.0.cost.kind: attention is that of a dit
""")
"""What is given as controls, and what is said of it."""


@each(("controls", "complaint"), REFUSED)
def test_what_is_no_control_of_samples_is_refused(
    controls: str, complaint: str, run: Path, tmp_path: Path, capsys: Any
) -> None:
    given = controls.replace("OWN", MODULE).strip("'")
    said = refused(capsys, "sample", run, "--out", tmp_path / "x.png", "--controls", given)
    assert said.startswith(complaint.replace("OWN", MODULE))
    assert not list(tmp_path.iterdir())


@each(
    ("text", "complaint"),
    [
        ("- {kind: pull}\n", "controls.0.kind: pull leads to a picture"),
        ("hello\n", "document: lists no controls; write a list such as"),
        ("[a\n", "line 2: is not YAML"),
        ("", "document: lists no controls"),
    ],
)
def test_a_file_of_no_controls_is_refused(text: str, complaint: str, run: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "controls.yaml"
    path.write_text(text)
    said = refused(capsys, "sample", run, "--out", tmp_path / "x.png", "--controls", path)
    assert said.startswith(f"{path}: {complaint}")


def test_what_controls_change_has_no_likelihood_and_no_formula(controlled: Path, tmp_path: Path, capsys: Any) -> None:
    said = refused(capsys, "evaluate", controlled, "--trust-code", "--likelihood", "4", "--out", tmp_path / "x.json")
    assert said == (
        "--likelihood: it is that of the flow, which sample.controls change; leave it out, or give --controls '[]'"
    )
    config = controlled / "checkpoints" / "step_00000010" / "config.yaml"
    said = refused(capsys, "trace", config, "--world-size", "1", "--sampling", "--out", tmp_path / "x.jsonl")
    assert said.endswith("write sample.controls=[] beside the other settings")
    assert (
        main(
            [
                "trace",
                str(config),
                "sample.controls=[]",
                "--world-size",
                "1",
                "--sampling",
                "--out",
                str(tmp_path / "x"),
            ]
        )
        == 0
    )
