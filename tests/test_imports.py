"""Who may import whom: between the packages, inside them, and what a fresh interpreter loads."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import CIRCLES, FLOORS, PACKAGES, ROOT, UPWARD, Tree, drawn_floors, upward
from tests.sizes import ENTRIES, Sizes

TREE = Tree()
HEAVY = {"torch", "megatron", "deepspeed", "transformers"}
FORBIDDEN = {
    "netsim": {"torch", "deepspeed", "megatron", "trainer", "moe"},
    "moe": {"trainer", "deepspeed"},
    "trainer": set[str](),
}
FOUNDATION = "netsim.foundation"
FOUNDATION_FILES = [name for name in TREE.modules if name.startswith(f"{FOUNDATION}.")]


def test_the_reader_of_imports_sees_all_kinds() -> None:
    adapter = set(TREE.imports(Path("trainer/distributed/engine/deepspeed.py")))
    assert "deepspeed.comm.torch" in adapter, "imported by import_module"
    verb = set(TREE.imports(Path("trainer/training/run.py")))
    assert "trainer.training.loop" in verb, "imported inside a function"
    assert len(TREE.files) > 80


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_keep_their_distance(package: str) -> None:
    found = {path: TREE.roots(path) & FORBIDDEN[package] for path in TREE.files if path.parts[0] == package}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("package", ["moe", "trainer"])
def test_moe_and_the_trainer_know_nothing_of_netsim_but_its_foundation(package: str) -> None:
    found = {pair for pair in TREE.edges if pair[0].split(".")[0] == package and pair[1].startswith("netsim")}
    assert {(name, other) for name, other in found if other not in FOUNDATION_FILES} == set()


def test_the_foundation_stands_on_nothing_else_of_the_packages() -> None:
    below = {pair for pair in TREE.edges if pair[0] in FOUNDATION_FILES}
    assert {(name, other) for name, other in below if other not in FOUNDATION_FILES} == set()


def test_deepspeed_stays_in_its_adapters() -> None:
    adapters = {path for path in TREE.files if path.match("trainer/distributed/engine/deepspeed*.py")}
    assert {path for path in TREE.files if "deepspeed" in TREE.roots(path)} <= adapters


def test_dask_stays_in_the_sweep() -> None:
    users = {p for p in TREE.files if any(name.startswith(("dask", "distributed")) for name in TREE.imports(p))}
    assert users <= {Path("netsim/sweep/driver.py")}


def test_imports_are_absolute() -> None:
    relative = re.compile(r"^\s*from\s+\.", re.M)
    assert [path for path in TREE.files if relative.search((ROOT / path).read_text(encoding="utf-8"))] == []


def test_no_circle_of_modules() -> None:
    assert TREE.circles_of_modules() == []


def test_no_circle_of_folders_by_their_own_files() -> None:
    assert TREE.circles_of_folders() == []


def test_rooms_of_any_folder_make_no_circle_but_those_that_a_step_opens() -> None:
    assert {(folder, frozenset(c)) for folder in TREE.folders for c in TREE.circles_of_rooms(folder)} == set(CIRCLES)


def test_the_trainer_has_the_folders_of_its_floors_and_at_most_fourteen() -> None:
    top = {path.name for path in (ROOT / "trainer").iterdir() if path.is_file() or any(path.rglob("*.py"))}
    folders = {room for rooms in FLOORS["trainer"] for room in rooms} - {"__main__"}
    assert top == folders | {"README.md", "__main__.py", "__init__.py", "py.typed"}
    assert len(folders) <= 14


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_of_a_package_has_one_floor(package: str) -> None:
    listed = [room for rooms in FLOORS[package] for room in rooms]
    assert sorted(listed) == sorted(TREE.rooms(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_imports_from_a_higher_floor_but_what_a_step_opens(package: str) -> None:
    expected = {pair for pair in UPWARD if pair[0].partition(".")[0] == package}
    assert set(upward(package, TREE.room_edges(package))) == expected


def test_the_floors_are_read_from_the_imports() -> None:
    circle = {("a", "b"): [("a.x", "b.x"), ("a.y", "b.x")], ("b", "a"): [("b.x", "a.x")], ("c", "a"): [("c", "a.x")]}
    assert drawn_floors({"a", "b", "c"}, circle) == (3, 1)
    assert upward("trainer", {("data", "command"): [("trainer.data.loader", "trainer.command.verb")]})
    assert upward("trainer", {("command", "somewhere"): [("trainer.command.verb", "trainer.somewhere")]})
    assert upward("trainer", {("command", "data"): [("trainer.command.verb", "trainer.data.loader")]}) == []


def test_rooms_are_parent_folders_with_all_that_is_inside(tmp_path: Path) -> None:
    texts = {
        "netsim/__init__.py": "",
        "netsim/engine/one/a.py": "from netsim.engine.two.b import B\n",
        "netsim/engine/two/b.py": "",
        "netsim/engine/two/c.py": "from netsim.engine.one.d import D\n",
        "netsim/engine/one/d.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tree = Tree(tmp_path)
    assert tree.folders == ["netsim", "netsim/engine", "netsim/engine/one", "netsim/engine/two"]
    assert tree.circles_of_modules() == []
    assert tree.circles_of_rooms("netsim/engine") == [{"one", "two"}]
    assert tree.circles_of_rooms("netsim") == []
    assert tree.rooms("netsim") == {"engine"}


def test_every_entry_point_of_the_sizes_is_defined_in_one_place() -> None:
    sizes = Sizes(TREE)
    assert [name for name in ENTRIES if sizes.entry(name) not in TREE.modules] == []


LIGHT = ["moe.placement", "moe.placement.solver.solve", "moe.routing_trace", "moe.collective_trace", "moe.replay"]
LIGHT += [
    "moe.report.report",
    "moe.dispatch.messages",
    "moe.interchange.sglang",
    "moe.config",
    "moe.__main__",
    "netsim",
]
LIGHT += ["netsim.__main__", "trainer.__main__", "trainer.config.model", "trainer.experiment.forecast.trace"]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [(LIGHT, HEAVY), (FOUNDATION_FILES, HEAVY | {"netsim.engine._core", "matplotlib", "scipy", "simpy"})],
    ids=["entries", "foundation"],
)
def test_a_fresh_interpreter_stays_light(modules: list[str], heavy: set[str]) -> None:
    """One imports them all; the first that brings a heavy package is named."""
    program = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        f"    assert not {heavy} & set(sys.modules), module\n"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
