"""The jobs of a sweep: check whether a cell can be simulated, or simulate one run of it; and who carries them out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import NamedTuple, Protocol

from netsim.compare import run_one
from netsim.documents import LimitError
from netsim.foundation.refusal import Refusal
from netsim.grid.identity import Identity, identify
from netsim.grid.layouts import LastLayout
from netsim.prepare import Prepared, prepare
from netsim.results import Results
from netsim.scenario import Scenario
from netsim.workers import Handle

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
    """The failure of a job in one line; `wrong_input` is the same where the user's input is the cause."""

    problem: str
    wrong_input: Refusal | None = None


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

    Returns:
        The answer, and the layout if it is new and others want it (`lends`).
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
    known = {"traces": prepared.traces, "algorithms": prepared.algorithms}
    results = Results(job.scenario.resolved(), prepared.scene, prepared.spans, [run], **known)
    with TemporaryDirectory() as folder:
        results.write(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _refuse_other_inputs(job: Job) -> None:
    """Checks that this process has the same input files and simulator as the process of the sweep."""
    here = identify(job.scenario)
    if here.simulator != job.identity.simulator:
        problem = "this process runs other sources of netsim than the sweep began with"
        raise Refusal(job.source, "netsim", problem, "install the same version everywhere and sweep again")
    differing = sorted(set(job.identity.inputs) ^ set(here.inputs))
    if differing:
        problem = "is not the same file as when the sweep began"
        raise Refusal(differing[0].path, "file", problem, "leave it alone, share it with all machines, sweep again")


def _prepare(job: Job) -> Prepared:
    """The cell of a job, prepared; a process keeps its last one, and the layout for other cells with the same."""
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
