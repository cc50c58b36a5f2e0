"""What holds for the tests of netsim."""

import pytest


@pytest.fixture(autouse=True)
def engines_as_if_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that `auto` takes does not depend on what has been compiled before a test."""
    monkeypatch.setattr("netsim.compare.is_compiled", lambda _: True)
