"""Units that have been simulated, and where to find them again."""

from collections.abc import Iterable, Sequence

import numpy as np

from netsim.engine.exact.layout import Layout
from netsim.engine.forward.state import Kinds
from netsim.engine.forward.unit import Simulator, Units


class Library:
    """Units of a run.

    A message that is released alone is as another if its flows have the same sizes, and links of the same rates and
    delays meet in the same way on their paths: only the links' numbers, its binding, differ.

    Args:
        simulator: Simulates units.
        layout: The scene as arrays.
    """

    def __init__(self, simulator: Simulator, layout: Layout) -> None:
        self.units = Units.none()
        self._simulator = simulator
        self._columns = layout.columns
        fabric = layout.fabric
        rates = fabric.rate_bps[fabric.change_begin[:-1]].tolist()
        self._nature = list(zip(rates, fabric.delay_ps.tolist(), fabric.at_switch.tolist(), strict=True))
        self._kinds: dict[tuple[int, int, int], int] = {}
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
        """Kind of each message, if it is released alone; simulates those that are new.

        Args:
            tasks: The messages.
            width_ps: See `netsim.engine.forward.unit.Simulator.simulate`.
        """
        columns = self._columns
        parts = columns.src[tasks].tolist(), columns.dst[tasks].tolist(), columns.bytes[tasks].tolist()
        keys = list(zip(*parts, strict=True))
        fresh = {key: task for key, task in zip(keys, tasks.tolist(), strict=True) if key not in self._kinds}
        shapes: dict[tuple[object, ...], tuple[int, tuple[int, ...]]] = {}
        if fresh:
            found = self._simulator.flows_of(np.array(list(fresh.values()), dtype=np.int64), apart=True)
            for (key, task), flows in zip(fresh.items(), found, strict=True):
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
        return np.array([self._kinds[key] for key in keys], dtype=np.int64)

    def groups_of(self, tasks: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Messages that are released in one instant, by the links that they share: groups, and those that share none.

        Args:
            tasks: The messages, ascending.
        """
        key = self._key(tasks)
        if key not in self._parted:
            self._parted[key] = _connected([flow[1] for flow in flows] for flows in self._simulator.flows_of(tasks))
        groups = self._parted[key]
        alone = [group[0] for group in groups if len(group) == 1]
        return [tasks[group] for group in groups if len(group) > 1], tasks[alone]

    def group(self, tasks: np.ndarray, width_ps: int, *, numbered: bool) -> tuple[int, int]:
        """Unit and binding of messages that are released together.

        Args:
            tasks: The messages, ascending.
            width_ps: See `netsim.engine.forward.unit.Simulator.simulate`.
            numbered: The unit depends on the numbers of its tasks.
        """
        key = self._key(tasks) + (tasks.tobytes() if numbered else b"")
        if key not in self._groups:
            units = self._simulator.simulate(tasks, width_ps, numbered=numbered)
            binding = tuple(units.link.tolist())
            self._groups[key] = self.units.count, self._bound(binding)
            self.units = self.units.joined(units.bound([binding]))
        return self._groups[key]

    def joint(self, tasks: np.ndarray, release_ps: np.ndarray, binding: int, width_ps: int) -> int:
        """A new unit of messages that meet under way.

        Args:
            tasks: The messages, ascending.
            release_ps: Their releases, the first at 0.
            binding: Their links.
            width_ps: See `netsim.engine.forward.unit.Simulator.simulate`.
        """
        units = self._simulator.simulate(tasks, width_ps, release_ps)
        links = self._links[binding : binding + len(units.link)]
        self.units = self.units.joined(units.bound([links]))
        return self.units.count - 1

    def _key(self, tasks: np.ndarray) -> bytes:
        """What messages are, whatever their numbers."""
        columns = self._columns
        return np.concatenate([columns.src[tasks], columns.dst[tasks], columns.bytes[tasks]]).tobytes()

    def _shape(self, flows: list[tuple[int, tuple[int, ...]]]) -> tuple[tuple[object, ...], tuple[int, ...]]:
        """What a message has in common with others like it, and its binding."""
        places: dict[int, int] = {}
        paths = tuple((size, *(places.setdefault(link, len(places)) for link in path)) for size, path in flows)
        binding = tuple(places)
        return (paths, *(self._nature[link] for link in binding)), binding

    def _bound(self, binding: tuple[int, ...]) -> int:
        """First entry of a binding among the links."""
        if binding not in self._bindings:
            self._bindings[binding] = len(self._links)
            self._links += binding
        return self._bindings[binding]


def _connected(messages: Iterable[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Indices of messages, by paths that share links."""
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
