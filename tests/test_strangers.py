"""Input from strangers: a sample of the campaign, and the campaign's own eyes."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.strangers import run, watched


def test_whatever_a_stranger_hands_over_is_read_or_refused() -> None:
    ends = run(50, 39)
    assert all(sum(outcomes.values()) == 10 for outcomes in ends.values())
    assert all(outcome in ("read", "bad example", "refused") for outcomes in ends.values() for outcome in outcomes), (
        ends
    )
    for name in ("settings", "sizes", "peers"):
        assert set(ends[name]) == {"refused"}


def test_a_process_and_an_import_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with watched() as seen:
        subprocess.run([sys.executable, "-c", ""], check=True)
        importlib.import_module("stranger")
    sys.modules.pop("stranger")
    assert [event.split()[0] for event in seen if "fork" not in event][:2] == ["subprocess.Popen", "import"]
