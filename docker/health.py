"""Says whether this node's part of a run is alive: the image's HEALTHCHECK, and the probes of Kubernetes.

Process 1 is docker/launch.sh, or an init before it, with the command line of the run. A process of the trainer must
run; on node 0, where rank 0 is, the page of figures must answer too if the command line has `observe.port`. Ends with
0, or with 1 and a line that says what is missing.
"""

import sys
import urllib.request
from itertools import pairwise
from pathlib import Path


def words(process: Path, file: str = "cmdline") -> list[str]:
    """Command line or environment of a process; empty: it is gone."""
    try:
        return (process / file).read_text(errors="replace").split("\0")
    except OSError:
        return []


def is_trainer(process: Path) -> bool:
    """Whether it runs a module of the trainer, as `python -m trainer...`, and has not ended."""
    line = words(process)
    return any(one == "-m" and two.split(".")[0] == "trainer" for one, two in pairwise(line))


def page(process: Path) -> str | None:
    """Where rank 0 serves the figures of the run that a process has started; None: nowhere on this node."""
    line = words(process)
    pairs = (word.partition("=") for word in [*words(process, "environ"), *line])
    settings = {name: value for name, _, value in pairs} | dict(pairwise(line))
    port, host = settings.get("observe.port", "null"), settings.get("observe.host", "127.0.0.1")
    if port == "null" or settings.get("--node-rank", settings.get("NODE_RANK", "0")) != "0":
        return None
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/metrics"


def missing(processes: Path = Path("/proc")) -> str | None:
    """What a live node would have; None: it has all."""
    if not any(map(is_trainer, processes.glob("[0-9]*"))):
        return "no process of the trainer"
    address = page(processes / "1")
    if address is not None:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=5).close()
        except OSError as error:
            return f"{address}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(missing())
