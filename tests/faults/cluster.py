"""Nodes that run docker/launch.sh, and a scheduler that starts again what has died."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.multinode.namespaces import Fabric, fabric

ROOT = Path(__file__).parents[2]
_LAUNCH = str(ROOT / "docker" / "launch.sh")
_MARK = "FLOWFABRIC_TEST_NODE"
_NUMBERS = count()
_RATE_MBIT = 1000
WRONG_INPUT = 2


class Process(NamedTuple):
    """A process of a node.

    Args:
        pid: its id.
        words: its command line.
        variables: what it was started with.
    """

    pid: int
    words: list[str]
    variables: dict[str, str]


class Node:
    """A machine of the cluster, as far as a run knows it.

    Args:
        number: 0 is the master.
        command: what starts its part of the run.
        log: where that writes.
        made: the fabric whose host it is, None for this machine itself.
    """

    def __init__(self, number: int, command: Sequence[str], log: IO[str], made: Fabric | None) -> None:
        self.number, self.made = number, made
        self.codes: list[int] = []
        self._command, self._log = command, log
        self._mark = f"{os.getpid()}_{next(_NUMBERS)}"
        self.start()

    def start(self) -> None:
        """Starts its part of the run, again if it has ended."""
        variables = {**os.environ, _MARK: self._mark, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        variables["PYTHONWARNINGS"] = "ignore"
        options: dict[str, Any] = {
            "env": variables,
            "cwd": ROOT,
            "stdout": self._log,
            "stderr": self._log,
            "stdin": subprocess.DEVNULL,
        }
        options["start_new_session"] = True  # Ctrl-C is for the campaign alone
        if self.made is None:
            self._launcher = subprocess.Popen(self._command, **options)
        else:
            self._launcher = self.made.start(self.number, self._command, **options)

    def code(self) -> int | None:
        """How the launcher has ended, None while it runs; negative as `subprocess` has it."""
        return self._launcher.poll()

    def tell_to_stop(self) -> None:
        """What a scheduler does first: SIGTERM to the launcher."""
        self._launcher.send_signal(signal.SIGTERM)

    def agent(self) -> int | None:
        """Id of the process of torchrun's agent, None if there is none."""
        found = [process.pid for process in self.processes() if "trainer.distributed.process.agent" in process.words]
        return found[0] if found else None

    def ranks(self) -> dict[int, int]:
        """Ids of the processes of its ranks, by rank."""
        found = (process for process in self.processes() if process.words[1:4] == ["-u", "-m", "trainer"])
        return {int(process.variables["RANK"]): process.pid for process in found if "RANK" in process.variables}

    def processes(self) -> list[Process]:
        """All that was started on it and still runs, whoever its parent is now."""
        return [process for process in _all_processes() if process.variables.get(_MARK) == self._mark]

    def kill(self) -> None:
        """The machine loses power: every process of it is gone."""
        while found := self.processes():
            for process in found:
                kill(process.pid)
            self._launcher.poll()
            time.sleep(0.02)
        self._launcher.wait(10)


class Cluster:
    """The nodes of a run, and their scheduler.

    Args:
        nodes: the nodes.
        log: what they write.
    """

    def __init__(self, nodes: Sequence[Node], log: Path) -> None:
        self.nodes, self.log = nodes, log

    @property
    def made(self) -> Fabric | None:
        """The fabric between the nodes."""
        return self.nodes[0].made

    def tend(self) -> bool:
        """Starts what has died again, as a scheduler does.

        Returns:
            Whether the run is over: every node has ended well, or one never will.
        """
        codes = [node.code() for node in self.nodes]
        if any(code == WRONG_INPUT for code in codes):
            return True
        for node, code in zip(self.nodes, codes, strict=True):
            if code is not None and code != 0:
                node.codes.append(code)
                node.start()
        return all(code == 0 for code in codes)

    def ranks(self) -> dict[int, int]:
        """Ids of the processes of all ranks, by rank."""
        return {rank: pid for node in self.nodes for rank, pid in node.ranks().items()}


@contextmanager
def cluster(nodes: int, ranks_per_node: int, settings: Sequence[str], log: Path, *, apart: bool) -> Iterator[Cluster]:
    """Starts a run; nothing of it is left afterwards.

    Args:
        nodes: how many.
        ranks_per_node: processes on each.
        settings: configuration and overrides.
        log: file for what the nodes write.
        apart: each node is in a network namespace of its own; else there must be one node.
    """
    assert apart or nodes == 1
    with ExitStack() as stack:
        made = stack.enter_context(fabric(1, 1, nodes, _RATE_MBIT)) if apart else None
        written = stack.enter_context(log.open("a", encoding="utf-8"))
        started = []
        for number in range(nodes):
            options = ["--ranks-per-node", str(ranks_per_node)]
            if made is not None:
                options += ["--nodes", str(nodes), "--node-rank", str(number), "--master", made.address(0)]
            started.append(Node(number, [_LAUNCH, *options, *settings], written, made))
            stack.callback(started[-1].kill)
        yield Cluster(started, log)


def kill(pid: int) -> None:
    """kill -9 of a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _all_processes() -> Iterator[Process]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                variables = _strings(folder / "environ")
                pairs = dict(entry.split("=", 1) for entry in variables if "=" in entry)
                words = _strings(folder / "cmdline")
                if words:  # none: it has ended, and its parent does not know it yet
                    yield Process(int(folder.name), words, pairs)


def _strings(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0") if path.exists() else []
