"""Commands in processes of their own, forked from one server that has imported what takes seconds."""

import gc
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess

import torch
import torch.multiprocessing as mp

ROOT = Path(__file__).parents[1]
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT_S = 300.0

PRELOADED = [
    "pytest",
    "torch",
    "trainer.__main__",
    "trainer.data",
    "trainer.task",
    "trainer.model.build",
    "trainer.distributed.engine.deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.comm.mori",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.moe.ep_repack",
    "deepspeed.ops.triton_ops.autoep_fused_token_ops",
    "megatron.core.parallel_state",
    "trainer.training.run",
    "trainer.training.assembly",
    "trainer.training.loop",
    "trainer.training.migration.live",
    "trainer.experiment.train",
    "trainer.experiment.forecast.memory",
    "trainer.observe.dashboards",
    "trainer.observe.prometheus",
    "trainer.observe.terminal",
    "moe.coherent_layer",
    "sklearn.datasets.data",
    "sklearn.datasets.descr",
    "ot",
    "torchdiffeq",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "PIL.PngImagePlugin",
    "netsim.foundation.chart",
]
"""Modules that every process has imported when it begins."""

mp.set_forkserver_preload(PRELOADED)

_PORTS = range(20_000, 32_000)
"""Below those that the system gives to connections, one of which might take the port before the ranks do."""
_PLACES = count(101 * os.getpid())
"""Where the search goes on; processes that search at the same time do so in different places."""


def free_port() -> int:
    """A port of the loopback interface on which nothing listens."""
    while True:
        port = _PORTS[next(_PLACES) % len(_PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def command(
    *arguments: str,
    ranks: int | None = None,
    program: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    **environment: str,
) -> CompletedProcess[str]:
    """Runs a command from the root of the repository.

    Nobody watches over the ranks: they are not started again, and none is ended because another has failed.

    Args:
        *arguments: the command line of the trainer.
        ranks: how many processes run it together; None: one, without a launcher.
        program: file to run in place of the trainer's own, with the same command line.
        timeout_s: seconds after which the processes are ended.
        **environment: variables that it gets besides.

    Returns:
        The first exit code that is not 0, if there is one, and what all ranks have said, one after the other.
    """
    with tempfile.TemporaryDirectory() as name:
        launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        launch |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks))
        together = [{**launch, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks or 0)]
        outputs = [Path(name) / str(rank) for rank in range(ranks or 1)]
        processes = [
            mp.get_context("forkserver").Process(
                target=run_command, args=(program, arguments, environment | own, output)
            )
            for own, output in zip(together or [{}], outputs, strict=True)
        ]
        ends = time.monotonic() + timeout_s
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, ends - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        codes = [process.exitcode or 0 for process in processes]
        said = ["".join(Path(f"{output}.{stream}").read_text() for output in outputs) for stream in ("out", "err")]
    return CompletedProcess(arguments, next((code for code in codes if code), 0), *said)


def run_command(program: Path | None, arguments: tuple[str, ...], environment: dict[str, str], output: Path) -> None:
    """One rank of a command, in a process of its own; see :func:`command`.

    Args:
        program: file to run in place of the trainer's own.
        arguments: the command line.
        environment: variables that it gets besides.
        output: where it writes, without `.out` and `.err`.
    """
    gc.freeze()  # no search for garbage looks through what the server has imported
    for stream, path in ((1, f"{output}.out"), (2, f"{output}.err")):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(ROOT)
    for variable in LAUNCHED:
        os.environ.pop(variable, None)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.argv = ["trainer", *arguments]
    if program is not None:
        runpy.run_path(str(program), run_name="__main__")
    else:
        from trainer.__main__ import main

        sys.exit(main())


def alive(number: int) -> bool:
    """Whether a process runs; one that has ended and is not yet collected does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether something comes true within 20 seconds."""
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()
