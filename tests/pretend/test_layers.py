"""Every router with every dispatch on the pretend device: nothing mixes, the bits are right, the host hardly waits."""

from typing import get_args

import pytest

from moe.config import MoEConfig, RouterConfig
from tests.pretend.layers import ROUTERS, Pass, passes
from tests.pretend.process import on_device

DISPATCHES = get_args(MoEConfig.model_fields["dispatch"].annotation)
TOLERANCE = 1e-5
MOST_WAITS = {"home": 1, "copies": 1}
"""Synchronisations of a layer and pass, forward and backward together; in capped dispatch none."""
ON_THE_HOST = ("base",)
"""Routers that solve their problem on the host by their definition."""


@pytest.fixture(scope="module", params=DISPATCHES)
def dispatched(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Pass]]]:
    """A dispatch, and for each rank the pass of every router."""
    dispatch: str = request.param
    ranks, node = (4, 2) if dispatch == "hierarchical" else (2, None)
    return dispatch, on_device(passes, ranks, dispatch, ranks, node)


def test_every_kind_of_router_is_here() -> None:
    union, _ = get_args(RouterConfig)
    kinds = {kind.model_fields["kind"].default for kind in get_args(union)}
    assert {router["kind"] for router in ROUTERS.values()} == kinds


@pytest.mark.parametrize("router", ROUTERS)
def test_a_layer_computes_on_the_device_what_it_computes_on_the_cpu(
    dispatched: tuple[str, list[dict[str, Pass]]], router: str
) -> None:
    dispatch, ranks = dispatched
    for of_rank in ranks:
        found = of_rank[router]
        assert not found.refused or dispatch == "coherent"
        assert found.error < TOLERANCE


@pytest.mark.parametrize("router", ROUTERS)
def test_the_host_hardly_waits_in_a_layer(dispatched: tuple[str, list[dict[str, Pass]]], router: str) -> None:
    dispatch, ranks = dispatched
    if router in ON_THE_HOST:
        pytest.skip("the host solves it by definition")
    if dispatch not in MOST_WAITS and dispatch != "capped":
        pytest.skip("it waits once for the sizes of each of its several messages, which no limit is set on")
    for of_rank in ranks:
        found = of_rank[router]
        most = 0 if dispatch == "capped" and found.has_cap else 1
        assert found.waits.total() <= most, found.waits
        assert not found.staged
