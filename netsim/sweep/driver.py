"""Simulates a grid of scenarios, on the processes of this machine or on a Dask cluster.

The unit of work is a run: one cell, transport and seed. So a thousand small cells and one large cell both keep all
processes busy, and a kill loses only the runs that were active. A process that has a cell prepared gets the next run of
that cell. Workers send the finished files back; only this process writes.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from netsim.foundation.refusal import Refusal
from netsim.simulation.results import replacing
from netsim.sweep.folder import RESULTS, Summary, SweepFolder
from netsim.sweep.job import Executor, Failed, Files, Job, attempt, layout_key
from netsim.sweep.page import sweep_page
from netsim.sweep.processes import Processes
from netsim.sweep.progress import Status, Watcher
from netsim.sweep.sweep_file import Cell, SweepFile, read_sweep

_CONNECT_S = 10


class Failure(NamedTuple):
    """A cell that could not be finished, and its problem in one line."""

    cell: str
    problem: str


def sweep(
    path: Path, folder: Path, *, jobs: int = 1, executor: str | None = None, watcher: Watcher | None = None
) -> list[Failure]:
    """Simulates the unfinished cells of a sweep into `folder`, and writes a summary and a page about all cells.

    Files depend neither on `jobs` nor on the executor (the address of a Dask scheduler, such as
    tcp://scheduler:8786, in place of local processes), except wall_s. `watcher` gets the status at every change.

    Returns:
        The cells that could not be finished, in the order of the sweep; all others are finished.
    """
    file = read_sweep(path)
    kept = SweepFolder(folder)
    with kept.locked():
        work = _Sweep(file, kept, watcher or (lambda _: None))
        try:
            if work.unfinished:
                with _opened(jobs, executor) as workers:
                    work.check(workers)
                    work.simulate(workers)
        finally:
            work.write()
    return work.failures


class _Sweep:
    """A sweep under way."""

    def __init__(self, file: SweepFile, folder: SweepFolder, watcher: Watcher) -> None:
        cells, self._map = file
        self._cells, self._folder, self._watcher = cells, folder, watcher
        self._position = {cell.key: position for position, cell in enumerate(cells)}
        self._summary = Summary(folder.path / "summary.csv", cells)
        self._results: dict[int, Mapping[str, Any]] = {}
        self._failed: dict[int, str] = {}
        self._running: dict[tuple[int, tuple[int, int] | None], Job] = {}
        self._left: dict[int, set[tuple[int, int]]] = {}
        runs = [_runs(cell) for cell in cells]
        self._status = Status(len(cells), runs=sum(map(len, runs)))
        for position, cell in enumerate(cells):
            self._take_up(position, cell, runs[position])

    def _take_up(self, position: int, cell: Cell, runs: Sequence[tuple[int, int]]) -> None:
        """Reads the finished runs of a cell, and notes the other runs."""
        results = self._folder.cell(cell)
        if results:
            finished = dict(zip(runs, results["runs"], strict=True))
            self._results[position] = results
        else:
            finished = {run: entry for run in runs if (entry := self._folder.run(cell, run))}
            self._left[position] = set(runs) - finished.keys()
        for run, entry in finished.items():
            self._summary.add(position, run, entry)
        self._status = self._status._replace(runs_done=self._status.runs_done + len(finished))
        if not results and not self._left[position]:
            self._finish(position)

    @property
    def unfinished(self) -> bool:
        """Whether anything is left to simulate."""
        return bool(self._left)

    @property
    def failures(self) -> list[Failure]:
        """Cells that could not be finished."""
        return [Failure(self._cells[position].name, self._failed[position]) for position in sorted(self._failed)]

    def check(self, workers: Executor) -> None:
        """Checks all unfinished cells before any of them runs; raises the first error of the user's input."""
        self._status = self._status._replace(checking=True)
        wrong: dict[int, Refusal] = {}
        for position, _, answer in self._carried_out(workers, {position: [None] for position in sorted(self._left)}):
            if isinstance(answer, Failed):
                if answer.wrong_input:
                    wrong[position] = answer.wrong_input
                self._failed[position] = answer.problem
        if wrong:
            raise wrong[min(wrong)]
        for position in self._failed:
            del self._left[position]
        self._status = self._status._replace(checking=False, cells_failed=len(self._failed))

    def simulate(self, workers: Executor) -> None:
        """Simulates all unfinished runs."""
        queue = {position: sorted(self._left[position]) for position in sorted(self._left)}
        for position, run, answer in self._carried_out(workers, queue):
            assert run is not None
            cell = self._cells[position]
            if isinstance(answer, Failed):
                transport, seed = cell.scenario.transports[run[0]].name, cell.scenario.seeds[run[1]]
                self._summary.add_failed(position, run, answer.problem)
                self._failed.setdefault(position, f"{transport}, seed {seed}: {answer.problem}")
                self._status = self._status._replace(cells_failed=len(self._failed))
            else:
                self._keep(position, run, answer)
            self._watcher(self._current())

    def _keep(self, position: int, run: tuple[int, int], files: Files) -> None:
        cell = self._cells[position]
        self._folder.keep_run(cell, run, files)
        entry = self._folder.run(cell, run)
        assert entry, f"a finished run has no {RESULTS}"
        self._summary.add(position, run, entry)
        self._status = self._status._replace(
            runs_done=self._status.runs_done + 1,
            packet_hops=self._status.packet_hops + entry["packet_hops"] + entry["control_hops"],
        )
        self._left[position].remove(run)
        if not self._left[position]:
            self._finish(position)
        self._summary.write_soon()

    def _finish(self, position: int) -> None:
        cell = self._cells[position]
        self._folder.finish_cell(cell, _runs(cell))
        results = self._folder.cell(cell)
        assert results, f"a finished cell has no {RESULTS}"
        self._results[position] = results
        del self._left[position]

    def _carried_out(
        self, workers: Executor, queue: Mapping[int, Sequence[tuple[int, int] | None]]
    ) -> Iterator[tuple[int, Any, Files | Failed]]:
        """Yields (cell, run, answer) as answers arrive; jobs begin in the queue's order, a prepared cell first."""
        waiting = {position: deque(runs) for position, runs in queue.items()}
        while waiting or self._running:
            for prepared in workers.idle():
                if not waiting:
                    break
                position = self._next(waiting, prepared)
                run = waiting[position].popleft()
                if not waiting[position]:
                    del waiting[position]
                cell = self._cells[position]
                layout = layout_key(cell.scenario, cell.identity)
                job = Job(cell.key, cell.source, cell.scenario, cell.identity, layout, run)
                self._running[position, run] = job
                workers.submit(job)
            self._watcher(self._current())
            for job, answer in workers.finished():
                position = self._position[job.key]
                del self._running[position, job.run]
                yield position, job.run, answer

    def _next(self, waiting: Mapping[int, Sequence[Any]], prepared: str | None) -> int:
        """The next cell: the prepared one, the first that no process works on, or the one with most runs left."""
        if prepared is not None and (position := self._position[prepared]) in waiting:
            return position
        taken = {position for position, _ in self._running}
        fresh = next((position for position in waiting if position not in taken), None)
        return fresh if fresh is not None else max(waiting, key=lambda position: len(waiting[position]))

    def _current(self) -> Status:
        running = [(self._cells[position].name, job.title) for (position, _), job in sorted(self._running.items())]
        return self._status._replace(cells_done=len(self._results), running=tuple(running))

    def write(self) -> None:
        """Writes the summary of all runs and the page about all cells that are finished."""
        self._summary.write()
        cells = [(self._cells[position].overrides, dict(self._results[position])) for position in sorted(self._results)]
        if cells:
            with replacing(self._folder.path / "index.html") as file:
                file.write(sweep_page(cells, self._map))


def _runs(cell: Cell) -> list[tuple[int, int]]:
    """Positions of all runs among transports and seeds."""
    scenario = cell.scenario
    return [(transport, seed) for transport in range(len(scenario.transports)) for seed in range(len(scenario.seeds))]


@contextmanager
def _opened(jobs: int, address: str | None) -> Iterator[Executor]:
    workers: Executor = Cluster(address) if address else Processes(jobs)
    try:
        yield workers
    finally:
        workers.close()


class Cluster:
    """An executor (`netsim.sweep.job.Executor`) on Dask: any number of machines with the same files and netsim."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError:
            remedy = "run pip install 'flowfabric[cluster]', or leave it out to use this machine"
            raise Refusal("command line", "--executor", "needs the package distributed", remedy) from None
        remedy = "start one with: dask scheduler, and workers with: dask worker ADDRESS"
        try:
            self._client: Any = Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            problem = f"no scheduler answers at {address} ({error})"
            raise Refusal("command line", "--executor", problem, remedy) from None
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_S)
        except TimeoutError:
            self._client.close()
            raise Refusal("command line", "--executor", f"{address} has no workers", remedy) from None
        self._running: dict[Any, Job] = {}
        self._over: SimpleQueue[Any] = SimpleQueue()

    def idle(self) -> Sequence[None]:
        """One entry for each free slot: two jobs a thread, so that none is idle while an answer travels."""
        threads = sum(self._client.nthreads().values())
        return [None] * max(2 * threads - len(self._running), 0 if self._running else 1)

    def submit(self, job: Job) -> None:
        future = self._client.submit(attempt, job, pure=False)
        self._running[future] = job
        future.add_done_callback(self._over.put)

    def finished(self) -> Iterator[tuple[Job, Files | Failed]]:
        """Yields results as they arrive; Dask itself moves the jobs of a lost worker to another worker."""
        future = self._over.get()
        job = self._running.pop(future)
        if future.status == "finished":
            yield job, future.result()
        else:
            error = future.exception() if future.status == "error" else future.status
            yield job, Failed(" ".join(f"{type(error).__name__}: {error}".split()))

    def close(self) -> None:
        for future in self._running:
            future.cancel()
        self._client.close()
