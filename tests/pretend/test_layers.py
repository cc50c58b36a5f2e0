"""Every router with every dispatch on the pretend device: nothing mixes, the bits are right, the host hardly waits."""

from collections.abc import Callable
from functools import cache
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

WITH_EVERY_ROUTER = ("home", "capped")
"""Dispatches that limits of waits are set on: one in which experts take whatever comes, and one that is capped."""
WITH_EVERY_DISPATCH = ("top_k", "sparse_ot over all ranks")
"""Routers without messages of their own, and with some."""
QUICK = [
    (dispatch, router)
    for dispatch in DISPATCHES
    for router in ROUTERS
    if dispatch in WITH_EVERY_ROUTER or router in WITH_EVERY_DISPATCH
]
PAIRS = [
    pytest.param(dispatch, router, marks=() if (dispatch, router) in QUICK else pytest.mark.slow)
    for dispatch in DISPATCHES
    for router in ROUTERS
]
Found = Callable[[str, str], list[Pass]]


@pytest.fixture(scope="module")
def found() -> Found:
    """What a router showed with a dispatch on each rank: run with those of the dispatch that are quick or not."""

    @cache
    def together(dispatch: str, *, quick: bool) -> list[dict[str, Pass]]:
        routers = [router for router in ROUTERS if ((dispatch, router) in QUICK) == quick]
        ranks, node = (4, 2) if dispatch == "hierarchical" else (2, None)
        return on_device(passes, ranks, dispatch, ranks, node, routers)

    return lambda dispatch, router: [
        of_rank[router] for of_rank in together(dispatch, quick=(dispatch, router) in QUICK)
    ]


def test_every_kind_of_router_is_here() -> None:
    union, _ = get_args(RouterConfig)
    kinds = {kind.model_fields["kind"].default for kind in get_args(union)}
    assert {router["kind"] for router in ROUTERS.values()} == kinds


@pytest.mark.parametrize(("dispatch", "router"), PAIRS)
def test_a_layer_computes_on_the_device_what_it_computes_on_the_cpu(found: Found, dispatch: str, router: str) -> None:
    for of_rank in found(dispatch, router):
        assert not of_rank.refused or dispatch == "coherent"
        assert of_rank.error < TOLERANCE


@pytest.mark.parametrize(("dispatch", "router"), PAIRS)
def test_the_host_hardly_waits_in_a_layer(found: Found, dispatch: str, router: str) -> None:
    if router in ON_THE_HOST:
        pytest.skip("the host solves it by definition")
    if dispatch not in MOST_WAITS and dispatch != "capped":
        pytest.skip("it waits once for the sizes of each of its several messages, which no limit is set on")
    for of_rank in found(dispatch, router):
        most = 0 if dispatch == "capped" and of_rank.has_cap else 1
        assert of_rank.waits.total() <= most, of_rank.waits
        assert not of_rank.staged
