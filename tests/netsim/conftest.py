"""What tests of whole commands share."""

from collections.abc import Iterator

import pytest

from netsim.report import collectives, completion, links, over_time, recorded, sweep, sweep_page


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    for module in (collectives, completion, links, over_time, recorded, sweep, sweep_page):
        patch.setattr(module, "chart", lambda *_, **__: '<svg xmlns="http://www.w3.org/2000/svg"/>')


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
