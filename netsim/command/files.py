"""export, import and keys: traces in the formats of other tools, and the keys of a scenario."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import ValidationError

from netsim.command.simulate import refuse_foreign
from netsim.foundation.command import WORD, Group, Request, Verb
from netsim.foundation.refusal import Refusal
from netsim.foundation.terminal import Progress

if TYPE_CHECKING:
    from netsim.workload.kineto.convert import Converted
    from netsim.workload.kineto.experts import Experts

_EXPORT = """\
Writes a collective trace in the format of another simulator.

example:
  python -m netsim export runs/demo/traces/collectives.jsonl --to chakra runs/demo/chakra

chakra: an execution trace NAME.RANK.et for each rank, and comm_groups.json, as ASTRA-sim reads them.
"""
_IMPORT = """\
Turns what another tool recorded into a collective trace, for workload: {kind: trace, path: FILE}.

examples:
  python -m netsim import kineto profiles --out trace.jsonl
  python -m netsim import kineto rank0.json.gz --group expert=8x1 --out trace.jsonl --compare dgx_h100_32
  python -m netsim import kineto deepep.json.gz --tokens 4096 --hidden 7168 --experts 256 --top-k 8 --out trace.jsonl

kineto: a profile of one rank, or a folder with those of some or all, .json or .json.gz, as torch.profiler writes them
with export_chrome_trace or tensorboard_trace_handler. A rank without one does what the last at or below it does that
has one, in its own groups. Collectives are read from the events record_param_comms; in older profiles and those of gloo
by annotations such as nccl:all_reduce, with record_shapes=True; by the kernels of DeepEP and HybridEP, with --tokens,
--hidden, --experts and --top-k. With --routing a rank sends what its tokens in that trace choose, else all experts are
alike. Kernels of which no size is known count as computing, with their recorded times. Of the
splits of an all-to-all the profiler writes out 30: the ranks behind them get equal parts of the rest.

The kernels' times count where the profile has them. What is computed between and beside collectives becomes gaps, so
that a step is computing and exposed communication.

FILE is written whole or not at all, after a check that all ranks call the same collectives. --compare simulates it, and
a table and a page beside FILE, .html, set each collective's recorded time beside the simulated one. It takes a name in
configs/topologies, the path of such a file, or a scenario, of which all but the workload is taken.
"""
_KEYS = """\
Lists every key of a scenario: what it takes, its default, its unit and what it means. One line a key where the output
is piped, for grep. The same is on the page configs/README.md; editors complete keys from
configs/schemas/scenario.schema.json, which the first line of each scenario in configs names.

examples:
  python -m netsim keys topology
  python -m netsim keys transports.ethereal
"""


def refuse_folder(file: Path) -> None:
    """Refuses an output file that is a folder."""
    if file.is_dir():
        raise Refusal("command line", "--out", f"is a folder ({file})", "name a file")


class Export(Request):
    """Options of ``export``: a trace, and the format and folder to write."""

    trace: Annotated[Path, WORD, "TRACE"]
    """a collective trace, JSONL"""
    to: Annotated[tuple[str, str], "FORMAT", "DIR"]
    """the format (chakra) and the output folder"""
    overwrite: bool = False
    """write into the folder although something else has written there"""


def _export(request: Export) -> None:
    from netsim.workload.chakra.export import write_chakra
    from netsim.workload.records import read_trace

    kind, folder = request.to[0], Path(request.to[1])
    if kind != "chakra":
        raise Refusal("command line", "--to", f"no format is called {kind}", "write --to chakra DIR")
    refuse_foreign(folder, "export", "*.et", request.overwrite, "--to")
    trace = read_trace(request.trace)
    write_chakra(trace, folder)
    print(f"{len(trace.programs)} execution traces: {folder}")


EXPORT = Verb(
    name="export",
    summary="a collective trace for another simulator",
    description=_EXPORT,
    request=Export,
    run=_export,
    following="python -m netsim import --help",
)


_DISPATCH = Group("kernels of DeepEP and HybridEP")


class Import(Request):
    """Options of ``import``: the recorded profiles, and the trace to write."""

    kind: Annotated[str, WORD, "FORMAT"]
    """kineto"""
    path: Annotated[Path, WORD, "PROFILE|DIR"]
    """what was recorded"""
    out: Annotated[Path, "FILE"]
    """the trace to write, JSON lines"""
    ranks: Annotated[int | None, "N"] = None
    """number of ranks, in place of what the profiles say"""
    group: Annotated[tuple[str, ...], "NAME=SIZExSTRIDE"] = ()
    """a process group that the profiles do not list, such as expert=64x1 (may be repeated): a call takes the group of
    its name, else of its size; one that names neither takes the group named default, else all ranks"""
    compare: Annotated[Path | None, "FABRIC"] = None
    """simulate the trace on a topology or scenario, and write what was recorded beside it"""
    tokens: Annotated[int | None, "N", _DISPATCH] = None
    """tokens of a rank in a micro batch"""
    hidden: Annotated[int | None, "N", _DISPATCH] = None
    """values of a token"""
    experts: Annotated[int | None, "N", _DISPATCH] = None
    """experts in all ranks of the group named expert, else of all ranks"""
    top_k: Annotated[int | None, "N", _DISPATCH] = None
    """experts of a token"""
    nodes: Annotated[int | None, "N", _DISPATCH] = None
    """most nodes with experts of one token (default: all)"""
    routing: Annotated[Path | None, "FILE", _DISPATCH] = None
    """which experts tokens visit: a routing trace, .npz, as the trainer writes it with trace.steps, or python -m moe
    import (default: all experts alike)"""


def _import(request: Import) -> None:
    from netsim.workload.kineto.convert import import_kineto
    from netsim.workload.records import MOST_RANKS

    if request.kind != "kineto":
        raise Refusal("command line", "FORMAT", f"no format is called {request.kind}", "write kineto")
    refuse_folder(request.out)
    if request.ranks is not None and not 0 < request.ranks <= MOST_RANKS:
        raise Refusal("command line", "--ranks", f"is not in 1 to {MOST_RANKS:,} ({request.ranks})", "count the ranks")
    with Progress("netsim import") as progress:
        how = {"ranks": request.ranks, "groups": request.group, "experts": _experts(request)}
        converted = import_kineto(request.path, request.out, **how, progress=progress.phase)
    for notice in converted.notices:
        print(f"netsim import: {notice}", file=sys.stderr)
    print(f"{converted.records} collectives of {converted.ranks} ranks: {request.out}")
    if request.compare is not None:
        _compare_recorded(request, converted)


def _experts(request: Import) -> "Experts | None":
    from netsim.workload.kineto.experts import Experts
    from netsim.workload.kineto.routing import read_routing

    options = {name: getattr(request, name) for name in ("tokens", "hidden", "experts", "top_k", "nodes")}
    given = {name: value for name, value in options.items() if value is not None}
    if not given and request.routing is None:
        return None
    if request.nodes is not None and request.routing is not None:
        raise Refusal("command line", "--nodes", "is also in the choices of --routing", "leave it out")
    try:
        experts = Experts.model_validate(given)
        measured = request.routing and read_routing(request.routing, experts.experts, experts.top_k)
        return experts.model_copy(update={"routing": measured})
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        option, problem = f"--{field.replace('_', '-')}", f"is not in 1 to 16,777,215 ({given.get(field)})"
        problem = problem if field in given else "is missing"
        raise Refusal("command line", option, problem, "give --tokens, --hidden, --experts and --top-k") from None


def _compare_recorded(request: Import, converted: "Converted") -> None:
    from netsim.foundation.files import replacing
    from netsim.report.recorded import comparison_page, print_comparison
    from netsim.simulation.recorded import compare_recorded

    assert request.compare is not None
    comparison = compare_recorded(converted, request.out, request.compare)
    written = request.out.with_suffix(".html")
    with replacing(written) as unfinished:
        unfinished.write_text(comparison_page(comparison, f"{request.path}, {converted.ranks} ranks"), "utf-8")
    print_comparison(comparison)
    print(f"report: {written}")


IMPORT = Verb(
    name="import",
    summary="a collective trace from what another tool recorded",
    description=_IMPORT,
    request=Import,
    run=_import,
    following="python -m netsim compare configs/scenarios/demo.yaml workload.path={out} --out {out}.simulated",
)


class Keys(Request):
    """Options of ``keys``: which keys of a scenario are listed."""

    prefix: Annotated[str | None, WORD, "PREFIX"] = None
    """show only the keys that begin so"""


def _keys(request: Keys) -> None:
    from netsim.foundation.reference import matching, print_groups
    from netsim.simulation.scenario import Scenario

    try:
        groups = matching(Scenario.schema(), request.prefix, "a scenario")
    except Refusal as error:
        raise Refusal("command line", error.field, error.problem, error.remedy) from None
    print_groups(groups, whole=request.prefix is not None)


KEYS = Verb(
    name="keys",
    summary="every key of a scenario: what it takes, its default and what it means",
    description=_KEYS,
    request=Keys,
    run=_keys,
    following="python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/fabric",
)
