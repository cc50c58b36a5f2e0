"""Who may import whom: between the packages, inside them, and what a fresh interpreter loads."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainer", "moe", "netsim")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = {"torch", "megatron", "deepspeed"}
FORBIDDEN = {
    "netsim": {"torch", "deepspeed", "megatron", "trainer", "moe"},
    "moe": {"trainer", "netsim", "deepspeed"},
    "trainer": {"netsim"},
}


def module_name(path: Path) -> str:
    return ".".join(path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside a function, by its full name."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for name in names:
                    inner = f"{module}.{name.name}"
                    yield inner if inner in MODULES else module
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module))]):
                yield module


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_the_reader_of_imports_sees_all_kinds() -> None:
    assert "deepspeed.comm.torch" in set(imports(Path("trainer/engine/deepspeed.py"))), "imported by import_module"
    assert "trainer.loop" in set(imports(Path("trainer/train.py"))), "imported inside a function"
    assert len(FILES) > 80


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_keep_their_distance(package: str) -> None:
    found = {path: roots(path) & FORBIDDEN[package] for path in FILES if path.parts[0] == package}
    assert {path: names for path, names in found.items() if names} == {}


def test_deepspeed_stays_in_its_adapters() -> None:
    adapters = {path for path in FILES if path.match("trainer/engine/deepspeed*.py")}
    assert {path for path in FILES if "deepspeed" in roots(path)} <= adapters


def test_dask_stays_in_the_sweep() -> None:
    users = {path for path in FILES if any(name.startswith(("dask", "distributed")) for name in imports(path))}
    assert users <= {Path("netsim/sweep.py")}


def test_imports_are_absolute() -> None:
    relative = [
        f"{path}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    return [circle for circle in nx.strongly_connected_components(nx.DiGraph(list(edges))) if len(circle) > 1]


def module_edges() -> set[tuple[str, str]]:
    return {(name, other) for name, path in MODULES.items() for other in imports(path) if other in MODULES}


def test_no_circle_of_modules() -> None:
    assert circles(module_edges()) == []


def test_no_circle_of_folders() -> None:
    """Folders of one package, the files beside its __main__ left out: those are its drivers and its vocabulary."""
    edges = defaultdict(set)
    for name, other in module_edges():
        one, two = MODULES[name].parent, MODULES[other].parent
        if one != two and one.parts[0] == two.parts[0] and len(one.parts) > 1 and len(two.parts) > 1:
            edges[one.parts[0]].add((str(one), str(two)))
    assert {package: circles(found) for package, found in edges.items() if circles(found)} == {}


@pytest.mark.parametrize(
    "module",
    [
        "moe.placement",
        "moe.placement.solve",
        "moe.routing_trace",
        "moe.collective_trace",
        "moe.replay",
        "moe.report.report",
        "moe.dispatch.messages",
        "moe.files",
        "moe.config",
        "moe.__main__",
        "netsim",
        "netsim.__main__",
        "trainer.__main__",
        "trainer.model.config",
        "trainer.model.gpt_config",
        "trainer.trace.formula",
    ],
)
def test_a_fresh_interpreter_stays_light(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert HEAVY & set(result.stdout.split()) == set()
