"""Steps of models for tests: scenarios, what a member of a collective sends, and all of it as a trace."""

from pathlib import Path
from typing import Any

import numpy as np

from netsim.collective.protocol import Operation
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.workload import issued, members_of
from tests.netsim.documents import scenario_of
from tests.netsim.traces import TraceWriter


def scenario(workload: dict[str, Any], ranks: int) -> dict[str, Any]:
    return scenario_of(2, 1, ranks // 2, workload, transports=["ideal"])


def sizes(operation: Operation, member: int) -> tuple[Any, ...]:
    """Bytes in and out of a member, as a record has them: splits where there are any, else sums."""
    if operation.matrix:
        return operation.matrix[member], tuple(row[member] for row in operation.matrix)
    whole, own = sum(operation.blocks), operation.blocks[member]
    return {"all_reduce": (whole, whole), "all_gather": (own, whole), "reduce_scatter": (whole, own)}[operation.op]


def exported(shape: ModelConfig, path: Path) -> Path:
    """The step of all stages as a collective trace."""
    stages = range(shape.division.pipeline)
    ranks = np.arange(len(stages) * shape.stage_ranks).reshape(len(stages), -1)
    writer = TraceWriter(ranks.size, {"pipeline": ranks.ravel().tolist()})
    writer.header["format"] = "flowfabric.collectives/3"
    for stage in stages:
        step, _ = issued(shape, stage)
        for number, one in enumerate(step):
            about = {"micro": one.micro, "phase": one.phase, "layer": one.layer}
            for rank in ranks[stage].tolist():
                writer.groups[f"self_{rank}"] = [rank]
                work = {"flops": one.beside.flops, "memory_bytes": one.beside.memory_bytes}
                writer.add(rank, "barrier", 0, 0, group=f"self_{rank}", seq=2 * number, **about, **work)
            awaited = None if one.awaited is None else 2 * one.awaited + 1
            about |= {"async": awaited is not None, "wait_seq": awaited, "seq": 2 * number + 1}
            about |= {"flops": one.work.flops, "memory_bytes": one.work.memory_bytes}
            if one.peer is not None:
                (size,), group = one.operation.blocks, "pipeline"
                for rank, peer in zip(ranks[stage].tolist(), ranks[one.peer].tolist(), strict=True):
                    both = (size, 0) if one.operation.op == "send" else (0, size)
                    writer.add(rank, one.operation.op, *both, group=group, peer=peer, **about)
                continue
            members = members_of(shape, one.group, one.operation.size)
            for place, group in enumerate(ranks[stage][members].tolist()):
                single = len(members) * len(ranks) == 1
                name = one.group if single else f"{one.group}_{stage * len(members) + place}"
                writer.groups[name] = group
                for member, rank in enumerate(group):
                    size_in, size_out = sizes(one.operation, member)
                    splits = {}
                    if one.operation.matrix:
                        splits = {"in_splits": list(size_in), "out_splits": list(size_out)}
                        size_in, size_out = sum(size_in), sum(size_out)
                    writer.add(rank, one.operation.op, size_in, size_out, group=name, **splits, **about)
    return writer.write(path)
