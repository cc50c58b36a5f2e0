"""The event engine: the semantics of the reference engine except priority flow control, in compiled code.

The compiled loop stops only where arrays are full, or where a flow's path has failed: then, as in the reference engine,
the Python object of the transport chooses another.
"""

import numpy as np

from netsim.engine.compiled.fabric import FabricArrays, fabric_arrays
from netsim.engine.event import kernel
from netsim.engine.event.avoided import with_avoided
from netsim.engine.event.cutting import BALANCED
from netsim.engine.event.layout import state_of
from netsim.engine.event.outcome import outcome_of
from netsim.engine.event.room import (
    with_room_for_choices,
    with_room_for_flows,
    with_room_for_packets,
    with_room_for_released,
)
from netsim.engine.event.state import State
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.feedback import PATIENCE
from netsim.engine.stalled import stalled
from netsim.topology.protocol import places
from netsim.transport.ethereal import Ethereal
from netsim.transport.protocol import Flow, Release, Transport


class EventEngine:
    """One run; see `netsim.engine.event.refusal` for what it does not simulate.

    Args:
        scene: What must happen, and where.
        transport: Path choice.
        seed: Seed of the run, for the order of destinations and for marks.
        fabric: The scene's fabric as arrays; None: they are made.
    """

    def __init__(self, scene: Scene, transport: Transport, seed: int, fabric: FabricArrays | None = None) -> None:
        self._scene, self._transport = scene, transport
        state = state_of(scene, fabric or fabric_arrays(scene), transport, seed)
        self._place = places(scene.topology)
        self._moves = type(transport).on_timeout is not Transport.on_timeout
        self._cuts = type(transport).admit is not Transport.admit
        if state.network.rules["admission"][0] != BALANCED:
            sizes, parts = scene.tasks.columns().bytes, int(state.network.rules["parts"][0])
            packets = int((sizes[sizes > 0] // scene.packet.payload + parts).sum())
            state = with_room_for_flows(state, int(np.minimum(sizes, parts).sum()), packets)
        self._keep(state)

    def run(self) -> Outcome:
        """Simulates until all tasks are done.

        Raises:
            InputError: Some never are.
        """
        resumed = -1
        while (why := kernel.run(self._arrays, resumed)) != kernel.FINISHED:
            resumed = -1
            match why:
                case kernel.NEEDS_FLOWS:
                    self._keep(with_room_for_released(self._state))
                case kernel.ASKS_FOR_PATH:
                    self._give_path()
                case kernel.ASKS_AFTER_TIMEOUT:
                    resumed = self._settle_timeout()
                case _:
                    self._keep(with_room_for_choices(with_room_for_packets(self._state)))
        if self._state.network.totals["undone"][0]:
            raise stalled(self._scene, np.flatnonzero(self._state.program.waits_for == 0).tolist())
        return outcome_of(self._scene, self._state)

    def _keep(self, state: State) -> None:
        """Replaces the state, whose arrays may have grown."""
        self._state = state
        self._arrays = tuple(tuple(part) for part in state)

    def _flow(self, record: np.void) -> Flow:
        """A flow as transports know it."""
        scene, topology, columns = self._scene, self._scene.topology, self._scene.tasks.columns()
        task, (src, dst) = int(record["task"]), self._ends(record)
        ranks, usable = (int(columns.src[task]), int(columns.dst[task])), self._usable(record, int(record["start_ps"]))
        leaves, places = (topology.leaf(dst), topology.leaf(src)), (self._place[src], self._place[dst])
        size, paths = int(columns.bytes[task]), scene.routes.paths(src, dst)
        message = Release(task, *ranks, leaves[0], size, paths, usable, leaves[1], *places)
        return Flow(int(record["id"]), message, int(record["bytes"]), int(record["path"]))

    def _give_path(self) -> None:
        """Gives another path to a flow whose path the routing no longer takes as usable."""
        totals = self._state.network.totals[0]
        index, now_ps = int(totals["asks"]), int(totals["now_ps"])
        record = self._state.hosts.flows[index]
        usable, serial = self._usable(record, now_ps), int(record["serial"])
        record["path"] = self._transport.choose_path(self._flow(record), serial, usable, now_ps)

    def _settle_timeout(self) -> int:
        """Lets the transport choose another path after a timeout, and gives the flow up if it is cut off for good."""
        network, hosts = self._state.network, self._state.hosts
        index, now_ps = int(network.totals["asks"][0]), int(network.totals["now_ps"][0])
        record = hosts.flows[index]
        usable = self._usable(record, now_ps)
        if self._cuts:
            path, flow = int(record["path"]), self._flow(record)
            record["path"] = self._transport.on_timeout(flow, path, usable, now_ps)
            self._note_avoided((flow.message.paths[0][0], flow.message.dst_leaf, path))
        if record["fruitless"] >= PATIENCE and self._is_cut_off(record, usable, now_ps):
            record["given_up"] = True
        return index

    def _note_avoided(self, way: tuple[int, int, int]) -> None:
        """Hands the compiled admission the time until which ethereal avoids a way that has failed a flow."""
        if isinstance(self._transport, Ethereal) and way in self._transport.bad_until:
            self._keep(with_avoided(self._state, way, self._transport.bad_until[way]))

    def _is_cut_off(self, record: np.void, usable: tuple[int, ...], now_ps: int) -> bool:
        """Whether all paths of a flow stay down and the routing's knowledge no longer changes: it would try forever."""
        if now_ps < self._scene.routes.times[-1]:
            return False
        changes, paths = self._scene.rates.changes, self._scene.routes.paths(*self._ends(record))

        def dead(link: int) -> bool:
            time, rate = changes[link][-1] if link in changes else (0, 1)
            return not rate and time <= now_ps

        taken = usable if record["path"] < 0 or self._moves else (int(record["path"]),)
        return all(any(map(dead, paths[index])) for index in taken)

    def _usable(self, record: np.void, now_ps: int) -> tuple[int, ...]:
        routes = self._scene.routes
        return routes.usable(*self._ends(record), routes.epoch(now_ps))

    def _ends(self, record: np.void) -> tuple[int, int]:
        program = self._state.program
        return int(program.src_host[record["task"]]), int(program.dst_host[record["task"]])
