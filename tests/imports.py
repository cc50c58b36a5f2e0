"""The imports of the three packages: who may import whom, and how they stand. `python -m tests.imports` prints it."""

import argparse
import ast
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainer", "moe", "netsim")
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "trainer": (
        ("data", "flow"),
        ("config",),
        ("model",),
        ("checkpoint", "distributed"),
        ("observe", "sampling", "trace"),
        ("evaluation", "training"),
        ("task",),
        ("experiment",),
        ("command",),
        ("__main__",),
    ),
    "moe": (
        ("collective_trace", "host_copies", "ot", "repetition", "replica", "routing_trace", "seeds", "with_torch"),
        ("dispatch", "placement"),
        ("adapters", "config", "experts", "interchange", "router"),
        ("coherent_layer", "layer", "migration", "replay", "report"),
        ("place", "price"),
        ("command",),
        ("__main__",),
    ),
    "netsim": (
        ("foundation",),
        ("draws", "topology"),
        ("collective", "congestion", "transport", "workload"),
        ("calibration", "engine", "workers"),
        ("simulation",),
        ("report", "sweep"),
        ("command",),
        ("__main__",),
    ),
}
"""The folders and files at the top of each package from the lowest floor to the highest. A room may import what is on
its own floor or on a lower one."""
UPWARD: dict[tuple[str, str], str] = {}
"""Imports that run up, and the step that opens each."""
CIRCLES = {}
"""Rooms of a folder that import each other, and the step that opens each circle."""


class Tree:
    """The modules of the packages in one checkout, and what each imports."""

    def __init__(self, root: Path = ROOT) -> None:
        """Lists the files.

        Args:
            root: folder that holds the packages.
        """
        self.root = root
        self.files = sorted(path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*.py"))
        self.modules = {_module_name(path): path for path in self.files}
        self._imports: dict[Path, tuple[str, ...]] = {}

    def imports(self, path: Path) -> tuple[str, ...]:
        """Every module that a file imports, at the top or inside a function, by its full name."""
        if path not in self._imports:
            self._imports[path] = tuple(self._read(path))
        return self._imports[path]

    def _read(self, path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse((self.root / path).read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    yield from (name.name for name in names)
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    for name in names:
                        inner = f"{module}.{name.name}"
                        yield inner if inner in self.modules else module
                case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module))]):
                    yield module

    def roots(self, path: Path) -> set[str]:
        """The top-level packages that a file imports."""
        return {name.partition(".")[0] for name in self.imports(path)}

    @cached_property
    def edges(self) -> set[tuple[str, str]]:
        """(importing module, imported module) inside the packages."""
        return {
            (name, other)
            for name, path in self.modules.items()
            for other in self.imports(path)
            if other in self.modules
        }

    @cached_property
    def folders(self) -> list[str]:
        """Every folder that holds others or files, as ``netsim/engine``."""
        return sorted({str(parent) for path in self.files for parent in path.parents if parent.parts})

    def rooms(self, folder: str) -> set[str]:
        """Folders and files of a folder, such as a package, without its ``__init__.py``."""
        return {_room(path, folder) for path in self.files} - {"", "__init__"}

    def room_edges(self, folder: str) -> Mapping[tuple[str, str], list[tuple[str, str]]]:
        """The imports from one room of a folder to another, by (importing room, imported room).

        A room is a file of the folder, or a folder in it with all that is inside.
        """
        found: dict[tuple[str, str], list[tuple[str, str]]] = {}
        room = {name: _room(path, folder) for name, path in self.modules.items()}
        for name, other in sorted(pair for pair in self.edges if room[pair[0]] and room[pair[1]]):
            one, two = room[name], room[other]
            if one != two and not {one, two} & {"", "__init__"}:
                found.setdefault((one, two), []).append((name, other))
        return found

    def circles_of_rooms(self, folder: str) -> list[set[str]]:
        """Groups of rooms of a folder that import each other, with all that is below them."""
        return _circles(set(self.room_edges(folder)))

    def circles_of_modules(self) -> list[set[str]]:
        """Groups of modules that import each other."""
        return _circles(self.edges)

    def circles_of_folders(self) -> list[set[str]]:
        """Groups of folders of one package whose own files, without those of folders inside, import each other.

        Files beside ``__main__.py`` are left out.
        """
        pairs = ((self.modules[name].parent, self.modules[other].parent) for name, other in self.edges)
        return _circles(
            {
                (str(one), str(two))
                for one, two in pairs
                if one != two and one.parts[0] == two.parts[0] and min(len(one.parts), len(two.parts)) > 1
            }
        )


def upward(package: str, edges: Mapping[tuple[str, str], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """The imports of a package that run from a lower floor to a higher one, or touch a room without a floor."""
    floor = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms}
    return [
        pair
        for (room, other), pairs in edges.items()
        if room not in floor or other not in floor or floor[room] < floor[other]
        for pair in pairs
    ]


def drawn_floors(rooms: set[str], edges: Mapping[tuple[str, str], list[tuple[str, str]]]) -> tuple[int, int]:
    """Floors that rooms need where each stands above all that it imports, and the imports that run back up.

    A circle of rooms stands on floors one above the other, in the order with the fewest imports that run up (found by
    leaving out the lightest import of each circle in turn).
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(rooms)
    graph.add_weighted_edges_from((one, two, len(pairs)) for (one, two), pairs in edges.items())
    back = 0
    while not nx.is_directed_acyclic_graph(graph):
        circle = nx.find_cycle(graph)
        one, two = min(((edge[0], edge[1]) for edge in circle), key=lambda edge: (graph.edges[edge]["weight"], edge))
        back += graph.edges[one, two]["weight"]
        graph.remove_edge(one, two)
    return len(list(nx.topological_generations(graph))), back


def figures(tree: Tree, package: str) -> dict[str, int]:
    """Counts that say how easily a package is read."""
    edges = tree.room_edges(package)
    rooms = tree.rooms(package)
    floors, back = drawn_floors(rooms, edges)
    inside = {pair for pair in tree.edges if all(name.partition(".")[0] == package for name in pair)}
    return {
        "rooms": len(rooms),
        "folders": sum((tree.root / package / room).is_dir() for room in rooms),
        "floors": floors,
        "back up": back,
        "circles of rooms": len(tree.circles_of_rooms(package)),
        "circles of files": len(_circles(inside)),
        "files": sum(path.parts[0] == package for path in tree.files),
    }


def _module_name(path: Path) -> str:
    return ".".join(path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts)


def _room(path: Path, folder: str) -> str:
    """The room of a folder that a file is in; empty if it is outside."""
    if not path.is_relative_to(folder):
        return ""
    inside = path.relative_to(folder)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def _circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    return [circle for circle in nx.strongly_connected_components(nx.DiGraph(sorted(edges))) if len(circle) > 1]


def main() -> None:
    """Prints the figures of each package, and of another commit beside them where one is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.imports", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="a commit whose figures are printed above today's")
    parser.add_argument(
        "--sizes",
        action="store_true",
        help="lines, files, shares of code and docstrings, files with one importer, and how far entry points reach",
    )
    given = parser.parse_args()
    commit = given.against
    with tempfile.TemporaryDirectory() as folder:
        trees = {"now": Tree()}
        if commit is not None:
            archive = subprocess.run(["git", "archive", commit, *PACKAGES], cwd=ROOT, check=True, capture_output=True)
            subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
            trees = {commit: Tree(Path(folder)), **trees}
        if given.sizes:
            from tests.sizes import printed  # reads this module

            for name, tree in trees.items():
                print(name, *printed(tree), sep="\n")
            return
        for package in PACKAGES:
            for name, tree in trees.items():
                row = ", ".join(f"{value} {what}" for what, value in figures(tree, package).items())
                print(f"{package:8} {name[:12]:12} {row}")
    now = trees["now"]
    for package in PACKAGES:
        for name, other in upward(package, now.room_edges(package)):
            print(f"runs up: {name} -> {other} ({UPWARD.get((name, other), 'new')})")
    for circle in [*now.circles_of_modules(), *now.circles_of_folders()]:
        print(f"circle: {', '.join(sorted(circle))}")
    for parent in now.folders:
        for circle in now.circles_of_rooms(parent):
            opened = CIRCLES.get((parent, frozenset(circle)), "new")
            print(f"circle of rooms: {parent}: {', '.join(sorted(circle))} ({opened})")


if __name__ == "__main__":
    main()
