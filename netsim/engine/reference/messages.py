"""Tasks and messages: which may begin, when they are released, and the flows into which a transport cuts them."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial

from netsim.draws import Draws, Purpose
from netsim.engine.frontier import Frontier
from netsim.engine.protocol import Scene
from netsim.engine.reference.calendar import FIRST, LAST, RELEASE, Calendar, Event
from netsim.foundation.refusal import Refusal
from netsim.transport.protocol import Flow, Release, Transport


class Messages:
    """The tasks of a run; `admit` gets those whose messages are released in an instant, ascending."""

    def __init__(self, scene: Scene, calendar: Calendar, admit: Callable[[list[int]], None]) -> None:
        self._tasks, self._calendar, self._hand_over = scene.tasks, calendar, admit
        self._frontier = Frontier(scene.tasks)
        self._ends_early = scene.ends_early
        self._flows_left = [0] * len(scene.tasks)
        self._released: list[int] = []
        self.end_ps = [0] * len(scene.tasks)
        self.is_over = False

    @property
    def undone(self) -> int:
        """Number of tasks that are not done, background traffic aside."""
        return self._frontier.undone

    def waiting(self) -> list[int]:
        """Tasks that are not done although they wait for no other, background traffic aside."""
        return self._frontier.waiting()

    def begin(self) -> None:
        """Starts the tasks that wait for no other."""
        self._begin(self._frontier.roots)
        self._end_early()

    def expect(self, task: int) -> None:
        """Counts one more flow of a message."""
        self._flows_left[task] += 1

    def delivered(self, task: int, end_ps: int) -> None:
        """A flow of a message is complete at its receiver at `end_ps`, which may be in the future."""
        self._flows_left[task] -= 1
        self.end_ps[task] = max(self.end_ps[task], end_ps)
        if not self._flows_left[task]:
            Event(self._calendar, partial(self._done, task)).schedule(FIRST, self.end_ps[task])

    def _begin(self, ready: list[int]) -> None:
        """Starts tasks that wait for nothing but their delay."""
        at_once = list(ready)
        while at_once:
            index = at_once.pop()
            delay_ps = self._tasks[index].delay_ps
            if delay_ps:
                Event(self._calendar, partial(self._move, index)).schedule(FIRST, self._calendar.now + delay_ps)
            else:
                at_once += self._move_or_finish(index)

    def _move(self, index: int) -> None:
        self._begin(self._move_or_finish(index))
        self._end_early()

    def _move_or_finish(self, index: int) -> list[int]:
        """Releases a task's message. A task without one is done; returns the tasks that now wait for nothing."""
        if not self._tasks[index].bytes:
            self.end_ps[index] = self._calendar.now
            return self._frontier.done(index)
        if not self._released:
            Event(self._calendar, self._admit).schedule(RELEASE, self._calendar.now)
        self._released.append(index)
        return []

    def _admit(self) -> None:
        released = sorted(self._released)
        self._released.clear()
        self._hand_over(released)

    def _done(self, index: int) -> None:
        self._begin(self._frontier.done(index))
        self._end_early()

    def _end_early(self) -> None:
        """Ends the run with this instant if only background traffic is left."""
        if self._ends_early and not self._frontier.undone:
            Event(self._calendar, self._end).schedule(LAST, self._calendar.now)

    def _end(self) -> None:
        self.is_over = True
        self._calendar.end()


class Admission:
    """Hands messages to the transport; the seed shuffles destinations."""

    def __init__(self, scene: Scene, transport: Transport, seed: int) -> None:
        self._scene, self._transport = scene, transport
        self._order = Draws(seed, Purpose.DESTINATION_ORDER)

    def flows(self, released: list[int], now_ps: int) -> dict[int, list[Flow]]:
        """For each host's link the flows of tasks released now, ascending, in the order in which they join its ring."""
        by_link: dict[int, list[Release]] = defaultdict(list)
        for task in released:
            release = self._scene.release(task, now_ps)
            by_link[release.paths[0][0]].append(release)
        return {link: self._ordered(self._admitted(messages, now_ps)) for link, messages in by_link.items()}

    def _admitted(self, released: list[Release], now_ps: int) -> list[Flow]:
        flows = self._transport.admit(released, now_ps)
        released_bytes, carried = sum(message.bytes for message in released), sum(flow.bytes for flow in flows)
        if carried != released_bytes:
            problem = f"{type(self._transport).__name__}.admit carries {carried} B of {released_bytes} B"
            raise Refusal("scenario", "transports", problem, "return flows with all bytes of the messages")
        return flows

    def _ordered(self, flows: list[Flow]) -> list[Flow]:
        return flows if self._transport.orders_flows else sorted(flows, key=self._turn)

    def _turn(self, flow: Flow) -> tuple[int, int]:
        """Sort key of a flow among the flows that its host releases together."""
        if self._scene.nic.destinations == "random":
            return self._order(self._transport.key_of(flow)), flow.id
        hosts = self._scene.hosts
        return (hosts[flow.message.dst] - hosts[flow.message.src]) % self._scene.topology.hosts, flow.id
