"""The jobs of a sweep: check whether a cell can be simulated, or simulate one run of it; and who carries them out.

Layouts of workloads that cells have in common are laid out once, and shared by the processes.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import NamedTuple, Protocol

from netsim.engine.limits import LimitError
from netsim.foundation.refusal import Refusal
from netsim.simulation.compare import run_one
from netsim.simulation.prepare import LaidOut, Prepared, prepare
from netsim.simulation.results import Results
from netsim.simulation.scenario import Scenario
from netsim.sweep.sweep_file import Identity, identify
from netsim.workers import Handle, Shared, attached, free

Files = dict[str, bytes]
"""Contents of files by name: what `Results.write` writes for one run."""


class Job(NamedTuple):
    """A job, complete with everything that a process on any machine needs for it.

    `run` has positions among the scenario's transports and seeds; None: only check the cell.
    """

    key: str
    source: str
    scenario: Scenario
    identity: Identity
    layout: str
    run: tuple[int, int] | None

    @property
    def title(self) -> str:
        """Transport and seed."""
        if self.run is None:
            return "preparing"
        return f"{self.scenario.transports[self.run[0]].name}, seed {self.scenario.seeds[self.run[1]]}"


class Failed(NamedTuple):
    """The failure of a job in one line; `wrong_input` is the error if the user's input is the cause."""

    problem: str
    wrong_input: Refusal | None = None


_OF_RUNS = {
    *("transports", "seeds", "nic", "congestion", "recovery", "flow_control", "acknowledgement"),
    *("limits", "watch", "engine", "fast_forward"),
}
"""Sections of a scenario that do not affect its layout."""
_OF_LINKS = {"queue", "buffer", "failures", "link_errors"}
"""Keys of a topology that do not affect the layout."""
_MOST = 4


def layout_key(scenario: Scenario, identity: Identity) -> str:
    """Hash that two cells share only if their workloads have equal layouts."""
    written = scenario.resolved()
    content = {name: section for name, section in written.items() if name not in _OF_RUNS}
    content["topology"] = {name: value for name, value in written["topology"].items() if name not in _OF_LINKS}
    return hashlib.sha256(json.dumps([content, identity.inputs], sort_keys=True).encode()).hexdigest()


class LastLayout:
    """The layout that a process has used last."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._laid_out: LaidOut | None = None
        self._own = False

    def of(self, key: str) -> LaidOut | None:
        """The layout of a key, if it is the last layout."""
        return self._laid_out if key == self._key else None

    def keep(self, key: str, laid_out: LaidOut) -> None:
        """Keeps a layout in place of the last layout."""
        if key != self._key:
            self._key, self._laid_out, self._own = key, laid_out, True

    def borrow(self, key: str, handle: Handle) -> None:
        """Attaches to the layout of another process, unless it is the last layout here or has been freed."""
        if key != self._key:
            self._key = self._laid_out = None
            try:
                self._laid_out = attached(handle)
            except FileNotFoundError:
                return
            self._key, self._own = key, False

    def lend(self, key: str) -> Handle | None:
        """Copies the last layout into shared memory, if it has this key and was made by this process."""
        if key != self._key or not self._own:
            return None
        self._own = False
        shared = Shared(self._laid_out)
        shared.leave()
        return shared.handle


class Lent:
    """Handles of the latest layouts that processes share with others."""

    def __init__(self) -> None:
        self._handles: OrderedDict[str, Handle] = OrderedDict()

    def of(self, key: str) -> Handle | None:
        """The handle of a layout; None without one."""
        if key in self._handles:
            self._handles.move_to_end(key)
        return self._handles.get(key)

    def keep(self, key: str, handle: Handle) -> None:
        """Keeps a handle; frees an older handle of the same key, and the oldest beyond the limit."""
        if key in self._handles:
            free(self._handles.pop(key))
        self._handles[key] = handle
        if len(self._handles) > _MOST:
            free(self._handles.popitem(last=False)[1])

    def close(self) -> None:
        """Frees the memory of all layouts."""
        while self._handles:
            free(self._handles.popitem()[1])


_ONE_AT_A_TIME = Lock()
_last: dict[str, Prepared] = {}
_layout = LastLayout()


def attempt(job: Job) -> Files | Failed:
    """Carries out a job; any error is returned as a `Failed`.

    Jobs of several threads of one process take turns, because they share the prepared cell.
    """
    with _ONE_AT_A_TIME:
        try:
            return _carry_out(job)
        except LimitError as error:
            return Failed(f"{error.field}: {error.problem}; {error.remedy}")
        except Refusal as error:
            field = error.field if error.file == job.source else f"{error.file}: {error.field}"
            wrong = Refusal(job.source, field, error.problem, error.remedy)
            return Failed(f"{field}: {error.problem}; {error.remedy}", wrong)
        except Exception as error:
            return Failed(" ".join(f"{type(error).__name__}: {error}".split()))


def attempt_together(job: Job, lent: Handle | None, lends: bool) -> tuple[Files | Failed, Handle | None]:
    """Carries out a job beside other processes of the machine, with the layout that one of them has `lent`.

    Returns the answer, and the layout if it is new and other processes need it (`lends`).
    """
    if lent is not None and job.key not in _last:
        _last.clear()
        _layout.borrow(job.layout, lent)
    answer = attempt(job)
    return answer, _layout.lend(job.layout) if lends and not isinstance(answer, Failed) else None


def _carry_out(job: Job) -> Files:
    _refuse_other_inputs(job)
    prepared = _prepare(job)
    if job.run is None:
        return {}
    run = run_one(prepared, job.scenario.transports[job.run[0]], job.scenario.seeds[job.run[1]])
    results = Results(job.scenario.resolved(), prepared, [run])
    with TemporaryDirectory() as folder:
        results.write(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _refuse_other_inputs(job: Job) -> None:
    """Refuses a job if input files or simulator differ from those of the process that runs the sweep."""
    here = identify(job.scenario)
    if here.simulator != job.identity.simulator:
        problem = "this process runs other sources of netsim than the sweep began with"
        raise Refusal(job.source, "netsim", problem, "install the same version everywhere and sweep again")
    differing = sorted(set(job.identity.inputs) ^ set(here.inputs))
    if differing:
        problem = "is not the same file as when the sweep began"
        raise Refusal(differing[0].path, "file", problem, "leave it alone, share it with all machines, sweep again")


def _prepare(job: Job) -> Prepared:
    """Prepares the cell of a job. A process keeps its last cell, and its last layout for other cells."""
    if job.key not in _last:
        _last.clear()
        prepared = _last[job.key] = prepare(job.scenario, job.source, _layout.of(job.layout))
        _layout.keep(job.layout, prepared.laid_out)
    return _last[job.key]


class Executor(Protocol):
    """Carries out jobs, several at once."""

    def idle(self) -> Sequence[str | None]:
        """An entry for each job that may be submitted now: the key of the cell that is prepared there, or None."""
        ...

    def submit(self, job: Job) -> None:
        """Starts a job; `idle` must not be empty."""
        ...

    def finished(self) -> Iterator[tuple[Job, Files | Failed]]:
        """Waits until at least one job is finished, and yields the finished ones."""
        ...

    def close(self) -> None:
        """Stops everything at once."""
        ...
