"""The edit verb on small networks: what it writes, what it does not change, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import contents, refused
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.evaluation.editing import ALIKE
from trainer.evaluation.editing_figures import figures_of
from trainer.flow import Condition
from trainer.flow.control import PullConfig
from trainer.flow.sampler import Euler
from trainer.sampling.edit_request import EditPlan, EditRequest, planned
from trainer.sampling.edits import Calls, PictureEdits, padded
from trainer.sampling.trained import opened, restored_flow

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "edits.schema.json").read_text())
NETWORK = {"hidden": 16, "num_layers": 1, "num_heads": 2, "patch_size": 4, "label_dropout": 0.1}
SAMPLE = {"sampler": {"kind": "euler", "steps": 3}, "guidance": 1.5}
REQUEST = {
    "pictures": {"kind": "held_out", "num": 3},
    "targets": [3, 8],
    "inversion": {"kind": "reverse"},
    "controls": [{"kind": "pull", "strength": 0.8, "stop": 0.7}],
    "strengths": [0, 0.5, 1],
    "together": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections = {"data": {"kind": "digits", "held_out": 8}, "model": {"kind": "dit", **NETWORK}, "sample": SAMPLE}
    return untrained_run(tmp_path_factory.mktemp("digits") / "run", sections)


@pytest.fixture(scope="module")
def request_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("requests") / "mine.yaml", REQUEST)


@pytest.fixture(scope="module")
def edited(run: Path, request_file: Path) -> Path:
    out = run.parent / "edits"
    assert main(["edit", str(run), str(request_file), "--out", str(out)]) == 0
    return out


def written(file: Path, document: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(document))
    return file


def arrays(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {file.stem: load_file(file) for file in sorted((out / "arrays").rglob("*.safetensors"))}


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same edits, bit for bit."""
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    return all(torch.equal(values, second[name][key]) for name, own in first.items() for key, values in own.items())


def test_strength_0_is_the_plain_sampler_from_the_noise_bit_for_bit(run: Path, edited: Path) -> None:
    """The samplers are called here by hand: back under the own class, forth under the classes asked for.

    With as many rows as sum alike: products of fewer take other kernels on some processors.
    """
    found = arrays(edited)
    pictures = torch.stack([one["picture"] for one in found.values()])
    order = sorted(found)
    with opened(run) as flow, torch.no_grad():
        euler, times = Euler(steps=3).build(flow.parts.path), torch.linspace(0, 1, 4)
        held_out = flow.conditioning(1, seed=0).labels.dtype
        document = json.loads((edited / "results.json").read_text())
        assert document["calls"] == {"inversion": 3, "drawing": 3, "levels": [3, 3, 3]}
        import trainer.data

        dataset = trainer.data.build(flow.config.data)
        ids = torch.tensor([int(name.removeprefix("held_out_")) for name in order])
        labels = dataset.get(ids).labels
        assert labels is not None
        rows = padded(torch.arange(len(order)), ALIKE)
        own = flow.parts.field(flow.model, Condition(label=labels.to(held_out)[rows]), 1.0)
        noise = euler.sample(own, pictures[rows], times.flip(0)).final
        for column, target in enumerate((3, 8)):
            field = flow.parts.field(flow.model, Condition(label=torch.full((len(rows),), target)), 1.5)
            plain = euler.sample(field, noise, times).final[: len(order)]
            edits = torch.stack([found[name]["edited"][0, column] for name in order])
            assert torch.equal(edits, plain)
            assert not torch.equal(torch.stack([found[name]["edited"][1, column] for name in order]), plain)
        reconstructed = torch.stack([found[name]["reconstructed"] for name in order])
        assert torch.equal(reconstructed, euler.sample(own, noise, times).final[: len(order)])


def test_files_of_the_edits(edited: Path) -> None:
    document = json.loads((edited / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    found = arrays(edited)
    assert len(found) == document["pictures"] == 3
    assert len(list((edited / "edited").rglob("*.png"))) == 3 * 3 * 2
    name, own = next(iter(found.items()))
    with Image.open(edited / "edited" / name / "strength_0.5_8.png") as png:
        expected = ((own["edited"][1, 1, 0].clamp(-1, 1) + 1) * 127.5).round()
        assert np.array_equal(np.asarray(png), expected.numpy().astype(np.uint8))
    page = (edited / "index.html").read_text()
    assert page.count("<svg") == 4, "a grid for each of 3 pictures, and the plane"
    assert not re.search(r'(src|href)="http', page)


def test_figures_are_those_of_the_pictures_that_are_of_other_classes(edited: Path, run: Path) -> None:
    """Counted by hand: the mean over all edits but those to the picture's own class."""
    import trainer.data

    document, found = json.loads((edited / "results.json").read_text()), arrays(edited)
    dataset = trainer.data.build(restored_flow(run)[1].data)
    errors, fresh = [], []
    for name, own in found.items():
        labels = dataset.get(torch.tensor([int(name.removeprefix("held_out_"))])).labels
        assert labels is not None
        for column, target in enumerate((3, 8)):
            if int(labels) != target:
                errors.append(float((own["edited"][1, column] - own["picture"]).double().square().mean()))
                fresh.append(float((own["fresh"][column] - own["picture"]).double().square().mean()))
    assert document["levels"][1]["error"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert document["floors"]["fresh"]["error"] == pytest.approx(np.mean(fresh), rel=1e-6)
    assert document["floors"]["source"]["error"] == 0
    strong = [one["error"] for one in document["levels"]]
    assert strong[0] > strong[1] > strong[2], "the pull leads to the picture"


def test_neither_the_batch_nor_an_unfinished_start_changes_a_bit(
    run: Path, request_file: Path, edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "other"
    assert main(["edit", str(run), str(request_file), "together=8", "--out", str(out)]) == 0
    assert same(out, edited)
    before, files = contents(out), sorted((out / "arrays").iterdir())
    (out / "arrays" / f".{files[0].name}.1.partial").write_bytes(b"killed")
    for file in (files[0], out / "results.json", out / "index.html"):
        file.unlink()
    assert main(["edit", str(run), str(request_file), "--out", str(out)]) == 0
    assert contents(out) == before
    again = refused(capsys, "edit", run, request_file, "seed=1", "--out", out)
    assert "request.seed: is 0 there but 1 is asked for; give another folder" in again
    assert contents(out) == before


def test_a_folder_with_a_mask_keeps_what_is_black(run: Path, request_file: Path, tmp_path: Path) -> None:
    """Euler's last step along the path to the picture ends at the picture."""
    folder = tmp_path / "mine"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3), dtype=np.uint8)
    for number, pixels in enumerate(values):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out"
    words = ["source=7", f"mask={tmp_path / 'mask.png'}", "--images", str(folder), "--out", str(out)]
    assert main(["edit", str(run), str(request_file), *words]) == 0
    document = json.loads((out / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["pictures"] == 3
    assert list(document["left_out"]) == ["broken.png"]
    assert all(one["held_error"] < 1e-9 < one["error"] for one in document["levels"])
    own = load_file(out / "arrays" / "0.png.safetensors")
    changed = (own["edited"] - own["picture"]).abs().amax(dim=(0, 1, 2, 3))
    assert float(changed[:4].max()) < 1e-5 < float(changed[4:].min())


def test_corrections_of_the_noise_bring_the_picture_back(run: Path, tmp_path: Path) -> None:
    """Network calls: to noise, then one drawing for each iterate."""
    file = written(
        tmp_path / "flowopt.yaml",
        {
            "pictures": {"kind": "held_out", "num": 4},
            "targets": [1],
            "inversion": {"kind": "zero_order", "iterations": 2},
            "method": {"kind": "zero_order", "iterations": [0, 1, 3]},
        },
    )
    assert main(["edit", str(run), str(file), "--out", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["level"] == "iteration"
    assert document["calls"] == {"inversion": 4 + 3 * 3, "drawing": 3, "levels": [3, 6, 12]}
    assert len(document["inversion"]["errors"]) == 3
    assert len(document["corrections"]["errors"]) == 4
    levels = [one["error"] for one in document["levels"]]
    assert levels == sorted(levels, reverse=True)


def test_editability_is_the_share_that_the_judge_takes_for_the_class(run: Path) -> None:
    """A judge that sees the class in the first pixel; the edit to the own class 1 does not count."""
    plan = plan_of(run, targets=(1, 2), strengths=(0.0, 1.0), controls=(PullConfig(),))

    class Seen:
        def classes_of(self, samples: np.ndarray) -> np.ndarray:
            return samples[:, 0, 0, 0].astype(int)

    def of(values: torch.Tensor) -> torch.Tensor:
        return values[..., None, None, None].expand(*values.shape, 1, 8, 8)

    edits = PictureEdits(
        picture=of(torch.tensor(1.0)),
        edited=of(torch.tensor([[1.0, 2.0], [1.0, 5.0]])),
        reconstructed=of(torch.tensor(3.0)),
        fresh=of(torch.tensor([2.0, 2.0])),
        coded=of(torch.tensor(1.0)),
        inversion_errors=None,
        edit_errors=None,
        calls=Calls(3, 3, (3, 3)),
    )
    judge: Any = Seen()
    figures = figures_of([edits], [1], plan, judge)
    assert [one.all.editability for one in figures.levels] == [1.0, 0.0]
    assert [one.all.error for one in figures.levels] == [1.0, 16.0]
    assert figures.levels[0].classes[0] is None
    assert (figures.source.editability, figures.fresh.editability) == (0.0, 1.0)
    assert (figures.reconstruction, figures.judged) == (4.0, 1.0)
    assert figures_of([edits], [None], plan, judge).levels[1].all.editability == 0.5


def plan_of(run: Path, **asked: Any) -> EditPlan:
    return planned(EditRequest(**asked), restored_flow(run)[1], labelled=True)


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown class": (("targets=[11]",), "targets: there is no class 11; give a number from 0 to 9"),
    "class twice": (("targets=[3,3]",), "targets: 3 is given twice; give each class once"),
    "no class": (("targets=[]",), "targets: it is empty; name classes, or write all"),
    "unknown source": (("source=cat",), "source: there is no class cat; give a number from 0 to 9"),
    "strength above 1": (("strengths=[0,2]",), "strengths: 2 is not a share; use 0 (none) to 1"),
    "strength twice": (("strengths=[0,0]",), "strengths: 0 is given twice; give each once"),
    "strengths of nothing": (("controls=[]",), "strengths: there are no controls whose strength it could be"),
    "method beside controls": (("method={kind: zero_order}",), "method: zero_order is given beside controls"),
    "random sampler": (("inversion.kind=magic",), "inversion.kind: 'magic' is not one of"),
    "grid backwards": (("steps=[0,0.7,0.5,1]",), "steps: "),
    "no steps": (("steps=0",), "steps: must be greater than 0 (0); use 1 or more"),
    "unknown key": (("strenghts=[0]",), "strenghts: is not a known key"),
    "guidance below 0": (("guidance.target=-1",), "guidance.target: must be greater than or equal to 0"),
    "pull to a noise": (
        ("controls=[{kind: pull, end: source}]",),
        "controls.0.end: source needs the noise of an inversion",
    ),
    "mask missing": (("mask=nowhere.png",), "mask: nowhere.png cannot be read (No such file or directory)"),
    "no pictures": (("--num", "0"), "--num: 0 is below 1; use 1 or more"),
    "folder missing": (("source=3", "--images", "nowhere"), "pictures.path: nowhere is missing"),
    "folder without classes": (("--images", "nowhere"), "source: own needs the class of each picture"),
    "past the end": (("pictures.first=8",), "pictures.first: 8 leaves none of the 8 held-out examples"),
    "bad override": (("targets",), "targets: is not a setting; write dotted.key=value"),
}


@each("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str, run: Path, request_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, told = MISTAKES[name]
    assert told in refused(capsys, "edit", run, request_file, *words, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_runs_and_folders_that_cannot_be_edited_with(
    run: Path, request_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: object) -> str:
        before = contents(tmp_path)
        line = refused(capsys, "edit", *words)
        assert contents(tmp_path) == before
        return line

    out = tmp_path / "out"
    digits = {"kind": "digits", "held_out": 8}
    assert "run_dir: " in told(tmp_path / "nothing", request_file, "--out", out)
    assert "give the path of a YAML file, or the name of one in configs/requests: rf_inversion" in told(
        run, "rf_inversoin", "--out", out
    )
    points = untrained_run(tmp_path / "points", {"model": {"kind": "mlp", "hidden": 8}, "data": {"kind": "toy"}})
    assert "which are no pictures" in told(points, request_file, "--out", out)
    sampler = {"sampler": {"kind": "euler_maruyama", "steps": 4}, "guidance": 1.0}
    random = untrained_run(tmp_path / "random", {"data": digits, "model": NETWORK, "sample": sampler})
    assert "steps: the run's sampler euler_maruyama draws noise on its way" in told(random, request_file, "--out", out)
    certain = {**NETWORK, "label_dropout": 0.0}
    sure = untrained_run(tmp_path / "sure", {"data": digits, "model": certain, "sample": {**SAMPLE, "guidance": 1.0}})
    assert "source: null asks the network about no class" in told(sure, request_file, "source=null", "--out", out)
    assert "guidance.target: 2.0 asks" in told(sure, request_file, "guidance.target=2", "--out", out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    assert "--out: contains other things" in told(run, request_file, "--out", tmp_path / "full")
    (tmp_path / "no_pictures").mkdir()
    assert "no_pictures" in told(run, request_file, "source=3", "--images", tmp_path / "no_pictures", "--out", out)
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    assert "black all over" in told(run, request_file, f"mask={tmp_path / 'black.png'}", "--out", out)
    modules = tmp_path.with_name("modules")  # where Python may keep what it compiles
    modules.mkdir()
    (modules / "own_control.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(modules))
    control = "controls=[{class: 'own_control:Still'}]"
    assert "has no setting named strength; use 0 and 1 alone" in told(run, request_file, control, "--out", out)


OWN = """\
class Still:
    def over(self, field):
        return field
"""


@pytest.mark.parametrize("name", ["rf_inversion", "otip", "flowopt"])
def test_shipped_requests_suit_a_run(name: str, run: Path) -> None:
    document = yaml.safe_load((ROOT / "configs" / "requests" / f"{name}.yaml").read_text())
    plan = planned(EditRequest.model_validate(document), restored_flow(run)[1], labelled=True)
    assert len(plan.targets) == 10
    assert len(plan.levels) == 5
