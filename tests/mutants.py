"""Which small errors in the product the tests notice.

    python -m tests.mutants FILE... --tests PATH... [--sample 60] [--seed 0] [--out F] [--against F]

A mutant is a file of the product with one error: a comparison, an operator, a condition or a
number is another one. The tests should fail with it. The same seed draws the same mutants as
long as the files of the product are the same, so two suites can be compared: `--against` names
every mutant that the earlier suite noticed and this one does not, and exits with 1. The files are
changed in place, one at a time, and restored: edit nothing in the folder while it runs.
"""

import argparse
import ast
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from netsim.foundation.files import replacing

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
}


class Mutant(NamedTuple):
    """A file of the product with one error in it."""

    file: Path
    name: str
    source: str


def drawn(files: Sequence[Path], sample: int, seed: int) -> list[Mutant]:
    """Mutants of some files, drawn without a repeat."""
    places = [(file, place) for file in files for place, _ in enumerate(_mutable(ast.parse(file.read_text())))]
    return [_mutant(*place) for place in random.Random(seed).sample(places, min(sample, len(places)))]


def _mutant(file: Path, place: int) -> Mutant:
    tree = ast.parse(file.read_text())
    node = next(islice(_mutable(tree), place, None))
    before = ast.unparse(node)
    _change(node)
    return Mutant(
        file, f"{file}:{node.lineno}:{node.col_offset} {before} -> {ast.unparse(node)}"[:200], ast.unparse(tree)
    )


def _mutable(tree: ast.AST) -> Iterator[ast.expr]:
    """Expressions that can be changed; annotations and decorators are left alone."""
    for name, value in ast.iter_fields(tree):
        if name in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if _changes(child):
                assert isinstance(child, ast.expr)
                yield child
            yield from _mutable(child)


def _changes(node: ast.AST) -> bool:
    match node:
        case ast.Compare(ops=[operator]):
            return type(operator) in COMPARISONS
        case ast.BinOp(op=operator, left=left):
            return type(operator) in OPERATORS and not (isinstance(left, ast.Constant) and isinstance(left.value, str))
        case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Constant(value=bool() | int()):
            return True
        case _:
            return False


def _change(node: ast.expr) -> None:
    match node:
        case ast.Compare(ops=[operator]):
            node.ops = [COMPARISONS[type(operator)]()]
        case ast.BinOp(op=operator):
            node.op = OPERATORS[type(operator)]()
        case ast.BoolOp(op=operator):
            node.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
        case ast.UnaryOp(operand=operand):
            node.operand = ast.UnaryOp(ast.Not(), operand)
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value)):
            node.value = value + 1
        case _:
            raise AssertionError(ast.dump(node))


def is_noticed(mutant: Mutant, tests: Sequence[str], limit_s: float) -> bool:
    """Whether a test fails with the mutant, or does not end."""
    original = mutant.file.read_text()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        *tests,
    ]
    fresh = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # mutants of one second and one size share a cache file
    try:
        mutant.file.write_text(mutant.source)
        return subprocess.run(command, env=fresh, capture_output=True, timeout=limit_s, check=False).returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        mutant.file.write_text(original)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="files or folders of the product")
    parser.add_argument("--tests", nargs="+", required=True, help="tests that should notice")
    parser.add_argument("--sample", type=int, default=60, help="mutants to draw (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--limit", type=float, default=300, metavar="S", help="seconds after which a run counts as noticed"
    )
    parser.add_argument("--out", type=Path, help="write each mutant and whether it was noticed")
    parser.add_argument("--against", type=Path, help="what an earlier suite noticed, from --out")
    settings = parser.parse_args()
    files = sorted({file for path in settings.files for file in ([path] if path.is_file() else path.rglob("*.py"))})
    noticed: dict[str, bool] = {}
    for mutant in track(drawn(files, settings.sample, settings.seed), description="mutants"):
        noticed[mutant.name] = is_noticed(mutant, settings.tests, settings.limit)
    print(f"{sum(noticed.values())} of {len(noticed)} mutants were noticed")
    for name in (name for name, seen in noticed.items() if not seen):
        print(f"  survives: {name}")
    if settings.out:
        with replacing(settings.out) as part:
            part.write_text(json.dumps(noticed, indent=1))
    before: dict[str, bool] = json.loads(settings.against.read_text()) if settings.against else {}
    lost = [name for name, seen in before.items() if seen and noticed.get(name) is False]
    for name in lost:
        print(f"  noticed before, not now: {name}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
