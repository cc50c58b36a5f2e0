"""How large the packages are, and how far a reader has to go. `python -m tests.imports --sizes` prints it."""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

import networkx as nx

from tests.imports import PACKAGES, Tree, figures

ENTRIES = {
    "training loop": ("trainer.training", "train"),
    "configuration of a run": ("trainer.config", "RunConfig"),
    "FlowMatching": ("trainer.flow", "FlowMatching"),
    "MoE layer": ("moe", "PlacedMoELayer"),
    "netsim.simulate": ("netsim", "simulate"),
    "reference engine": ("netsim.engine", "ReferenceEngine"),
}
"""Where reading begins: the package and what one of its modules defines."""
SECTIONS = ("flow", "config", "model", "data", "task")
"""Folders of the trainer that hold settings, parts and what builds them."""
SHORT = 60


@dataclass(frozen=True)
class Kinds:
    """Lines of a file by what is on them.

    Attributes:
        lines: all of them.
        code: without docstrings, imports, comments and blank lines.
        docstrings: texts that nothing reads but people, below fields too.
        imports: whole statements.
    """

    lines: int
    code: int
    docstrings: int
    imports: int


def kinds_of(text: str) -> Kinds:
    """Counts the lines of a module."""
    kind: dict[int, str] = {}
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import() | ast.ImportFrom():
                name = "imports"
            case ast.Expr(value=ast.Constant(value=str())):
                name = "docstrings"
            case _:
                continue
        kind |= dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), name)
    outside = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in outside:
            for line in range(token.start[0], token.end[0] + 1):
                kind.setdefault(line, "code")
    counts = Counter(kind.values())
    return Kinds(len(text.splitlines()), counts["code"], counts["docstrings"], counts["imports"])


class Sizes:
    """Figures of one checkout."""

    def __init__(self, tree: Tree) -> None:
        """Reads the files.

        Args:
            tree: their imports.
        """
        self.tree = tree
        self.graph = nx.DiGraph(sorted(tree.edges))
        self.graph.add_nodes_from(tree.modules)

    @cached_property
    def kinds(self) -> dict[Path, Kinds]:
        """The lines of each file."""
        return {path: kinds_of((self.tree.root / path).read_text(encoding="utf-8")) for path in self.tree.files}

    def rows(self, package: str) -> dict[str, str]:
        """The figures of a package by their name; of all packages together for ``all``.

        The median and the short files leave out ``__init__.py``.
        """
        files = {path: kinds for path, kinds in self.kinds.items() if package in ("all", path.parts[0])}
        lines = sum(kinds.lines for kinds in files.values())
        lengths = [kinds.lines for path, kinds in files.items() if path.stem != "__init__"]
        found = {"lines": f"{lines:,}", "files": f"{len(files):,}"}
        for kind in ("code", "docstrings", "imports"):
            found[f"share of {kind}"] = f"{sum(getattr(kinds, kind) for kinds in files.values()) / lines:.1%}"
        short = sum(length < SHORT for length in lengths)
        found |= {
            "median file": f"{median(lengths):.0f}",
            "largest file": f"{max(lengths)}",
            f"files under {SHORT} lines": f"{short} ({short / len(files):.0%})",
            "imported by exactly one file": str(sum(path in self.single_files for path in files)),
        }
        counted = [figures(self.tree, one) for one in (PACKAGES if package == "all" else (package,))]
        found["floors"] = " ".join(str(one["floors"]) for one in counted)
        for name in ("back up", "circles of rooms"):
            found[name] = str(sum(one[name] for one in counted))
        return found

    @cached_property
    def single_files(self) -> set[Path]:
        """Files that exactly one other file imports."""
        return {
            path
            for name, path in self.tree.modules.items()
            if path.stem not in ("__init__", "__main__") and self.graph.in_degree(name) == 1
        }

    def folders(self, names: Sequence[str] = SECTIONS) -> tuple[int, int]:
        """Lines and files of folders of the trainer together."""
        inside = [
            kinds.lines for path, kinds in self.kinds.items() if path.parts[0] == "trainer" and path.parts[1] in names
        ]
        return sum(inside), len(inside)

    def reach(self, module: str) -> tuple[int, int, int]:
        """Files and lines that a module imports in the end, itself included, and how many it imports itself."""
        reached = {module, *nx.descendants(self.graph, module)}
        lines = sum(self.kinds[self.tree.modules[name]].lines for name in reached)
        return len(reached), lines, int(self.graph.out_degree(module))

    def entry(self, name: str) -> str:
        """The module where an entry point is defined.

        Raises:
            LookupError: none defines it, or several do.
        """
        package, defined = ENTRIES[name]
        found = [
            module
            for module, path in self.tree.modules.items()
            if module.startswith(package) and defined in _definitions(self.tree.root / path)
        ]
        if len(found) != 1:
            raise LookupError(
                f"tests/sizes.py: ENTRIES: {len(found)} modules of {package} define {defined}; name another"
            )
        return found[0]


def _definitions(path: Path) -> set[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def printed(tree: Tree) -> Iterator[str]:
    """The table of sizes, a line at a time."""
    sizes = Sizes(tree)
    columns = {package: sizes.rows(package) for package in (*PACKAGES, "all")}
    yield f"{'':<30}" + "".join(f"{package:>14}" for package in columns)
    for figure in columns["all"]:
        yield f"{figure:<30}" + "".join(f"{rows[figure]:>14}" for rows in columns.values())
    core = [path for package in PACKAGES for path in (tree.root / package).rglob("*.[ch]pp")]
    of_core = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in core)
    yield f"besides, in C++: {of_core:,} lines in {len(core)} files"
    lines, files = sizes.folders()
    yield f"{', '.join(SECTIONS)} of trainer: {lines:,} lines in {files} files"
    for name in ENTRIES:
        module = sizes.entry(name)
        files, lines, own = sizes.reach(module)
        yield f"reach of {name} ({module}): {files} files, {lines:,} lines; imports {own} itself"
