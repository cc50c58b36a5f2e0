"""Compiled code that was kept goes when anything that it may be made of has changed."""

from netsim.engine.compiled import cache


def test_kept_code_stays_while_sources_do_and_goes_when_they_change(tmp_path, monkeypatch):
    kept = tmp_path / "__pycache__"
    kept.mkdir()
    old = kept / "kernel.run-1.py311.nbi"
    old.write_text("compiled from what nobody knows")
    cache.forget_if_outdated(tmp_path)
    assert not old.exists()
    old.write_text("compiled from these sources")
    cache.forget_if_outdated(tmp_path)
    assert old.exists()
    monkeypatch.setattr(cache, "_digest", lambda: "other sources")
    cache.forget_if_outdated(tmp_path)
    assert not old.exists()


def test_code_compiled_before_anything_was_kept_stays(tmp_path):
    """Where PYTHONDONTWRITEBYTECODE is set the folder comes with the first kernel."""
    cache.forget_if_outdated(tmp_path)
    first = tmp_path / "__pycache__" / "kernel.run-1.py311.nbi"
    first.write_text("compiled from these sources")
    cache.forget_if_outdated(tmp_path)
    assert first.exists()
