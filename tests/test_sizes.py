"""The figures of `python -m tests.imports --sizes`, on a checkout that can be counted by hand."""

from pathlib import Path

import pytest

from tests.imports import Tree
from tests.sizes import Kinds, Sizes, kinds_of

TEXT = '''"""A module.

Two lines."""

import os
from pathlib import (
    Path,
)

# A comment.


class Part:
    """One."""

    field: int = 0
    """Below a field."""

    def call(self) -> str:
        return """not
a docstring"""
'''


def test_lines_are_told_apart() -> None:
    assert kinds_of(TEXT) == Kinds(lines=21, code=5, docstrings=5, imports=4)


@pytest.fixture
def sizes(tmp_path: Path) -> Sizes:
    texts = {
        "trainer/__init__.py": "",
        "trainer/flow/__init__.py": "",
        "trainer/flow/a.py": "from trainer.flow import b\nfrom moe import c\n",
        "trainer/flow/b.py": "from moe.c import C\n\n\nclass FlowMatching: ...\n",
        "moe/__init__.py": "",
        "moe/c.py": "class C: ...\n",
        "netsim/__init__.py": "",
        "netsim/d.py": "x = 1\n" * 70,
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Sizes(Tree(tmp_path))


def test_files_with_one_importer_and_reach_follow_the_imports(sizes: Sizes) -> None:
    assert sizes.single_files == {Path("trainer/flow/b.py")}, "two files import c, and none d"
    assert sizes.reach("trainer.flow.a") == (3, 7, 2)
    assert sizes.reach("trainer.flow.b") == (2, 5, 1)
    assert sizes.entry("FlowMatching") == "trainer.flow.b"
    with pytest.raises(LookupError, match=r"0 modules of trainer\.training define train"):
        sizes.entry("training loop")


def test_rows_are_of_one_package_or_of_all(sizes: Sizes) -> None:
    rows = sizes.rows("all")
    assert (rows["lines"], rows["files"], rows["files under 60 lines"]) == ("77", "8", "3 (38%)")
    assert (rows["median file"], rows["largest file"]) == ("3", "70")
    assert sizes.rows("trainer")["share of imports"] == "50.0%"
    assert sizes.folders() == (6, 3)
