"""The text of an AICB workload: a step of training, layer by layer, with what is computed and communicated.

AICB writes it (aliyun/aicb, SimAI_training_workload_generator.py), and SimAI's ASTRA-sim reads it (aliyun/SimAI,
Workload.cc): a header, the number of layers, then twelve columns a layer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from netsim.foundation.lines import read_lines, whole_number
from netsim.foundation.refusal import Refusal, nearest
from netsim.workload.collective import Collective
from netsim.workload.records import MOST_RANKS

KINDS = ("HYBRID_TRANSFORMER_FWD_IN_BCKWD", "HYBRID_TRANSFORMER")
"""First word of a header: forward and backward through layers, input gradients before weight gradients."""
_DEGREES = {"model_parallel_NPU_group": "tp", "ep": "ep", "pp": "pp", "all_gpus": "all_gpus"}
_RECOMPUTING = ("checkpoints", "checkpoint_initiates")
_KEYS = (*_DEGREES, *_RECOMPUTING, "vpp", "ga", "pp_comm")
_COLUMNS = 12
_PHASES = (("forward", "tp"), ("input gradient", "tp"), ("weight gradient", "dp"))
"""Columns of a layer, three each, and the groups that their collectives concern if their names do not say."""
_GROUPS = {"_DP_EP": "dp_ep", "_EP": "ep"}
_OPERATIONS: dict[str, Collective] = {
    "ALLREDUCE": "all_reduce",
    "ALLGATHER": "all_gather",
    "REDUCESCATTER": "reduce_scatter",
    "ALLTOALL": "all_to_all",
    "BROADCAST": "broadcast",
}


class Exchange(NamedTuple):
    """A collective in every group of a kind (tp, dp, ep or dp_ep).

    `bytes` is a rank's whole buffer: what goes in and, of an all_gather, what comes out.
    """

    op: Collective
    group: str
    bytes: int


class Phase(NamedTuple):
    """Computing of a layer, and the collective that follows; None: there is none."""

    compute_ns: int
    exchange: Exchange | None


class Layer(NamedTuple):
    """A line of the file; the rank computes for `process_ns` after each of its collectives."""

    forward: Phase
    input_gradient: Phase
    weight_gradient: Phase
    process_ns: int


class TrainingStep(NamedTuple):
    """A whole file: ranks in a group of each parallelism; `all_gpus` is None where the header does not say."""

    tp: int
    ep: int
    pp: int
    all_gpus: int | None
    layers: list[Layer]


def read_step(path: Path) -> TrainingStep:
    """Reads and checks a workload text."""
    lines = read_lines(path, "a workload text of AICB")
    degrees = dict(_degrees(path, lines[0]))
    if "tp" not in degrees:
        raise Refusal(path, "line 1: model_parallel_NPU_group", "is missing", "add it, with its number behind")
    if len(lines) == 1:
        raise Refusal(path, "line 2", "is missing", "complete the file: number of layers, then the layers")
    expected = whole_number(path, "line 2: number of layers", lines[1].strip(), least=1)
    layers = [_layer(path, number, line.split()) for number, line in enumerate(lines[2:], start=3) if line.strip()]
    if len(layers) != expected:
        problem = f"says {expected} layers, and {len(layers)} follow"
        raise Refusal(path, "line 2", problem, "complete the file if it is cut off, or correct the number")
    return TrainingStep(degrees["tp"], degrees.get("ep", 1), degrees.get("pp", 1), degrees.get("all_gpus"), layers)


def _degrees(path: Path, line: str) -> Iterator[tuple[str, int]]:
    """The degrees of parallelism in the header, as (name, ranks)."""
    kind, *words = line.split() or [""]
    if kind not in KINDS:
        raise Refusal(path, "line 1", f"begins with no known kind of workload ({kind!r:.40})", f"write {KINDS[0]}")
    seen = set[str]()
    for word, value in zip(words[::2], words[1::2], strict=False):
        key = word.removesuffix(":")
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            remedy = f"write {near}" if near else f"keys are {', '.join(_KEYS)}"
            raise Refusal(path, "line 1", f"has an unknown key ({key!r:.40})", remedy)
        if key in seen:
            raise Refusal(path, f"line 1: {key}", "occurs twice", "remove one")
        seen.add(key)
        if key in _RECOMPUTING and value != "0":
            problem = f"asks to compute layers again, which is not read ({value!r:.40})"
            raise Refusal(path, f"line 1: {key}", problem, "write 0, and add the time to input gradients")
        if key in _DEGREES:
            degree = whole_number(path, f"line 1: {key}", value, least=1)
            if degree > MOST_RANKS:
                raise Refusal(path, f"line 1: {key}", f"is too large ({degree})", f"{MOST_RANKS:,} are possible")
            yield _DEGREES[key], degree
    if len(words) % 2:
        raise Refusal(path, "line 1", f"has a key without its number ({words[-1]!r:.40})", "add it, or remove the key")


def _layer(path: Path, number: int, cells: list[str]) -> Layer:
    place = f"line {number}"
    if len(cells) != _COLUMNS:
        problem = f"has {len(cells)} columns instead of {_COLUMNS}"
        raise Refusal(path, place, problem, "complete the file if it is cut off, or write it again with AICB")
    forward, input_gradient, weight_gradient = (
        _phase(path, f"{place}: {name}", cells[first : first + 3], groups)
        for (name, groups), first in zip(_PHASES, (2, 5, 8), strict=True)
    )
    process_ns = whole_number(path, f"{place}: process time", cells[-1])
    return Layer(forward, input_gradient, weight_gradient, process_ns)


def _phase(path: Path, place: str, cells: list[str], groups: str) -> Phase:
    time, exchange, size = cells
    compute_ns, size_bytes = whole_number(path, f"{place} time", time), whole_number(path, f"{place} size", size)
    return Phase(compute_ns, _exchange(path, place, exchange, groups, size_bytes))


def _exchange(path: Path, place: str, name: str, groups: str, size_bytes: int) -> Exchange | None:
    """A collective by its name, in the groups that its suffix names, or else in `groups`; None: nothing moves."""
    if name == "NONE":
        return None
    suffix = next((suffix for suffix in _GROUPS if name.endswith(suffix)), "")
    op = _OPERATIONS.get(name.removesuffix(suffix))
    if op is None:
        remedy = f"write NONE, or one of {', '.join(_OPERATIONS)}, with _EP or _DP_EP behind it for those groups"
        raise Refusal(path, place, f"names no known collective ({name!r:.40})", remedy)
    return Exchange(op, _GROUPS.get(suffix, groups), size_bytes) if size_bytes else None
