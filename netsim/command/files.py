"""export, import and keys: traces in the formats of other tools, and the keys of a scenario."""

import sys
from pathlib import Path
from typing import Annotated

from netsim.command.simulate import refuse_foreign
from netsim.foundation.command import WORD, Request, Verb
from netsim.foundation.refusal import Refusal

_EXPORT = """\
Writes a collective trace in the format of another simulator.

example:
  python -m netsim export runs/demo/traces/collectives.jsonl --to chakra runs/demo/chakra

chakra: an execution trace NAME.RANK.et for each rank, and comm_groups.json, as ASTRA-sim reads them.
"""
_IMPORT = """\
Turns what another tool recorded into a collective trace, for workload: {kind: trace, path: FILE}.

example:
  python -m netsim import kineto profiles --out trace.jsonl

kineto: a folder with the profile of every rank, .json or .json.gz, as torch.profiler writes it with export_chrome_trace
or tensorboard_trace_handler. Needed are NCCL and the events record_param_comms, which say of each collective its name,
elements, dtype, splits and process group. The time between two collectives of a rank becomes the gap of computation
before the second. The kernels' times count where the profile has them. Profiles of gloo do not say the sizes.

FILE is written whole or not at all, after a check that all ranks call the same collectives.
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
    """A trace, and what becomes of it."""

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


class Import(Request):
    """What was recorded, and the trace."""

    kind: Annotated[str, WORD, "FORMAT"]
    """kineto"""
    path: Annotated[Path, WORD, "DIR"]
    """what was recorded"""
    out: Annotated[Path, "FILE"]
    """the trace to write, JSON lines"""


def _import(request: Import) -> None:
    from netsim.workload.kineto.convert import import_kineto

    if request.kind != "kineto":
        raise Refusal("command line", "FORMAT", f"no format is called {request.kind}", "write kineto")
    refuse_folder(request.out)
    converted = import_kineto(request.path, request.out)
    for notice in converted.notices:
        print(f"netsim import: {notice}", file=sys.stderr)
    print(f"{converted.records} collectives of {converted.ranks} ranks: {request.out}")


IMPORT = Verb(
    name="import",
    summary="a collective trace from what another tool recorded",
    description=_IMPORT,
    request=Import,
    run=_import,
    following="python -m netsim compare configs/scenarios/demo.yaml workload.path={out} --out {out}.simulated",
)


class Keys(Request):
    """Which keys are listed."""

    prefix: Annotated[str | None, WORD, "PREFIX"] = None
    """show only the keys that begin so"""


def _keys(request: Keys) -> None:
    from netsim.foundation.reference import matching, print_groups
    from netsim.scenario import Scenario

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
