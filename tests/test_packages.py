"""The package: what each installation brings, what is said where an extra is missing, and the exact versions."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from netsim.foundation.extra import EXTRAS, remedy
from tests.imports import ROOT, Tree

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "prometheus_client": "prometheus-client",
    "pydantic_core": "pydantic",
    "PIL": "pillow",
    "megatron": "megatron-core",
    "ot": "pot",
    "sklearn": "scikit-learn",
}
"""Names on the package index of what is imported under another one."""
ON_REQUEST = {"torch", "transformers", "distributed"}
"""Imported by single options alone: checkpoints of PyTorch, routing of models of Hugging Face, sweeps on a cluster."""
BUILD = {"hatchling"}
"""Imported by the hook that builds the core, when the package is built."""
NOT_THERE = """
import sys
for package in ("torch", "megatron", "deepspeed"):
    sys.modules[package] = None
"""
"""The base installation, as far as an import can see."""


def requirements(lines: list[str]) -> dict[str, str]:
    """Range of versions of each distribution; extras of this project are left out."""
    named = {re.split(r"[<>=\[]", line)[0].lower(): line for line in lines}
    return {name: line for name, line in named.items() if name != "flowfabric"}


def distribution(name: str) -> str:
    """Name on the package index of what is imported as `name`."""
    return DISTRIBUTIONS.get(name, name).lower()


def imported(modules: set[str]) -> set[str]:
    """Distributions that modules import, and the modules of this project that they import in turn."""
    tree, seen = Tree(), set[str]()
    while modules - seen:
        module = (modules - seen).pop()
        seen.add(module)
        modules = modules | {other for name, other in tree.edges if name == module}
    roots = {root for module in seen for root in tree.roots(tree.modules[module])}
    others = roots - set(sys.stdlib_module_names) - {"netsim", "moe", "trainer"}
    return {distribution(name) for name in others}


def test_the_base_installation_is_what_netsim_and_placement_import() -> None:
    modules = {name for name, path in Tree().modules.items() if path.parts[0] == "netsim"} | {"moe.__main__"}
    base = requirements(PROJECT["dependencies"])
    assert imported(modules) - ON_REQUEST - BUILD == base.keys()
    assert "torch" not in base


def test_every_package_that_is_imported_belongs_to_an_installation_that_its_refusal_names() -> None:
    of_extra = {name: requirements(lines) for name, lines in PROJECT["optional-dependencies"].items()}
    users = ("train", "hf", "cluster", "science", "wandb")
    offered = requirements(PROJECT["dependencies"]).keys() | {package for name in users for package in of_extra[name]}
    assert imported(set(Tree().modules)) - BUILD - {"_typeshed"} <= offered
    for package, extra in EXTRAS.items():
        assert distribution(package) in of_extra[extra], package
    named = {distribution(package) for package in EXTRAS}
    assert of_extra["train"].keys() <= named


@pytest.mark.parametrize("verb", [["train", "digits_moe"], ["check", "toy", "--world-size", "2"]])
def test_training_without_its_extra_is_one_line(verb: list[str]) -> None:
    program = f"{NOT_THERE}\nfrom trainer.__main__ import main\nsys.exit(main({verb!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    line = "needs the package torch, which is not installed here; pip install 'flowfabric[train]'"
    assert (done.returncode, done.stderr) == (2, f"trainer {verb[0]}: {line}\n")


@pytest.mark.parametrize("module", ["moe.layer", "moe.router", "moe.ot"])
def test_a_part_of_moe_that_needs_torch_names_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "moe"]:
        monkeypatch.delitem(sys.modules, name)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest))
    with pytest.raises(ModuleNotFoundError, match=r"needs torch; pip install 'flowfabric\[train\]'$"):
        importlib.import_module(module)


def test_a_package_of_no_extra_keeps_its_traceback() -> None:
    assert remedy(ModuleNotFoundError("No module named 'moe.layre'", name="moe.layre")) is None


def test_the_exact_versions_are_within_the_ranges_and_of_no_single_index() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert not any("+" in str(each.specifier) or each.url for each in pinned)
    ranges = [*PROJECT["dependencies"], *(line for part in PROJECT["optional-dependencies"].values() for line in part)]
    for version in ("3.11", "3.12", "3.13"):
        here = {"python_version": version, "python_full_version": f"{version}.0"}
        exact = {
            canonicalize_name(each.name): next(iter(each.specifier)).version
            for each in pinned
            if each.marker is None or each.marker.evaluate(here)
        }
        for wanted in map(Requirement, ranges):
            if wanted.name != "flowfabric" and (wanted.marker is None or wanted.marker.evaluate(here)):
                assert wanted.specifier.contains(exact[canonicalize_name(wanted.name)], prereleases=True), wanted


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


def environment(folder: Path, requirement: str) -> Path:
    """A fresh environment with one installation; its folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    command = [programs / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*command, requirement], check=True, timeout=1800)
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
    programs = environment(tmp_path / "env", str(wheel))
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
    programs = environment(tmp_path / "env", f"{wheel}[train]")
    told = run(tmp_path, programs / "flowfabric-train", "check", "digits_moe", "--world-size", "2")
    assert "a rank needs" in told
    launched = [programs / "torchrun", "--standalone", "--nproc-per-node", "2", "-m", "trainer", "train"]
    steps = ["optim.steps=600", "moe.top_k=2", "moe.dispatch=copies", "run.dir=first"]
    run(tmp_path, *launched, "digits_moe", *steps)
    assert (tmp_path / "first" / "checkpoints" / "step_00000600" / "COMPLETE").exists()
    run(tmp_path, programs / "flowfabric-train", "sample", "first", "--num", "80", "--out", "digits.png")
    assert (tmp_path / "digits.png").stat().st_size > 1_000
