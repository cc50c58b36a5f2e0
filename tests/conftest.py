"""What holds for all tests, and pictures that those of whole commands do without."""

import gc
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import pytest

import moe.report
import netsim.report


def pytest_collection() -> None:
    """Looks for no garbage among modules and cases that all stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Spares every search for garbage what has been imported by now: runs and verbs begin and end with a search."""
    gc.collect()
    gc.freeze()
    gc.enable()


BLANK = '<svg xmlns="http://www.w3.org/2000/svg"/>'


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("netsim.foundation.chart.svg_of", lambda *_, **__: BLANK)
    for package in (moe.report, netsim.report):
        for _, name, _ in iter_modules(package.__path__, f"{package.__name__}."):
            module = import_module(name)
            if hasattr(module, "chart"):
                patch.setattr(module, "chart", lambda *_, **__: BLANK)


@pytest.fixture(scope="module")
def blank_pictures() -> Iterator[None]:
    """Leaves the pictures of pages empty: to draw them takes most of the time of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


@pytest.fixture
def blank_pictures_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one test."""
    draw_nothing(monkeypatch)
