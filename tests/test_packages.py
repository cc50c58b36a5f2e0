"""The wheel: what it holds, and what it needs where one only simulates and places."""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from tests.imports import ROOT, Tree

LIGHT = ROOT / "docker" / "simulate-and-place.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"yaml": "pyyaml", "prometheus_client": "prometheus-client", "pydantic_core": "pydantic"}
"""Names on the package index of what is imported under another one."""
ON_REQUEST = {"torch", "transformers", "distributed"}
"""Imported by single options alone: checkpoints of PyTorch, routing of models of Hugging Face, sweeps on a cluster."""


def requirements(lines: list[str]) -> dict[str, str]:
    """Range of versions of each distribution."""
    return {re.split(r"[<>=\[]", line)[0].lower(): line for line in lines}


def test_the_light_installation_has_the_ranges_of_the_project() -> None:
    light = requirements([line for line in LIGHT.read_text(encoding="utf-8").split("\n") if line and line[0] != "#"])
    assert light.items() <= requirements(PROJECT["dependencies"]).items()


def test_the_light_installation_is_what_netsim_and_placement_import() -> None:
    tree = Tree()
    needed, seen = {name for name, path in tree.modules.items() if path.parts[0] == "netsim"} | {"moe.__main__"}, set()
    while needed - seen:
        module = (needed - seen).pop()
        seen.add(module)
        needed |= {other for name, other in tree.edges if name == module}
    roots = {root for module in seen for root in tree.roots(tree.modules[module])}
    others = roots - set(sys.stdlib_module_names) - {"netsim", "moe"} - ON_REQUEST
    light = requirements([line for line in LIGHT.read_text(encoding="utf-8").split("\n") if line and line[0] != "#"])
    assert {DISTRIBUTIONS.get(name, name) for name in others} == set(light)


def test_every_console_script_exists() -> None:
    assert set(PROJECT["scripts"]) == {"flowfabric-train", "flowfabric-place", "flowfabric-simulate"}
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        assert f"def {function}(" in (ROOT / Tree().modules[module]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    return next(folder.glob("*.whl"))


def environment(folder: Path, *installations: list[str]) -> Path:
    """A fresh environment with what each command of pip installs; its folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    for arguments in installations:
        subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", *arguments], check=True, timeout=1800)
    return programs


def run(folder: Path, *command: str | Path) -> str:
    """What a program prints that runs in a folder without the checkout."""
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env=settings, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_without_torch_one_simulates_and_places(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "env", ["-r", str(LIGHT)], ["--no-deps", str(wheel)])
    probe = "import importlib.util as find; print([find.find_spec(n) for n in ('torch', 'deepspeed', 'megatron')])"
    assert run(tmp_path, programs / "python", "-c", probe) == "[None, None, None]\n"
    simulated = run(tmp_path, programs / "flowfabric-simulate", "compare", "all_to_all_64", "--out", "fabric")
    assert "ethereal" in simulated
    assert (tmp_path / "fabric" / "report.html").stat().st_size > 100_000
    routing = ROOT / "tests" / "files" / "routing.npz"
    placing = ["place", routing, "--nodes", "2", "--ranks-per-node", "2", "--out", "p.json", "--report", "p.html"]
    run(tmp_path, programs / "flowfabric-place", *placing)
    assert (tmp_path / "p.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_wheel_trains_from_a_folder_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "env", [str(wheel)])
    told = run(tmp_path, programs / "flowfabric-train", "check", "digits_moe", "--world-size", "2")
    assert "a rank needs" in told
    launched = [programs / "torchrun", "--standalone", "--nproc-per-node", "2", "-m", "trainer", "train"]
    steps = ["optim.steps=600", "moe.top_k=2", "moe.dispatch=copies", "run.dir=first"]
    run(tmp_path, *launched, "digits_moe", *steps)
    assert (tmp_path / "first" / "checkpoints" / "step_00000600" / "COMPLETE").exists()
    run(tmp_path, programs / "flowfabric-train", "sample", "first", "--num", "80", "--out", "digits.png")
    assert (tmp_path / "digits.png").stat().st_size > 1_000
