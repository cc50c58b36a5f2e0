"""A scene's fabric as arrays: links and their rates over time, and the routes between leaves that exchange traffic."""

from itertools import chain
from typing import NamedTuple

import numpy as np

from netsim.engine.protocol import Scene


class FabricArrays(NamedTuple):
    """Arrays of int64. L links, H hosts, K leaves, P pairs of leaves that talk, W routes of all of them, E epochs."""

    delay_ps: np.ndarray  # [L] propagation delay
    change_begin: np.ndarray  # [L + 1] rows of `change_ps` and `rate_bps` of each link
    change_ps: np.ndarray  # when a link's rate changes, the first entry of each link at 0
    rate_bps: np.ndarray  # rate from then on; 0 is down
    nominal_bps: np.ndarray  # [L] rate without failures
    at_switch: np.ndarray  # [L] 1 for links that begin at a switch
    reverse: np.ndarray  # [L] the other direction of the same cable
    up: np.ndarray  # [H] link from a host to its leaf
    down: np.ndarray  # [H] link from its leaf to a host
    inside: np.ndarray  # [H] link inside a host
    leaf: np.ndarray  # [H] leaf of a host
    pair: np.ndarray  # [K * K] index of the pair (src leaf * K + dst leaf), -1 if they do not talk
    route_begin: np.ndarray  # [P + 1] rows of `route_links` of each pair, in the order of `Topology.between`
    route_links: np.ndarray  # [W, longest] links of a route, -1 behind its end
    route_length: np.ndarray  # [W] links of a route
    minimal: np.ndarray  # [P] minimal routes of a pair, which come first
    epoch_ps: np.ndarray  # [E] when the routing's knowledge changes, the first at 0
    usable_begin: np.ndarray  # [P * E + 1] rows of `usable` for each pair and epoch (pair * E + epoch)
    usable: np.ndarray  # indices of usable routes within their pair


_last: list[tuple[Scene, FabricArrays]] = []


def fabric_arrays(scene: Scene) -> FabricArrays:
    """The fabric of a scene as arrays, whatever the transport and the seed. The latest scene's are cached."""
    if not _last or any(mine is not kept for mine, kept in zip(scene[:5], _last[0][0][:5], strict=True)):
        _last.clear()
        _last.append((scene, _fabric_arrays(scene)))
    return _last[0][1]


def _fabric_arrays(scene: Scene) -> FabricArrays:
    topology, rates, routing = scene.topology, scene.rates, scene.routes
    links, hosts, leaves = topology.links, range(topology.hosts), len(topology.tiers[0])
    steps = [rates.changes.get(index, [(0, rate)]) for index, rate in enumerate(rates.initial)]
    leaf = _int64(topology.leaf(host) for host in hosts)
    talking = np.flatnonzero(scene.talking)
    pairs = [divmod(code, leaves) for code in talking.tolist()]
    routes = [topology.between(*pair) for pair in pairs]
    longest = max((len(route) for of_pair in routes for route in of_pair), default=0)
    usable = [routing.usable_routes(*pair, epoch) for pair in pairs for epoch in range(len(routing.times))]
    pair = np.full(leaves * leaves, -1, dtype=np.int64)
    pair[talking] = np.arange(len(talking))
    padded = [route + (-1,) * (longest - len(route)) for of_pair in routes for route in of_pair]
    return FabricArrays(
        delay_ps=_int64(link.delay_ps for link in links),
        change_begin=_offsets(len(of_link) for of_link in steps),
        change_ps=_int64(time for of_link in steps for time, _ in of_link),
        rate_bps=_int64(rate for of_link in steps for _, rate in of_link),
        nominal_bps=_int64(rates.initial),
        at_switch=_int64(not link.src.startswith("host") for link in links),
        reverse=_int64(topology.reverse(index) for index in range(len(links))),
        up=_int64(topology.up(index) for index in hosts),
        down=_int64(topology.down(index) for index in hosts),
        inside=_int64(topology.inside(index) for index in hosts),
        leaf=leaf,
        pair=pair,
        route_begin=_offsets(len(of_pair) for of_pair in routes),
        route_links=np.array(padded, dtype=np.int64).reshape(len(padded), longest),
        route_length=_int64(len(route) for of_pair in routes for route in of_pair),
        minimal=_int64(routing.minimal(*pair) for pair in pairs),
        epoch_ps=_int64(routing.times),
        usable_begin=_offsets(len(indices) for indices in usable),
        usable=_int64(chain.from_iterable(usable)),
    )


def _int64(values: object) -> np.ndarray:
    return np.array([*values], dtype=np.int64)  # type: ignore[misc]


def _offsets(lengths: object) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(_int64(lengths))])
