"""The tutorial: every command is one that the programs take, and all of them together lead to a placed run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import trainer.__main__
from moe.command.program import PROGRAM as MOE
from netsim.command.program import PROGRAM as NETSIM
from tests.forked import ROOT
from tests.trainer.data.pictures import digit_pictures
from trainer.config.file import load_config
from trainer.config.misspelt import check_names
from trainer.config.rules.plan import plan_layout
from trainer.model.build import dense_parameters

TUTORIAL = ROOT / "configs" / "TUTORIAL.md"
PICTURES = ROOT / "configs" / "runs" / "pictures.yaml"
PROGRAMS = {"trainer": trainer.__main__.program(), "moe": MOE, "netsim": NETSIM}
FEW = ("optim.global_batch=8", "optim.warmup_steps=1", "model.hidden=32", "model.num_layers=2", "sample.per_class=1")
"""Settings that make a run of the tutorial small."""


def commands() -> list[str]:
    """The commands of the code blocks, each as it stands there."""
    blocks = re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    parts = [re.findall(r"(?:.*<<'END'\n(?:.*\n)*?END\n|(?:.*\\\n)*.*\n)", block) for block in blocks]
    return [command.strip() for part in parts for command in part]


def of_programs() -> list[list[str]]:
    """The commands of the three programs as words; a launch is a training."""
    joined = [command.replace("\\\n", " ") for command in commands()]
    words = [shlex.split(command) for command in joined if not command.startswith("python - ")]
    return [["python", "-m", "trainer", "train", *one[1:]] if "launch.sh" in one[0] else one for one in words]


def test_the_tutorial_has_its_commands() -> None:
    programs = {tuple(words[2:4]) for words in of_programs()}
    wanted = {"train", "check", "sample", "report"}
    assert programs >= {*(("trainer", verb) for verb in wanted), ("moe", "place"), ("moe", "price")}
    assert len(commands()) == len(of_programs()) + 1, "one command makes the pictures"


@pytest.mark.parametrize("words", of_programs(), ids=lambda words: " ".join(words[2:5]))
def test_a_command_is_one_that_its_program_takes(words: list[str]) -> None:
    at = words.index("--ranks-per-node") if words[3] == "train" and "--ranks-per-node" in words else len(words)
    options = PROGRAMS[words[2]].parser().read(words[3:at] + words[at + 2 :])
    if hasattr(options, "config"):
        check_names(ROOT / options.config, options.overrides)


@pytest.mark.slow
def test_the_tutorial_leads_to_a_placed_run(tmp_path: Path) -> None:
    for name in ("configs", "docker"):
        (tmp_path / name).symlink_to(ROOT / name)
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": binaries, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in commands():
        few = ""
        if " train " in command or "launch.sh" in command:
            steps = "8" if "optim.steps=650" in command else "6"
            few = " ".join((*FEW, f"optim.steps={steps}", "sample.sampler.steps=2", "data.held_out=8"))
        line = f"{command} {few}" if few else command
        result = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert result.returncode == 0, f"{line}\n{result.stdout[-2000:]}{result.stderr[-3000:]}"
    assert len(list((tmp_path / "pictures").glob("*/*.png"))) == 1797
    page = (tmp_path / "runs" / "experts" / "report.html").read_text()
    assert "placement" in page.lower()
    assert (tmp_path / "runs" / "experts" / "checkpoints" / "step_00000008" / "COMPLETE").exists()


def sizes() -> dict[str, list[str]]:
    """The overrides of each size that the configuration for pictures names."""
    return {name: words.split() for name, words in re.findall(r"(?m)^# (base|large): (.*)$", PICTURES.read_text())}


@pytest.mark.parametrize(("size", "ranks", "millions"), [("small", 1, 1.3), ("base", 8, 33), ("large", 8, 130)])
def test_the_sizes_of_networks_for_pictures(size: str, ranks: int, millions: float, tmp_path: Path) -> None:
    path = f"data.path={digit_pictures(tmp_path / 'pictures')}"
    config = load_config(PICTURES, [path, *sizes().get(size, [])])
    layout = plan_layout(config, ranks)
    assert sum(dense_parameters(config)) / 1e6 == pytest.approx(millions, rel=0.03)
    assert layout.micro_batch * ranks == config.optim.global_batch
    assert size == "small" or size in sizes()
