"""Ranks of a command of the trainer that can be killed, forked from a server that has imported what takes seconds."""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.forked import LAUNCHED, free_port, run_command


class ForkedRanks:
    """Ranks of one machine, until the context ends; nobody starts them again.

    Args:
        arguments: the command line of the trainer.
        num_ranks: how many.
    """

    def __init__(self, arguments: Sequence[str], num_ranks: int) -> None:
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._outputs = [folder / str(rank) for rank in range(num_ranks)]
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num_ranks))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **sizes}
        assert set(common) | {"RANK", "LOCAL_RANK"} >= set(LAUNCHED)
        self._processes = [
            multiprocessing.get_context("forkserver").Process(
                target=run_command,
                args=(None, tuple(arguments), {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, output),
            )
            for rank, output in enumerate(self._outputs)
        ]
        for process in self._processes:
            process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._stack.close()

    @property
    def running(self) -> bool:
        """Whether no rank has failed and some run."""
        codes = [process.exitcode for process in self._processes]
        return None in codes and not any(codes)

    @property
    def codes(self) -> list[int | None]:
        """How each rank ended; None while it runs."""
        return [process.exitcode for process in self._processes]

    def said(self) -> str:
        """What all ranks have written so far, one after the other."""
        files = [Path(f"{output}.{stream}") for output in self._outputs for stream in ("out", "err")]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def send(self, number: signal.Signals, ranks: Sequence[int] | None = None) -> None:
        """Sends a signal to some ranks, or to all."""
        for rank, process in enumerate(self._processes):
            if (ranks is None or rank in ranks) and process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    def wait(self, seconds: float) -> None:
        """Waits until all have ended, or so long."""
        for process in self._processes:
            process.join(seconds)

    def end(self) -> None:
        """Kills what still runs."""
        self.send(signal.SIGKILL)
        self.wait(30)
