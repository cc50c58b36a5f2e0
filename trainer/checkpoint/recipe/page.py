"""One page of Python made of modules: their imports once at the top, and what they define one behind the other."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "trainer"
_STANDARD = ("import json", "import math")
_NOTE = re.compile(r"  # noqa.*$")


def page(modules: Iterable[str]) -> str:
    """The source of modules of this folder as one program, without their docstrings and their imports of each other.

    Those that others use come first; no two define the same name.
    """
    imports: set[str] = set()
    definitions = []
    for module in modules:
        source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        nodes = ast.parse(source).body[1:]  # behind the docstring
        lines = source.splitlines()
        for node in nodes:
            match node:
                case ast.ImportFrom(module=str(name)) if name.partition(".")[0] == PACKAGE:
                    continue
                case ast.Import() | ast.ImportFrom():
                    imports.add(ast.unparse(node))
                case ast.ClassDef() | ast.FunctionDef():
                    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                    definitions.append("\n".join(_NOTE.sub("", line) for line in lines[first - 1 : node.end_lineno]))
    groups = ([line for line in imports if (line in _STANDARD) == standard] for standard in (True, False))
    blocks = ("\n".join(sorted(group, key=lambda line: (line.startswith("from"), line))) for group in groups if group)
    return "\n\n".join(blocks) + "\n\n\n" + "\n\n\n".join(definitions) + "\n"
