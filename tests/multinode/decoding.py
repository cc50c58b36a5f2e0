"""Decoding across two network namespaces: context-coherent dispatch with placed experts against DeepSpeed-MoE.

``python -m tests.multinode.decoding --out DIR`` (root). One rank lives in each namespace, and a link of 200 Mbit/s
joins them. Modes generate in turn in one run; printed are tokens a second, median over the rounds.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path

from tests.multinode.decoding_ranks import Case
from tests.multinode.namespaces import Fabric, fabric, obstacle

_RENDEZVOUS_PORT = 29410
_SECONDS_AT_MOST = 540


def main(argv: Sequence[str] | None = None) -> int:
    """Generates and compares.

    Args:
        argv: Arguments, those of the process if None.

    Returns:
        0, or 1 without namespaces.
    """
    parser = argparse.ArgumentParser(prog="decoding", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where figures go")
    parser.add_argument("--rate", type=int, default=200, metavar="MBIT", help="rate of the link, Mbit/s (default: 200)")
    for field in fields(Case):
        kind = str if field.name == "weights" else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    arguments = vars(parser.parse_args(argv))
    why_not = obstacle()
    if why_not:
        print(f"decoding: {why_not}", file=sys.stderr)
        return 1
    folder = arguments.pop("out").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with fabric(2, 1, 1, arguments.pop("rate")) as made:
        _generate(made, folder, Case(**arguments))
    figures = json.loads((folder / "decoding.json").read_text(encoding="utf-8"))
    slowest = figures["tokens_per_s"]["DeepSpeed-MoE, capacity 1.25"]
    for name, rate in figures["tokens_per_s"].items():
        print(f"{name:32} {rate:8.1f} tokens/s  {rate / slowest:5.2f} x DeepSpeed-MoE")
    moves = figures["cross_rank_moves"]
    print(
        f"moves to the other rank: {moves['contiguous']:.1%} contiguous, {moves['placed']:.1%} placed; "
        f"all modes write the same: {figures['modes_write_the_same']}; load {os.getloadavg()[0]:.1f}"
    )
    return 0


def _generate(made: Fabric, folder: Path, case: Case) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "e0", "PYTHONWARNINGS": "ignore"}
    with ExitStack() as stack:
        launchers = []
        for host in range(made.hosts):
            command = [*_torchrun(made, host), "-m", "tests.multinode.decoding_ranks", str(folder)]
            command.append(json.dumps(asdict(case)))
            launcher = made.start(host, command, env=environment, cwd=Path(__file__).parents[2])
            stack.callback(launcher.wait)
            stack.callback(launcher.terminate)
            launchers.append(launcher)
        failed = [host for host, launcher in enumerate(launchers) if launcher.wait(_SECONDS_AT_MOST)]
    if failed:
        raise RuntimeError(f"torchrun failed on hosts {failed}")


def _torchrun(made: Fabric, host: int) -> list[str]:
    """torchrun of one rank; the rendezvous numbers ranks by address, which is by host."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(made.hosts), "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "decoding"),
        *("--rdzv-endpoint", f"{made.address(0)}:{_RENDEZVOUS_PORT}", "--rdzv-conf", f"is_host={int(host == 0)}"),
        *("--local-addr", made.address(host)),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
