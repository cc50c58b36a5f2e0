"""What a run folder names is not imported unasked: it may be a stranger's."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import trainer.flow.coupling
from tests.trainer.commands import refused
from tests.trainer.own_parts import BUILT_IN, OWN
from tests.trainer.untrained import untrained_run
from trainer import load_config
from trainer.__main__ import main
from trainer.config.file import load_run
from trainer.config.trust import trusting

MODEL = {"kind": "mlp", "hidden": 8, "num_layers": 1}
TRAP = "open('imported', 'w').close()\n"
STRANGE = {
    "coupling": ("flow.coupling", {"flow": {"coupling": {"class": "trap:Mine"}}}),
    "source": ("flow.source", {"flow": {"source": {"class": "trap:Mine"}}}),
    "sampler": ("sample.sampler", {"sample": {"sampler": {"class": "trap:Mine"}}}),
    "controls": ("sample.controls.0", {"sample": {"controls": [{"class": "trap:Mine"}]}}),
    "data": ("data", {"data": {"class": "trap:Mine", "shape": [2], "num_classes": 0}}),
    "network": ("model", {"model": {"class": "trap:Mine"}}),
    "task": ("task", {"task": {"class": "trap:Mine"}}),
    "a module of Python": ("flow.coupling", {"flow": {"coupling": {"class": "antigravity:Mine"}}}),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of built-in parts, beside a module that leaves a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "trap.py").write_text(TRAP)
    return untrained_run(tmp_path / "run", {"data": {"kind": "toy"}, "model": MODEL})


def changed(run: Path, **sections: Any) -> None:
    """Changes what a checkpoint says of its run, as if the run had written it."""
    (folder,) = (run / "checkpoints").iterdir()
    path = folder / "config.yaml"
    document = yaml.safe_load(path.read_text())
    for name, changes in sections.items():
        document[name] = {**(document.get(name) or {}), **changes} if name in ("flow", "sample") else changes
    path.write_text(yaml.safe_dump(document))


VERBS = {
    "sample": ("sample", "run", "--num", "4", "--out", "x.png"),
    "evaluate": ("evaluate", "run", "--num", "4", "--evaluations", "2", "--out", "x.json"),
    "export": ("export", "run", "--out", "out"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_class_of_a_run_folder_is_not_imported(name: str, run: Path) -> None:
    field, sections = STRANGE[name]
    changed(run, **sections)
    (folder,) = (run / "checkpoints").iterdir()
    before = set(sys.modules)
    with pytest.raises(ValueError, match=rf"config.yaml: {field}\.class: .* add --trust-code") as refusal:
        load_run(folder)
    assert "is code of whoever wrote this file" in str(refusal.value)
    assert not Path("imported").exists()
    assert not {"trap", "antigravity"} & (set(sys.modules) - before)


def test_with_trust_it_is_imported(run: Path) -> None:
    changed(run, flow={"coupling": {"class": "trap:Mine"}})
    (folder,) = (run / "checkpoints").iterdir()
    with trusting(folders=True), pytest.raises(ValueError, match="trap has no class Mine"):
        load_run(folder)
    assert Path("imported").exists()
    sys.modules.pop("trap")


def test_what_a_configuration_of_the_command_names_is_trusted_wherever_it_stands(run: Path) -> None:
    changed(run, flow={"coupling": OWN["coupling"]})
    (folder,) = (run / "checkpoints").iterdir()
    sections = yaml.safe_load((folder / "config.yaml").read_text())
    Path("my.yaml").write_text(yaml.safe_dump(sections))
    with trusting(folders=False):
        with pytest.raises(ValueError, match="--trust-code"):
            load_run(folder)
        mine = load_config("my.yaml")
        assert load_run(folder) == mine
    with trusting(folders=False), pytest.raises(ValueError, match="--trust-code"):
        load_run(folder)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_over_a_run_folder_asks_for_it(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 50)
    untrained_run(
        tmp_path / "run",
        {"data": {"kind": "toy"}, "model": MODEL, "flow": {"coupling": OWN["coupling"], "time": BUILT_IN["time"]}},
    )
    line = refused(capsys, *VERBS[verb])
    assert "flow.coupling.class: tests.trainer.own_parts:" in line
    assert "--trust-code" in line
    assert main([*VERBS[verb], "--trust-code"]) == 0


def test_a_base_that_a_configuration_names_is_a_folder_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its sections become those of the run: its classes are its own, not the user's."""
    changed(run, flow={"coupling": {"class": "trap:Mine"}})
    Path("tune.yaml").write_text(
        "run: {dir: tuned}\ntask: {kind: grpo, base: run, reward: {kind: distance, target: [0, 0]}}\n"
        "optim: {steps: 2, global_batch: 8}\n"
    )
    line = refused(capsys, "check", "tune.yaml")
    assert "flow.coupling.class: trap:Mine is code of whoever wrote this file" in line
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(3)\n", "cannot be imported (SystemExit: 3)"),
        ("import sys\nsys.exit()\n", "cannot be imported (SystemExit"),
        ("1 / 0\n", "cannot be imported (ZeroDivisionError"),
        ("def\n", "cannot be imported (SyntaxError"),
    ],
)
def test_a_module_that_fails_or_ends_the_program_is_one_line(
    text: str, said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (run / "checkpoints").iterdir()
    module = f"bad_{len(text)}"
    Path(f"{module}.py").write_text(text)
    line = refused(capsys, "check", folder / "config.yaml", f"flow.coupling={{class: '{module}:Mine'}}")
    assert f"flow.coupling.class: {module} {said}" in line


def test_a_class_that_ends_the_program_when_it_is_made_is_wrong_input(run: Path) -> None:
    (folder,) = (run / "checkpoints").iterdir()
    Path("leaver.py").write_text(
        "from trainer.flow.coupling import Independent\n\n\nclass Mine(Independent):\n"
        "    def __init__(self):\n        raise SystemExit(5)\n"
    )
    config = load_config(folder / "config.yaml", ["flow.coupling={class: 'leaver:Mine'}"])
    assert config.flow is not None
    with pytest.raises(ValueError, match="leaver:Mine ends the program when it is made"):
        trainer.flow.coupling.build(config.flow.coupling)
