"""Ranks whose collective never raises: those that wait name the one that does not come, and end."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.each import each
from tests.forked import ROOT
from trainer.distributed.process import hang_detector as watching
from trainer.distributed.process.hang_detector import Progress, Reached, awaited, from_json, to_json

TIMEOUT_S = 3.0
RANK = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch, torch.distributed as dist
from trainer.distributed.process.debug import record_flights
from trainer.distributed.process.hang_detector import hang_detector

rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
record_flights()
store, timeout = dist.FileStore(str(folder / "store"), world_size), timedelta(seconds=600)
dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store, timeout=timeout)
pairs = [dist.new_group([first, first + 1]) for first in range(world_size - 1)]
store = dist.distributed_c10d._get_default_store()
with hang_detector(folder, rank, store, TIMEOUT):
    for group in pairs:
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            dist.all_reduce(torch.zeros(1), group=group)
    if rank == world_size - 1:
        time.sleep(60)
    own = pairs[rank]
    dist.all_reduce(torch.zeros(1), group=own)
"""


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Sequence[Any], float]:
    """Rank r waits in a group with rank r + 1, and the last one sleeps. Gloo would wait for ten minutes."""
    folder, world_size = tmp_path_factory.mktemp("ranks"), request.param
    program = RANK.replace("TIMEOUT", str(TIMEOUT_S))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), str(world_size), str(folder)],
            env=variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    told = []
    for process in processes[:-1]:
        _, errors = process.communicate(timeout=60)
        told.append((process.returncode, errors))
    processes[-1].kill()
    processes[-1].communicate()
    return folder, told, world_size


def test_those_that_wait_name_the_one_that_does_not_come(ended: tuple[Path, Any, int]) -> None:
    folder, told, world_size = ended
    absent = world_size - 1
    for rank, (code, errors) in enumerate(told):
        reason = (
            rf"waited too long in all_reduce of \w+ \(ranks {rank}, {rank + 1}\) for rank {absent}, "
            "which came too late or not at all"
        )
        stacks = folder / "debug" / f"rank_0000{rank}_stacks.txt"
        assert code == 1
        assert re.search(rf"^rank {rank} {reason}; see {stacks}$", errors, re.M), errors
        assert re.search(reason, stacks.read_text())
        assert "all_reduce" in stacks.read_text(), "what the main thread is in"
        assert json.loads((folder / "debug" / f"rank_0000{rank}_flights.json").read_text())["entries"]


def told_by(progress: Mapping[int, Progress]) -> Any:
    return lambda rank: progress.get(rank, {})


WORLD = (0, 1, 2, 3)

CASES: dict[str, tuple[Mapping[int, Progress], set[int]]] = {
    "one does not come": (
        {rank: {"world": Reached(5, 4, WORLD)} for rank in (0, 1, 2)} | {3: {"world": Reached(4, 4)}},
        {3},
    ),
    "one has told nothing": ({rank: {"world": Reached(1, 0, WORLD)} for rank in (0, 1, 2)}, {3}),
    "all have come": ({rank: {"world": Reached(5, 4, WORLD)} for rank in WORLD}, set()),
    "some have issued more already": (
        {0: {"world": Reached(9, 4, WORLD)}, 1: {"world": Reached(6, 4, WORLD)}}
        | {2: {"world": Reached(5, 4, WORLD)}, 3: {"world": Reached(4, 4)}},
        {3},
    ),
    "the one that is late waits for another": (
        {0: {"world": Reached(5, 4, WORLD)}, 1: {"world": Reached(5, 4, WORLD)}}
        | {
            2: {"world": Reached(4, 4), "pair": Reached(8, 7, (2, 3))},
            3: {"world": Reached(4, 4), "pair": Reached(7, 7)},
        },
        {3},
    ),
    "two wait for each other": (
        {0: {"left": Reached(1, 0, (0, 1)), "right": Reached(0, 0)}}
        | {1: {"right": Reached(1, 0, (0, 1)), "left": Reached(0, 0)}},
        set(),
    ),
}


@each("name", CASES)
def test_the_cause_is_the_rank_that_waits_for_no_other(name: str) -> None:
    progress, expected = CASES[name]
    assert awaited(0, told_by(progress)) == expected
    again = {rank: from_json(to_json(own)) for rank, own in progress.items()}
    assert awaited(0, told_by(again)) == expected


class Ended(Exception):  # noqa: N818
    """In place of the end of the process."""


def give_up(store: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 of two finds that its first collective has been open for too long."""

    def end(_code: int) -> None:
        raise Ended

    monkeypatch.setattr(watching.os, "_exit", end)
    monkeypatch.setattr(watching, "MOST_PAUSE_S", 0.0)
    one = watching._HangDetector(folder, 0, store, 600.0)
    own = {"0": Reached(1, 0, (0, 1))}
    assert one._overdue(own, 100.0) is None
    assert one._overdue({"0": Reached(2, 1, (0, 1))}, 650.0) is None, "another collective"
    assert one._overdue(own, 700.0) is None
    assert one._overdue(own, 1301.0) == "0"
    with pytest.raises(Ended):
        one._give_up(own, "0")


def test_ranks_are_compared_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = dist.HashStore()
    store.set("progress_0", to_json({"0": Reached(1, 0, (0, 1))}))
    give_up(store, tmp_path, monkeypatch)
    stacks = tmp_path / "debug" / "rank_00000_stacks.txt"
    said = capsys.readouterr().err  # the collective is the last that this process has issued, if any
    assert said.startswith("rank 0 waited too long in ")
    assert said.endswith(f" for rank 1, which came too late or not at all; see {stacks}\n")


def test_a_store_that_is_gone_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone:
        def check(self, _keys: list[str]) -> bool:
            raise dist.DistNetworkError("the connection was reset")

    give_up(Gone(), tmp_path, monkeypatch)
    assert "and the store through which ranks find each other is gone; see" in capsys.readouterr().err


def test_a_vigil_ends_with_what_it_watches(tmp_path: Path) -> None:
    before, begun = threading.active_count(), time.monotonic()
    with watching.hang_detector(tmp_path, 0, dist.HashStore(), 600.0):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert time.monotonic() - begun < 60
    assert list(tmp_path.iterdir()) == []
