"""Units that have been simulated, and where to find them again."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from netsim.engine.exact.layout import Layout
from netsim.engine.forward.likeness import Likeness
from netsim.engine.forward.progress import Kinds
from netsim.engine.forward.unit import Simulator, Units


class Library:
    """The units of a run that have been simulated.

    Two messages that are released alone are alike by path if their flows have the same sizes and pass links of the
    same rates and delays in the same pattern. Only the numbers of their links differ, which are a unit's binding.
    """

    def __init__(self, simulator: Simulator, layout: Layout, likeness: Likeness) -> None:
        self.units = Units.none()
        self._simulator, self._likeness = simulator, likeness
        self._columns = layout.columns
        self._draws_as = np.arange(len(layout.columns.bytes)) if layout.keys is None else layout.keys
        fabric = layout.fabric
        rates = fabric.rate_bps[fabric.change_begin[:-1]].tolist()
        self._nature = list(zip(rates, fabric.delay_ps.tolist(), fabric.at_switch.tolist(), strict=True))
        self._kinds: dict[tuple[int, ...], int] = {}
        self._shapes: dict[tuple[object, ...], int] = {}
        self._bindings: dict[tuple[int, ...], int] = {}
        self._parted: dict[bytes, list[list[int]]] = {}
        self._groups: dict[bytes, tuple[int, int]] = {}
        self._unit: list[int] = []
        self._binding: list[int] = []
        self._links: list[int] = []

    @property
    def kinds(self) -> Kinds:
        """Messages that are released alone, and links of all units."""
        parts = self._unit, self._binding, self._links
        return Kinds(*(np.array(part, dtype=np.int64) for part in parts))

    def kinds_of(self, tasks: np.ndarray, width_ps: int) -> np.ndarray:
        """Kind of each message as released alone; simulates new kinds."""
        keys = list(zip(*(part.tolist() for part in self._parts(tasks, self._likeness.drawn_alone)), strict=True))
        fresh = {key: task for key, task in zip(keys, tasks.tolist(), strict=True) if key not in self._kinds}
        if self._likeness.by_path:
            self._learn_by_path(fresh, width_ps)
        elif fresh:
            self._learn(fresh, width_ps)
        return np.array([self._kinds[key] for key in keys], dtype=np.int64)

    def _learn(self, fresh: dict[tuple[int, ...], int], width_ps: int) -> None:
        """Simulates each new message by itself."""
        units = self._simulator.simulate(np.array(list(fresh.values()), dtype=np.int64), width_ps, apart=True)
        links, ends = units.link.tolist(), units.link_begin.tolist()
        bindings = [tuple(links[begin:end]) for begin, end in pairwise(ends)]
        for number, (key, binding) in enumerate(zip(fresh, bindings, strict=True)):
            self._kinds[key] = len(self._unit)
            self._unit.append(self.units.count + number)
            self._binding.append(self._bound(binding))
        self.units = self.units.joined(units.bound(bindings))

    def _learn_by_path(self, fresh: dict[tuple[int, ...], int], width_ps: int) -> None:
        """Simulates one new message of each set that is alike by path."""
        shapes: dict[tuple[object, ...], tuple[int, tuple[int, ...]]] = {}
        if fresh:
            simulated = self._simulator.flows_of(np.array(list(fresh.values()), dtype=np.int64), np.arange(len(fresh)))
            for (key, task), flows in zip(fresh.items(), simulated, strict=True):
                shape, binding = self._shape(flows)
                if shape not in self._shapes:
                    self._shapes[shape] = self.units.count + len(shapes)
                    shapes[shape] = task, binding
                self._kinds[key] = len(self._unit)
                self._unit.append(self._shapes[shape])
                self._binding.append(self._bound(binding))
        if shapes:
            examples, bindings = zip(*shapes.values(), strict=True)
            units = self._simulator.simulate(np.array(examples, dtype=np.int64), width_ps, apart=True)
            self.units = self.units.joined(units.bound(bindings))

    def groups_of(self, tasks: np.ndarray, release_ps: np.ndarray) -> tuple[list[list[int]], list[int]]:
        """Groups of messages that share links, as places in `tasks`, and places of messages that share none."""
        key = self._key(tasks, release_ps, drawn=self._likeness.drawn_alone)
        if key not in self._parted:
            flows = self._simulator.flows_of(tasks, release_ps)
            self._parted[key] = _connected([path for _, path in of_message] for of_message in flows)
        groups = self._parted[key]
        return [group for group in groups if len(group) > 1], [group[0] for group in groups if len(group) == 1]

    def group(self, tasks: np.ndarray, release_ps: np.ndarray, width_ps: int, *, several: bool) -> tuple[int, int]:
        """Unit and binding of messages that share links, the earliest released at 0; `several`: some have one host."""
        drawn = self._likeness.drawn_alone or (self._likeness.drawn_together and several)
        key = self._key(tasks, release_ps, drawn=drawn)
        if key not in self._groups:
            units = self._simulator.simulate(tasks, width_ps, release_ps)
            binding = tuple(units.link.tolist())
            self._groups[key] = self.units.count, self._bound(binding)
            self.units = self.units.joined(units.bound([binding]))
        return self._groups[key]

    def joint(self, tasks: np.ndarray, release_ps: np.ndarray, binding: int, width_ps: int) -> int:
        """A new unit of messages that meet under way."""
        units = self._simulator.simulate(tasks, width_ps, release_ps)
        links = self._links[binding : binding + len(units.link)]
        self.units = self.units.joined(units.bound([links]))
        return self.units.count - 1

    def _key(self, tasks: np.ndarray, release_ps: np.ndarray, *, drawn: bool) -> bytes:
        """Key of a set of messages: ends, sizes and releases, and draw keys if `drawn`."""
        return np.concatenate([*self._parts(tasks, drawn), release_ps]).tobytes()

    def _parts(self, tasks: np.ndarray, drawn: bool) -> list[np.ndarray]:
        """Sources, destinations and sizes of messages and, if `drawn`, their draw keys."""
        columns = self._columns
        parts = [columns.src[tasks], columns.dst[tasks], columns.bytes[tasks]]
        return [*parts, self._draws_as[tasks]] if drawn else parts

    def _shape(self, flows: list[tuple[int, tuple[int, ...]]]) -> tuple[tuple[object, ...], tuple[int, ...]]:
        """The shape of a message, equal for messages alike by path, and its binding: the numbers of its links."""
        places: dict[int, int] = {}
        paths = tuple((size, *(places.setdefault(link, len(places)) for link in path)) for size, path in flows)
        binding = tuple(places)
        return (paths, *(self._nature[link] for link in binding)), binding

    def _bound(self, binding: tuple[int, ...]) -> int:
        """Index at which the links of a binding begin in the list of all bindings' links."""
        if binding not in self._bindings:
            self._bindings[binding] = len(self._links)
            self._links += binding
        return self._bindings[binding]


def _connected(messages: Iterable[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Groups messages, as indices, whose paths are connected by shared links."""
    parent: dict[int, int] = {}

    def root(link: int) -> int:
        while parent.setdefault(link, link) != link:
            parent[link] = link = parent[parent[link]]
        return link

    first = []
    for paths in messages:
        first.append(paths[0][0])
        for path in paths:
            for link in path:
                parent[root(link)] = root(first[-1])
    groups: dict[int, list[int]] = {}
    for index, link in enumerate(first):
        groups.setdefault(root(link), []).append(index)
    return list(groups.values())
