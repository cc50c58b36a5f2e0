"""What a user names is printed as it is written."""

import io
import re
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

import trainer.__main__
from netsim.foundation.terminal import Terminal

ROOT = Path(__file__).parents[2]
ODD = "[bold]a[/] [/red] :smile: [link=x]b"


@pytest.fixture
def seen() -> io.StringIO:
    return io.StringIO()


def test_markup_in_a_line_a_table_and_a_spinner_is_text(seen: io.StringIO) -> None:
    terminal = Terminal(file=seen, width=200, force_terminal=True, color_system=None, highlight=False)
    terminal.print(ODD)
    table = Table(ODD, title=f"title {ODD}")
    table.add_row(f"cell {ODD}")
    terminal.print(table)
    with terminal.status(f"first {ODD}") as status:
        status.update(f"then {ODD}")
    text = seen.getvalue()
    assert text.count(ODD) == text.count(":smile:") >= 5
    assert all(f"{word} {ODD}" in text for word in ("title", "cell", "then"))


def test_no_package_prints_with_markup() -> None:
    """Every console is one that reads none, and so is every column of a progress display."""
    for package in ("trainer", "moe", "netsim"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            bare = re.findall(r"\bTextColumn\(\"\{[^)]*\)", text)
            assert all("markup=False" in column for column in bare), path
            if package != "netsim" and path.name != "terminal.py":
                assert not re.search(r"\bConsole\(", text), path


def test_a_run_whose_folder_looks_like_markup_is_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text(
        "run: {dir: runs/a}\nmodel: {kind: mlp, hidden: 8}\ndata: {kind: toy}\nflow: {}\n"
        "optim: {steps: 2, global_batch: 4}\n"
    )
    folder = tmp_path / "[bold]x[" / "red]"
    assert trainer.__main__.main(["check", str(config), "--all", f"run.dir='{folder}'"]) == 0
    assert str(folder) in capsys.readouterr().out


def test_a_progress_display_shows_text(seen: io.StringIO) -> None:
    terminal = Terminal(file=seen, width=100, force_terminal=True, color_system=None)
    with Progress(TextColumn("{task.description}", markup=False), console=terminal) as progress:
        progress.add_task(ODD)
    assert ODD in seen.getvalue()
