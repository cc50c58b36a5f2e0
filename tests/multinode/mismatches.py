"""What two nodes of a run can have different, laid out in a folder of each node, and how such a run is started.

Every path of a run is relative, and each node has a working directory of its own, as if it were another machine.
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moe.placement.placement import Placement
from tests.trainer.data.pictures import folder as picture_folder
from tests.trainer.data.pictures import picture
from trainer.data import write_shards

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "configs" / "runs" / "digits_moe.yaml"
STAGES = ROOT / "configs" / "methods" / "rectified_flow.yaml"
POINTS = ROOT / "configs" / "methods" / "flow_matching.yaml"
QUIET = ("sample.every=null", "evaluate.every=null", "trace.steps=[]")
IMAGES = "data={kind: image_folder, path: images, size: 8, channels: 1, held_out: 4}"
SITE = """\
import os, sys
note, end = os.environ.get("NOTE_OF_STARTS"), sys.exit
if note and "RANK" in os.environ:
    def noted(code=None):
        with open(note, "a") as file:
            file.write(f"{os.environ['TORCHELASTIC_RESTART_COUNT']} {os.environ['RANK']} {code}\\n")
        end(code)
    sys.exit = noted
"""
OWN = """\
from trainer.flow.coupling import Coupling, Pairs
from trainer.flow.coupling import Independent

class Mine(Independent):
    def __init__(self) -> None:
        self.kept = {number}
"""


@dataclass(frozen=True)
class Given:
    """What one node is started with.

    Attributes:
        folder: its working directory.
        config: configuration file.
        overrides: ``dotted.key=value``.
        ranks: processes on it.
        packages: folders that Python looks in first.
    """

    folder: Path
    config: Path = DIGITS
    overrides: tuple[str, ...] = ()
    ranks: int = 1
    packages: tuple[Path, ...] = ()

    @property
    def words(self) -> list[str]:
        """The command line of the train verb; its settings win over those that all have."""
        settings = {word.partition("=")[0]: word for word in (*QUIET, "optim.steps=4", *self.overrides)}
        return [str(self.config), *settings.values()]

    def environment(self, note: Path) -> dict[str, str]:
        """The variables of its processes.

        Args:
            note: file in which every rank notes its restart count, number and exit code.
        """
        paths = [*map(str, self.packages), str(note.parent), str(self.folder), str(ROOT)]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "NOTE_OF_STARTS": str(note),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }


Layout = Callable[[Given, int], Given]


def override(*values: str, config: Path = DIGITS) -> Layout:
    """The same settings on both nodes but for one value."""
    return lambda given, node: replace(given, config=config, overrides=(*given.overrides, values[node]))


def _pictures(given: Given, node: int, *, fewer: bool) -> Given:
    picture_folder(given.folder / "images", per_class=12 - 2 * (fewer and node))
    if not fewer and node:
        picture(given.folder / "images" / "cat" / "000.png", 4711)
    return replace(given, overrides=(*given.overrides, IMAGES, "parallel.expert=1", "optim.global_batch=8"))


def _shards(given: Given, node: int) -> Given:
    images = np.random.default_rng(node).standard_normal((40, 1, 8, 8)).astype(np.float32)
    write_shards(given.folder / "shards", [(images, np.zeros(40, dtype=np.int64))], num_classes=10)
    return replace(given, overrides=(*given.overrides, "data={kind: shards, path: shards, held_out: 4}"))


def _code(given: Given, node: int) -> Given:
    if node == 0:
        return given
    for name in ("trainer", "moe", "netsim"):
        shutil.copytree(ROOT / name, given.folder / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (given.folder / "code" / "trainer" / "training" / "schedule.py").open("a") as file:
        file.write("# changed\n")
    return replace(given, packages=(given.folder / "code",))


def _package(given: Given, node: int) -> Given:
    if node == 0:
        return given
    path = given.folder / "packages" / "torch-9.9.dist-info"
    path.mkdir(parents=True)
    (path / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")
    return replace(given, packages=(path.parent,))


def _placement(given: Given, node: int) -> Given:
    placed = Placement.contiguous(3, 8, 2, 1)
    order = list(range(8))
    random.Random(node).shuffle(order)
    layers = ((tuple(order[:4]), tuple(order[4:])),) * 3
    placed.model_copy(update={"rank_experts": layers}).write(given.folder / "placement.json")
    return replace(given, overrides=(*given.overrides, "moe.placement=placement.json"))


def _own_class(given: Given, node: int) -> Given:
    (given.folder / "my_own_part.py").write_text(OWN.format(number=node))
    return replace(given, config=POINTS, overrides=(*given.overrides, 'flow.coupling={class: "my_own_part:Mine"}'))


def _configuration(given: Given, node: int) -> Given:
    """A file that one node lacks."""
    if node == 0:
        shutil.copy(DIGITS, given.folder / "mine.yaml")
    return replace(given, config=Path("mine.yaml"))


MISMATCHES: dict[str, tuple[Layout, str]] = {
    "learning rate": (override("optim.lr=0.001", "optim.lr=0.1"), r"^optim\.lr is 0\.001 on node 0 \(.*\) and 0\.1 on"),
    "seed": (override("run.seed=1", "run.seed=2"), r"^run\.seed is 1 on node 0 \(.*\) and 2 on node 1 \("),
    "setting of a later stage": (
        override("stages.distil.optim.lr=0.002", "stages.distil.optim.lr=0.003", config=STAGES),
        r"^stages\.distil\.optim\.lr is 0\.002 on node 0 \(.*\) and 0\.003 on node 1 ",
    ),
    "batch": (override("optim.global_batch=64", "optim.global_batch=128"), r"^optim\.global_batch is 64 on .*128 on"),
    "last step": (override("optim.steps=4", "optim.steps=6"), r"^optim\.steps is 4 on node 0 .* and 6 on node 1 "),
    "number of images": (
        lambda given, node: _pictures(given, node, fewer=True),
        r"node 1 \(.*data\.path: images: pictures of cat/dog: 20 here and 24 on node 0 \(cat/010.png only on node 0\)",
    ),
    "content of images": (
        lambda given, node: _pictures(given, node, fewer=False),
        r"node 1 \(.*path: images: content of data 0: 24 here and 24 on node 0 \(cat/000.png ",
    ),
    "content of shards": (
        _shards,
        r"^node 1 \(.*path: shards: content of data 0: 1 here and 1 on node 0 \(.* only ",
    ),
    "code": (_code, r"^trainer/training/schedule\.py is \w+ on node 0 .*; bring the same code to every node$"),
    "torch": (_package, r"^torch is 2\..* on node 0 .* and 9\.9 on node 1 .*; install the same packages"),
    "run folder": (
        lambda given, _: replace(given, overrides=("run.dir=run",)),
        r"node 1 \(.*: run\.dir: run is another folder on node 1 \(.*\) than on node 0 \(.*; give a folder that all",
    ),
    "ranks per node": (
        lambda given, node: replace(given, ranks=1 + node),
        r"^ranks per node \(--nproc-per-node\) is 1 on node 0 .* and 2 on node 1 \(.*ranks 1-2\)",
    ),
    "placement": (_placement, r"^the file of moe\.placement \(placement\.json\) is \w+ on node 0 .*same file$"),
    "own class": (_own_class, r"^module my_own_part is \w+ on node 0 .*; bring the same modules to every node$"),
    "missing configuration": (_configuration, r"^node 1 \(.*\): mine\.yaml: .*cannot be read"),
    "wrong override": (override("optim.lr=0.001", "optim.lr=fast"), r"optim\.lr is 0\.001 on .*fast on node 1"),
}
"""By name: how the nodes are laid out, and what the line says."""


@dataclass(frozen=True)
class Ended:
    """How a start on two nodes ended.

    Attributes:
        codes: exit code of each launcher.
        output: standard error of each.
        ranks: (restart count, rank, exit code) of every rank that was started.
        seconds: from the start of the first launcher to the end of the last.
        cpu_s: what all their processes computed together.
    """

    codes: Sequence[int]
    output: Sequence[str]
    ranks: Sequence[tuple[int, int, int]]
    seconds: float
    cpu_s: float

    def lines(self) -> list[list[str]]:
        """What the trainer itself said on each node, without the name of the verb."""
        said = [[line for line in text.splitlines() if line.startswith("trainer train: ")] for text in self.output]
        return [[line.removeprefix("trainer train: ") for line in lines] for lines in said]


def laid_out(name: str, folder: Path) -> list[Given]:
    """The two nodes of a mismatch, each with a folder of its own, and one folder for the run.

    Args:
        name: key of :data:`MISMATCHES`.
        folder: empty.
    """
    nodes = []
    for node in range(2):
        (folder / f"node_{node}").mkdir()
        same = Given(folder / f"node_{node}", overrides=(f"run.dir={folder / 'run'}",))
        nodes.append(MISMATCHES[name][0](same, node))
    return nodes


def started(
    nodes: Sequence[Given], folder: Path, launcher: Callable[[int, dict[str, str]], "subprocess.Popen[str]"]
) -> Ended:
    """Starts a launcher for each node and waits for all.

    Args:
        nodes: what each is given.
        folder: for notes of what was started.
        launcher: starts that of a node with these variables; it writes standard error to a pipe.
    """
    (folder / "notes").mkdir()
    (folder / "notes" / "sitecustomize.py").write_text(SITE)
    note = folder / "notes" / "starts"
    begun, computed_s = time.monotonic(), _computed_s()
    processes = [launcher(number, given.environment(note)) for number, given in enumerate(nodes)]
    try:
        output = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.terminate()
    seconds = time.monotonic() - begun
    lines = note.read_text().splitlines() if note.exists() else []
    starts = [(int(restarts), int(rank), int(code)) for restarts, rank, code in map(str.split, lines)]
    return Ended(
        [process.returncode for process in processes], output, sorted(starts), seconds, _computed_s() - computed_s
    )


def _computed_s() -> float:
    """Processor time of all child processes that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def torchrun(nodes: Sequence[Given], port: int) -> Callable[[int, dict[str, str]], "subprocess.Popen[str]"]:
    """torchrun of each node on this machine, with the restarts that it has in `docker/launch.sh`.

    Args:
        nodes: what each is given.
        port: of the rendezvous.
    """

    def start(number: int, environment: dict[str, str]) -> "subprocess.Popen[str]":
        given = nodes[number]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--max-restarts", "3"]
        command += ["--nproc-per-node", str(given.ranks), "--rdzv-backend", "c10d", "--rdzv-id", "two"]
        command += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-conf", f"is_host={int(number == 0)}"]
        command += ["--local-addr", "127.0.0.1", "-m", "trainer", "train", *given.words]
        return subprocess.Popen(
            command,
            env=environment,
            cwd=given.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
