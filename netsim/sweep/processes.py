"""Processes on this machine. If one dies, only its present job is lost."""

from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

from netsim.sweep.job import Failed, Files, Job, Lent, attempt_together
from netsim.workers import Handle, end_with_parent, without_interrupts


class Processes:
    """An executor (`netsim.sweep.job.Executor`) of local processes, which share layouts of workloads."""

    def __init__(self, count: int) -> None:
        self._idle = [_Process() for _ in range(count)]
        self._busy: dict[Connection, _Process] = {}
        self._lent, self._lends = Lent(), count > 1

    def idle(self) -> Sequence[str | None]:
        """Key of the prepared cell (the last one) of each idle process."""
        return [process.last for process in self._idle]

    def submit(self, job: Job) -> None:
        position = next((n for n, process in enumerate(self._idle) if process.last == job.key), 0)
        process = self._idle.pop(position)
        task = job, self._lent.of(job.layout), self._lends
        if not process.start(*task):
            process = _Process()
            process.start(*task)
        self._busy[process.connection] = process

    def finished(self) -> Iterator[tuple[Job, Files | Failed]]:
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            process = self._busy.pop(connection)
            job = process.job
            try:
                answer, handle = connection.recv()
                if handle is not None:
                    self._lent.keep(job.layout, handle)
            except (EOFError, OSError):
                answer = Failed(
                    f"its process died ({process.end(patience_s=5)}); it may need more memory than there is"
                )
                process = _Process()
            self._idle.append(process)
            yield job, answer

    def close(self) -> None:
        for process in (*self._idle, *self._busy.values()):
            process.end()
        self._lent.close()


class _Process:
    """A process that waits for jobs."""

    job: Job

    def __init__(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with without_interrupts():
            self._process.start()
        theirs.close()
        self.last: str | None = None

    def start(self, job: Job, lent: Handle | None, lends: bool) -> bool:
        """Hands over a job; False if the process has died meanwhile."""
        self.job, self.last = job, job.key
        try:
            self.connection.send((job, lent, lends))
        except OSError:
            return False
        return True

    def end(self, patience_s: float = 0) -> str:
        """Waits for the process to end, kills it after `patience_s`, and returns in words how it ended."""
        self._process.join(patience_s)
        self._process.kill()
        self._process.join()
        self.connection.close()
        code = self._process.exitcode or 0
        return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _serve(connection: Connection) -> None:
    """Carries out jobs until the parent closes the connection."""
    end_with_parent()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(attempt_together(*task))
