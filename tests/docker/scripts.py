"""The scripts of docker/ with stand-ins for the programs that they start."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "docker" / "launch.sh"
SLURM = ROOT / "docker" / "slurm.sh"
KUBERNETES = ROOT / "docker" / "kubernetes.yaml"

OPTIONS = {"NODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_ADDR", "RANKS_PER_NODE", "RUN_ID"}
OPTIONS |= {"MAX_RESTARTS", "GRACE", "RESTART", "RESTARTS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}


def interpreter(folder: Path, check: str = "sys.exit(0)", agent: str = "sys.exit(0)") -> Path:
    """A stand-in for the interpreter: notes each start in `folder`/starts and behaves as it is told.

    Args:
        folder: where it is written.
        check: body of ``-m trainer check``; ``starts`` is the number of starts of the agent before it.
        agent: body of what starts torchrun.
    """
    program = f"""\
    #!{sys.executable}
    import json, os, pathlib, signal, sys, time

    words = sys.argv[1:]
    if words[0] == "-":
        os.execv(sys.executable, [sys.executable, *words])
    note = pathlib.Path({str(folder / "starts")!r})
    starts = note.read_text().count("process.agent") if note.exists() else 0
    with note.open("a") as file:
        names = "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
        names += ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE",)
        file.write(json.dumps([words, {{name: os.environ.get(name) for name in names}}]) + "\\n")
    if words[1] == "trainer":
        {check}
    else:
        {agent}
    """
    path = folder / "python"
    path.write_text(textwrap.dedent(program))
    path.chmod(0o755)
    return path


def environment(python: Path, **variables: str) -> Mapping[str, str]:
    """The environment of a script: none of its options but those given."""
    inherited = {name: value for name, value in os.environ.items() if name not in OPTIONS | {"OMP_NUM_THREADS"}}
    return {**inherited, "PYTHON": str(python), **variables}


def launch(python: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs launch.sh to its end."""
    return subprocess.run(
        [LAUNCH, *words],
        env=environment(python, **variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
