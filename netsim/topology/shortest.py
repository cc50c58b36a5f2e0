"""All shortest routes between the nodes of a graph, or an even selection among them."""

from collections.abc import Iterator, Sequence
from functools import cache

from netsim.draws import mix
from netsim.topology.protocol import Path

Outgoing = Sequence[Sequence[tuple[int, int]]]
"""Links of each node, with the node that each leads to; every link has a reverse link."""


def distances(outgoing: Outgoing, starts: Sequence[int]) -> dict[int, int]:
    """Number of links from the nearest of `starts` to every node that can be reached, in ascending order."""
    distance = dict.fromkeys(starts, 0)
    queue = list(distance)
    for node in queue:
        for _, following in outgoing[node]:
            if following not in distance:
                distance[following] = distance[node] + 1
                queue.append(following)
    return distance


class ShortestPaths:
    """Shortest paths by number of links, in the order in which the nodes' links are given.

    Of more than `most` paths, `most` distinct ones are selected: each node splits its share over its links in
    proportion to the number of paths behind each, rounded up or down. A hash of the two ends decides which links round
    up, so that different pairs of nodes use different links.
    """

    def __init__(self, outgoing: Outgoing, most: int) -> None:
        self._outgoing = outgoing
        self._most = most
        self._towards = cache(self._onward)

    def __call__(self, src: int, dst: int) -> tuple[Path, ...]:
        """Routes between two nodes, each as its links; one empty route from a node to itself."""
        distance, routes = self._towards(dst)
        if src not in distance:
            return ()
        beginnings: list[tuple[Path, int, int]] = [((), src, min(self._most, routes[src]))]
        draw = mix(mix(src) + dst)
        for step in range(distance[src]):
            beginnings = [
                ((*path, link), following, share)
                for place, (path, node, quota) in enumerate(beginnings)
                for link, following, share in self._shares(node, dst, quota, mix(mix(draw + step) + place))
            ]
        return tuple(path for path, _, _ in beginnings)

    def _onward(self, dst: int) -> tuple[dict[int, int], dict[int, int]]:
        """For each node its distance to `dst` and its number of shortest routes there."""
        distance = distances(self._outgoing, [dst])
        routes = {dst: 1}
        for node in [*distance][1:]:
            behind = (following for _, following in self._outgoing[node])
            routes[node] = sum(routes[following] for following in behind if distance[following] < distance[node])
        return distance, routes

    def _shares(self, node: int, dst: int, quota: int, draw: int) -> Iterator[tuple[int, int, int]]:
        """Links that lead nearer, the node behind, and how many of `quota` routes go there: every total/quota-th."""
        distance, routes = self._towards(dst)
        taken, passed = 0, draw % routes[node]
        for link, following in self._outgoing[node]:
            if distance[following] < distance[node]:
                passed += routes[following] * quota
                share = passed // routes[node] - taken
                taken += share
                if share:
                    yield link, following, share
