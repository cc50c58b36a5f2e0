"""What tests of placements share."""

from collections.abc import Iterator

import pytest

from moe.report import experts_section, layer_section, report, traffic_section


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    for module in (experts_section, layer_section, report, traffic_section):
        patch.setattr(module, "chart", lambda *_, **__: '<svg xmlns="http://www.w3.org/2000/svg"/>')


@pytest.fixture(scope="module")
def blank_pictures() -> Iterator[None]:
    """Leaves the pictures of reports empty: to draw them takes most of the time of a small placement."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


@pytest.fixture
def blank_pictures_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one test."""
    draw_nothing(monkeypatch)
