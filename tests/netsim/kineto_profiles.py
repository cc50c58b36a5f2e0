"""Profiles in the shape in which Kineto writes those of NCCL, made by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEEP_EP = "void deep_ep::internode::{}<false, 8>(int4*)"


class ProfileWriter:
    """Collects the events of a rank.

    Args:
        rank: The rank.
        world_size: Number of ranks.
        groups: Ranks of each process group, by name.
    """

    def __init__(self, rank: int, world_size: int, groups: dict[str, list[int]]) -> None:
        self.rank, self.world_size, self.groups = rank, world_size, groups
        self.events: list[dict[str, Any]] = []

    def event(self, name: str, category: str, begin: float, length: float, thread: int = 1, **args: Any) -> None:
        """An event with a duration, in microseconds."""
        about = {"ph": "X", "cat": category, "name": name, "pid": 7, "tid": thread}
        self.events.append({**about, "ts": 5_000_000_000.0 + begin, "dur": length, "args": args})

    def call(
        self,
        name: str,
        elements: tuple[int, int],
        called: float,
        kernel: tuple[float, float] | None,
        thread: int = 1,
        group: str = "0",
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """A collective: when it was called, begin and length of its kernel, and arguments that differ."""
        identity = len(self.events) + 1
        ranks = self.groups[group]
        args = {
            "External id": identity,
            "Collective name": name,
            "dtype": "Float",
            "In msg nelems": elements[0],
            "Out msg nelems": elements[1],
            "In split size": "[]",
            "Out split size": "[]",
            "Group size": len(ranks),
            "Process Group Name": group,
            "Process Group Ranks": str(ranks),
            "Rank": ranks.index(self.rank),
            **(more or {}),
        }
        self.event("record_param_comms", "cpu_op", called, 5.0, thread, **args)
        if kernel:
            self.event("ncclDevKernel_Generic(args)", "kernel", *kernel, thread=20, **args)

    def annotated(
        self,
        name: str,
        shapes: tuple[list[list[int]], list[list[int]]],
        called: float,
        kernel: tuple[float, float] | None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """A collective as older versions write it: shapes of input and output, and the launch of its kernel.

        `more` are arguments of the operator around it.
        """
        launch = len(self.events) + 1
        given, result = shapes
        about = {"Input Dims": [*result, *given], "Input type": ["float"], **(more or {})}
        self.event(f"c10d::{name}_base_", "cpu_op", called, 9.0, **about)
        back_end = "nccl" if kernel else "gloo"
        self.event(f"{back_end}:{name}", "user_annotation", called + 1, 7.0, **{**about, "Input Dims": given})
        if kernel:
            self.event("cudaLaunchKernelExC", "cuda_runtime", called + 2, 1.0, correlation=launch)
            self.event("ncclKernel_Generic(args)", "kernel", *kernel, thread=20, correlation=launch, stream=20)

    def computed(
        self, begin: float, length: float, stream: int = 7, name: str = "volta_sgemm", launch: int = -1
    ) -> None:
        """A kernel."""
        self.event(name, "kernel", begin, length, thread=stream, stream=stream, correlation=launch)

    def content(self) -> dict[str, Any]:
        """The whole profile."""
        listed = [
            {"pg_name": name, "pg_desc": "x", "pg_size": len(ranks), "ranks": ranks}
            for name, ranks in self.groups.items()
        ]
        about = {"backend": "nccl", "rank": self.rank, "world_size": self.world_size, "pg_config": listed}
        return {"schemaVersion": 1, "distributedInfo": about, "host_name": "node0", "traceEvents": self.events}

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")


def step_of_two(rank: int) -> ProfileWriter:
    """A step of two ranks: 100 us of computation, then collectives of every kind with 10 us before each.

    The all-reduce is called by autograd's thread, and the all-to-all begins while it still runs.
    """
    writer = ProfileWriter(rank, 2, {"0": [0, 1], "pair": [1, 0]})
    writer.event("ProfilerStep#3", "user_annotation", 0, 700)
    writer.event("volta_sgemm", "kernel", 10, 90, thread=20)
    writer.call("allreduce", (2000, 2000), 20, (100, 50), thread=9)
    writer.call("all_to_allv", (30, 30), 25, (120, 80), more={
        "In split size": "[1, 2]" if rank == 0 else "[2, 1]",
        "Out split size": "[1, 2]" if rank == 0 else "[2, 1]",
    })  # fmt: skip
    writer.call("wait", (0, 0), 26, None)
    writer.call("_allgather_base", (500, 1000), 30, (210, 40), group="pair")
    writer.call("_reduce_scatter_base", (1000, 500), 40, (260, 40))
    writer.call("broadcast", (250, 250), 50, (310, 10), more={"Rank": 1})
    peer = 1 - rank
    if rank == 0:
        writer.call("send", (1000, 1000), 60, (330, 10), more={"Rank": peer, "Dst Rank": peer})
    else:
        writer.call("recv", (1000, 1000), 60, (330, 10), more={"Rank": peer, "Src Rank": peer})
    writer.event("Optimizer.step#AdamW.step", "user_annotation", 65, 20)
    writer.call("barrier", (0, 0), 70, (350, 5), more={"dtype": "Byte"})
    return writer


def write_step(folder: Path) -> None:
    """The profiles of both ranks."""
    for rank in range(2):
        step_of_two(rank).write(folder / f"rank{rank}.json")


def step_in_two_schemas(annotated: bool) -> ProfileWriter:
    """The same calls of rank 1 of 4 as today's torch writes them, and as older ones do."""
    writer = ProfileWriter(1, 4, {"": [0, 1, 2, 3], "half": [0, 1]})
    writer.event("ProfilerStep#1", "user_annotation", 0, 900)
    at = [(100.0 + 50 * place, 20.0) for place in range(5)]
    if annotated:
        writer.groups = {}
        writer.annotated("all_reduce", ([[100, 20]], []), 10, at[0])
        rows = {"Concrete Inputs": ["", "", "", "[1, 2, 3, 4]", "[4, 3, 2, 1]"]}
        writer.annotated("all_to_all", ([[40, 2]], [[40, 2]]), 20, at[1], rows)
        writer.annotated("_all_gather", ([[500]], [[1000]]), 30, at[2])
        writer.annotated("_reduce_scatter", ([[1000]], [[500]]), 40, at[3])
        rows = {"Concrete Inputs": ["", "", "", "[3, 1]", "[1, 3]"]}
        writer.annotated("all_to_all", ([[4, 2]], [[4, 2]]), 50, at[4], rows)
        for event in writer.events:
            event["name"] = event["name"].replace("nccl:_all_gather", "nccl:_all_gather_base")
            event["name"] = event["name"].replace("nccl:_reduce_scatter", "nccl:_reduce_scatter_base")
    else:
        writer.call("allreduce", (2000, 2000), 11, at[0], group="")
        rows = {"In split size": "[4, 3, 2, 1]", "Out split size": "[1, 2, 3, 4]"}
        writer.call("all_to_allv", (80, 80), 21, at[1], group="", more=rows)
        writer.call("_allgather_base", (500, 1000), 31, at[2], group="half")
        writer.call("_reduce_scatter_base", (1000, 500), 41, at[3], group="half")
        rows = {"In split size": "[1, 3]", "Out split size": "[3, 1]"}
        writer.call("all_to_allv", (8, 8), 51, at[4], group="half", more=rows)
    return writer


def expert_profile(ranks: int = 16) -> ProfileWriter:
    """Dispatch and combine with their waits, computing beside, and a kernel of NCCL of which nothing else is known."""
    writer = ProfileWriter(0, ranks, {})
    writer.event("ProfilerStep#1", "user_annotation", 0, 900)
    for begin, length, name in ((10, 40, "notify_dispatch"), (60, 100, "dispatch"), (200, 5, "cached_notify")):
        writer.computed(begin, length, 27, DEEP_EP.format(name))
    writer.computed(205, 95, 27, DEEP_EP.format("combine"))
    writer.computed(70, 50)
    writer.computed(310, 40, 30, "ncclDevKernel_AllReduce_Sum(args)")
    writer.computed(360, 40)
    return writer
