"""Layouts of workloads that cells of a sweep have in common: laid out once, and shared by the processes there."""

import hashlib
import json
from collections import OrderedDict

from netsim.grid.identity import Identity
from netsim.prepare import LaidOut
from netsim.scenario import Scenario
from netsim.workers import Handle, Shared, attached, free

_OF_RUNS = {
    *("transports", "seeds", "nic", "congestion", "recovery", "flow_control", "acknowledgement"),
    *("limits", "watch", "engine", "fast_forward"),
}
"""Sections of a scenario on which its layout does not depend; it does on all others."""
_OF_LINKS = {"queue", "buffer", "failures", "link_errors"}
"""Keys of a topology on which it does not."""
_MOST = 4


def layout_key(scenario: Scenario, identity: Identity) -> str:
    """Equal for two cells only if their workloads are laid out alike."""
    written = scenario.resolved()
    content = {name: section for name, section in written.items() if name not in _OF_RUNS}
    content["topology"] = {name: value for name, value in written["topology"].items() if name not in _OF_LINKS}
    return hashlib.sha256(json.dumps([content, identity.inputs], sort_keys=True).encode()).hexdigest()


class LastLayout:
    """The layout with which a process has worked last."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._laid_out: LaidOut | None = None
        self._own = False

    def of(self, key: str) -> LaidOut | None:
        """The layout of a key, if it is the last one."""
        return self._laid_out if key == self._key else None

    def keep(self, key: str, laid_out: LaidOut) -> None:
        """Keeps a layout in place of the last one."""
        if key != self._key:
            self._key, self._laid_out, self._own = key, laid_out, True

    def borrow(self, key: str, handle: Handle) -> None:
        """Takes part in a layout of another process, unless it is the last one, or freed."""
        if key != self._key:
            self._key = self._laid_out = None
            try:
                self._laid_out = attached(handle)
            except FileNotFoundError:
                return
            self._key, self._own = key, False

    def lend(self, key: str) -> Handle | None:
        """A copy for other processes, if the last layout is that of the key and of this process itself."""
        if key != self._key or not self._own:
            return None
        self._own = False
        shared = Shared(self._laid_out)
        shared.leave()
        return shared.handle


class Lent:
    """The layouts that processes have lent to others: the latest ones."""

    def __init__(self) -> None:
        self._handles: OrderedDict[str, Handle] = OrderedDict()

    def of(self, key: str) -> Handle | None:
        """The handle of a layout, if there is one."""
        if key in self._handles:
            self._handles.move_to_end(key)
        return self._handles.get(key)

    def keep(self, key: str, handle: Handle) -> None:
        """Keeps a handle, and frees another one where there are too many, or two of a key."""
        if key in self._handles:
            free(self._handles.pop(key))
        self._handles[key] = handle
        if len(self._handles) > _MOST:
            free(self._handles.popitem(last=False)[1])

    def close(self) -> None:
        """Frees all."""
        while self._handles:
            free(self._handles.popitem()[1])
