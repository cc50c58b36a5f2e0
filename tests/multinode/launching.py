"""torchrun across the hosts of a fabric."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.multinode.namespaces import Fabric

_RENDEZVOUS_PORT = 29400


def run_on_hosts(
    made: Fabric, module: str, arguments: Sequence[str], *, seconds_at_most: float, ranks_per_host: int = 1
) -> None:
    """Runs a module on ranks on every host and waits for all; rank i lives on host i // ranks_per_host.

    Args:
        made: The fabric.
        module: Module to run.
        arguments: Its arguments.
        seconds_at_most: How long each rank may take.
        ranks_per_host: Ranks on each host.

    Raises:
        RuntimeError: A rank failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "e0", "PYTHONWARNINGS": "ignore"}
    with ExitStack() as stack:
        launchers = []
        for host in range(made.hosts):
            command = [*_torchrun(made, host, ranks_per_host), "-m", module, *arguments]
            launcher = made.start(host, command, env=environment, cwd=Path(__file__).parents[2])
            stack.callback(launcher.wait)
            stack.callback(launcher.terminate)
            launchers.append(launcher)
        failed = [host for host, launcher in enumerate(launchers) if launcher.wait(seconds_at_most)]
    if failed:
        raise RuntimeError(f"torchrun failed on hosts {failed}")


def _torchrun(made: Fabric, host: int, ranks_per_host: int) -> list[str]:
    """torchrun of one host; the rendezvous numbers ranks by address, which is by host."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(made.hosts)),
        *("--nproc-per-node", str(ranks_per_host)),
        *("--rdzv-backend", "c10d", "--rdzv-id", "hosts"),
        *("--rdzv-endpoint", f"{made.address(0)}:{_RENDEZVOUS_PORT}", "--rdzv-conf", f"is_host={int(host == 0)}"),
        *("--local-addr", made.address(host)),
    ]
