"""calibrate: measurements of collectives as a calibration, and how far off one is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from netsim.command.files import refuse_folder
from netsim.foundation.command import WORD, Either, Request, Verb
from netsim.foundation.refusal import Refusal

if TYPE_CHECKING:
    from netsim.calibration.fit import Judgement

_CALIBRATE = """\
Fits the time of collectives by size and number of GPUs to measurements, with intervals of 90 %, for scenarios
(topology.calibration) and for compare --calibration.

examples:
  all_reduce_perf -b 512 -e 1G -f 2 -g 8 > all_reduce.txt          (nccl-tests, on your machine)
  python -m netsim calibrate all_reduce.txt alltoall.txt --out node.yaml
  python -m netsim calibrate others.csv --check node.yaml

A SOURCE is the printed output of nccl-tests; a table with the columns op, ranks, bytes, us and, where they differ,
hosts, device, sms; a table of DeepEP's kernels; a recorded collective trace; or profiles of torch, one or a folder.
Times in a profile of one rank include its waiting for the others. Sizes are those of nccl-tests: of all_gather the
whole result, of reduce_scatter the whole input, else the buffer of a rank.

Give two numbers of GPUs or more if you can: only then does the fit know what grows with them. An answer for sizes or
numbers of GPUs that were not measured says that it is extrapolated, and its interval widens with the distance.
"""


class Calibrate(Request):
    """Options of ``calibrate``: sources of measurements, and the calibration to write or to check."""

    sources: Annotated[tuple[Path, ...], WORD, "SOURCE"]
    """measurements of collectives"""
    out: Annotated[Path | None, "FILE", Either("what")] = None
    """the calibration to write, YAML"""
    check: Annotated[Path | None, "FILE", Either("what")] = None
    """a calibration, or the name of a shipped one, to be compared with the measurements"""
    device: Annotated[str | None, "NAME"] = None
    """whose measurements are taken, where the sources have several devices"""
    source: Annotated[str | None, "TEXT"] = None
    """where the measurements come from, for the file (default: the names of the sources)"""
    json: bool = False
    """print the comparison as JSON"""


def _calibrate(request: Calibrate) -> None:
    from netsim.calibration.document import read_calibration
    from netsim.calibration.fit import calibrate, judge
    from netsim.calibration.measured import read_measurements, select
    from netsim.foundation.terminal import Progress

    if not request.sources:
        raise Refusal("command line", "SOURCE", "is missing", "name measurements, such as all_reduce.txt")
    if (request.out is None) == (request.check is None):
        raise Refusal("command line", "--out", "is missing", "give --out FILE, or --check FILE")
    measurements = select([one for source in request.sources for one in read_measurements(source)], request.device)
    if request.check is not None:
        _show(judge(read_calibration(request.check), measurements), request.json)
        return
    assert request.out is not None
    refuse_folder(request.out)
    names = request.source or ", ".join(source.name for source in request.sources)
    with Progress("netsim calibrate") as progress:
        calibration = calibrate(measurements, names, lambda op, fits: progress.phase(f"fitting {op}, one of {fits}"))
    calibration.write(request.out)
    _show(judge(calibration, measurements), request.json)
    if not request.json:
        of = f" of {calibration.device}" if calibration.device else ""
        print(f"fitted to the {len(measurements)} measurements{of} that the table compares: {request.out}")


def _show(judgement: "Judgement", as_json: bool) -> None:
    """Prints the errors as a table, or as JSON."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from netsim.foundation.terminal import Terminal

    if as_json:
        print(json.dumps(judgement.to_dict(), indent=1))
        return
    table = Table(box=SIMPLE_HEAD)
    for head in ("operation", "measured", "median error", "90th percentile", "in the interval", "extrapolated"):
        table.add_column(head, justify="right" if table.columns else "left")
    for one in judgement.errors:
        shares = (f"{100 * value:.1f} %" for value in one[2:])
        table.add_row(one.name, f"{one.measurements:,}", *shares)
    if judgement.errors:
        Terminal(width=120).print(table)
    if judgement.unknown:
        print(f"{judgement.unknown} measurements are of operations or hosts that the calibration does not have")


CALIBRATE = Verb(
    name="calibrate",
    summary="measured collectives as a calibration, with intervals",
    description=_CALIBRATE,
    request=Calibrate,
    run=_calibrate,
    following="python -m netsim compare configs/scenarios/all_to_all_64.yaml --calibration {out} --out runs/calibrated",
)
