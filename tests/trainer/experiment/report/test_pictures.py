"""The parts of the report about restored and edited pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from tests.trainer.untrained import save_untrained, untrained_run
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.experiment.report.drawing import edited_part, restored_part
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import RunFiles

RUN = {
    "model": {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2, "label_dropout": 0.1},
    "data": {"kind": "digits"},
    "flow": {},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights, and what both verbs made of two of its pictures."""
    folder = untrained_run(tmp_path_factory.mktemp("runs") / "run", RUN)
    restore = ["flair_inpainting", "samples=2", "method.steps=2", "method.weight=constant", "method.scale=0.1"]
    edit = ["otip", "targets=[3, 8]", "steps=4", "strengths=[0, 1]"]
    for verb, request in (("restore", restore), ("edit", edit)):
        assert main([verb, str(folder), *request, "--num", "2", "--out", str(folder / verb)]) == 0
    return folder


def words(part: Part) -> str:
    """What a part says in its rows and large numbers."""
    return " ".join(word for told in (*part.rows, *part.facts) for word in told)


def test_the_parts_tell_the_figures_of_the_verbs_and_lead_to_their_pages(run: Path, tmp_path: Path) -> None:
    restored, edited = (
        part(RunFiles(run), run / verb, tmp_path / "report.html")
        for part, verb in ((restored_part, "restore"), (edited_part, "edit"))
    )
    means = json.loads((run / "restore" / "results.json").read_text())["means"]["error"]
    assert f"{means['restored'] / means['pseudo_inverse']:.2f} x" in words(restored)
    last = json.loads((run / "edit" / "results.json").read_text())["levels"][-1]
    assert f"strength 1 error {last['error']:.3f}" in words(edited)
    for part, verb in ((restored, "restore"), (edited, "edit")):
        (section,) = part.sections
        assert any(f"{verb}/index.html" in str(block) for block in section.blocks)


@pytest.mark.parametrize(("part", "verb"), [(restored_part, "restore"), (edited_part, "edit")])
def test_pictures_of_other_weights_and_unfinished_folders_are_refused(
    part: Callable[[RunFiles, Path, Path], Part], verb: str, run: Path, tmp_path: Path
) -> None:
    other = untrained_run(tmp_path / "other", RUN)
    save_untrained(load_config(other / "checkpoints" / "step_00000010" / "config.yaml"), 20, seed=1)
    with pytest.raises(Refusal, match="weights: is not that of"):
        part(RunFiles(other), run / verb, tmp_path / "report.html")
    with pytest.raises(Refusal, match="give a folder that the verb has finished"):
        part(RunFiles(run), tmp_path, tmp_path / "report.html")
