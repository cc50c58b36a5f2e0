"""Files of other tools: where they lie, what they become, and how they are damaged on purpose."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from netsim.collective.algorithms import (
    barrier,
    send,
    tree_broadcast,
)
from netsim.collective.protocol import CollectiveAlgorithm, Message, Operation
from netsim.engine.protocol import Outcome
from netsim.foundation.refusal import Refusal
from netsim.workload.aicb import AicbConfig, AicbWorkload
from netsim.workload.flows import FlowsConfig, FlowsWorkload, MatrixConfig, MatrixWorkload
from netsim.workload.goal import GoalConfig, GoalWorkload
from netsim.workload.program import Program
from netsim.workload.protocol import Workload
from netsim.workload.simccl import SimcclConfig, SimcclWorkload
from tests.netsim.plain_schedules import direct_all_to_all, ring_all_gather, ring_all_reduce, ring_reduce_scatter
from tests.netsim.scenes import fabric, scene, simulate

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "files"
SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns
INSIDE = 2 * DELAY + SERVICE  # what remains of a message below one leaf after its last packet has left

_ALGORITHMS: dict[str, CollectiveAlgorithm] = {
    "all_reduce": ring_all_reduce,
    "all_gather": ring_all_gather,
    "reduce_scatter": ring_reduce_scatter,
    "all_to_all": direct_all_to_all,
    "broadcast": tree_broadcast,
    "send": send,
    "barrier": barrier,
}

_READERS: dict[str, tuple[type[Any], type[BaseModel]]] = {
    "aicb": (AicbWorkload, AicbConfig),
    "flows": (FlowsWorkload, FlowsConfig),
    "goal": (GoalWorkload, GoalConfig),
    "matrix": (MatrixWorkload, MatrixConfig),
    "simccl": (SimcclWorkload, SimcclConfig),
}


def schedules(operation: Operation, ranks: Sequence[int]) -> list[Message]:  # noqa: ARG001
    """The plainest algorithm of each operation."""
    return _ALGORITHMS[operation.op](operation)


def foreign(folder: str) -> Path:
    """A folder of files that another tool wrote; the test is skipped where they are absent."""
    path = Path(os.environ.get("FLOWFABRIC_FOREIGN_FILES", ROOT.parent / "shared" / "data")) / folder
    if not path.is_dir():
        pytest.skip(f"files of other tools are absent ({folder}); FLOWFABRIC_FOREIGN_FILES names their folder")
    return path


def opened(kind: str, path: Path, **fields: object) -> Workload:
    """The workload of a file."""
    workload, config = _READERS[kind]
    return workload(config.model_validate({"kind": kind, "path": str(path)} | fields))


def laid_out(workload: Workload, available: int, start_ps: int = 0) -> Program:
    """The tasks of a workload on ranks 0, 1, ..."""
    program = Program()
    workload.extend(program, range(workload.size(available)), start_ps, schedules)
    return program


def refused_or_sound(workload: Callable[[], Workload], available: int) -> bool:
    """Lays out a workload of a file that may be damaged.

    Returns:
        Whether it was refused, in one line. What is not refused is a program that an engine can run: ranks that exist,
        no negative bytes and times, nobody waits for a later task.
    """
    line = ""
    program = Program()
    try:
        program = laid_out(workload(), available)
    except Refusal as error:
        line = str(error)
    assert "\n" not in line
    for number, task in enumerate(program.tasks):
        assert 0 <= task.src < available
        assert 0 <= task.dst < available
        assert task.bytes >= 0
        assert task.delay_ps >= 0
        assert all(0 <= earlier < number for earlier in task.after)
    return bool(line)


def run(program: Program, hosts: int, leaves: int = 1, transport: str = "ecmp") -> Outcome:
    """The program on a fabric of two spines."""
    return simulate(scene(fabric(leaves, 2, hosts // leaves), list(program.tasks)), transport)


def damaged(content: bytes, times: int) -> Iterator[bytes]:
    """Copies with a few bytes replaced, inserted or removed, or cut off."""
    draw = random.Random(0)
    for _ in range(times):
        copy = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(copy)) if copy else 0
            match draw.randrange(4):
                case 0:
                    copy[at : at + 1] = bytes([draw.randrange(256)])
                case 1:
                    copy[at:at] = draw.choice([b"\xff\xff\xff\xff\x7f", b"9", b"-", b" ", b"\n", b"\x80", b"1e30"])
                case 2:
                    del copy[at : at + draw.randint(1, 5)]
                case 3:
                    del copy[at + draw.randrange(len(copy) - at + 1) :]
        yield bytes(copy)
