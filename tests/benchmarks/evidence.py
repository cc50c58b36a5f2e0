"""Predictions beside measurements of real machines: the links' rates, two plain rivals, and calibrations.

    python -m tests.benchmarks.evidence --nccl nccl.csv --deepep deepep.csv [--offset 0|1] [--unseen 4|8]

The tables are those of AIConfigurator, device,nccl,op,dtype,gpus,bytes,us and its table of DeepEP's kernels. Fits see
every second size of 2 and 8 GPUs (with --unseen 8 of 2 and 4); errors are over all other rows. Of DeepEP they see one
node, and of two nodes up to 2,048 tokens. Columns:

- nominal: the estimate of the algorithm from rates and delays, as scenarios have it without a calibration;
- alpha-beta: time of a round and rate, least squares of relative errors on the same rows, an operation each;
- interpolated: logarithms on the same rows, by size, then by number of GPUs;
- calibrated: `netsim.calibration`, with the share of rows inside its intervals of 90 %.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from netsim.calibration.fit import calibrate
from netsim.calibration.measured import Measurement, read_measurements
from netsim.collective.build import Schedules
from netsim.collective.config import Algorithms
from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario
from netsim.topology.mapping import rank_map
from netsim.workload.collective import operation

PRESETS = {"A100": "dgx_a100_20", "H100": "dgx_h100_32", "B200": "dgx_b200_32", "L40S": "l40s_16"}
COLUMNS = ("nominal", "alpha-beta", "interpolated", "calibrated")
MOST_TOKENS = 2048
"""Of two nodes, in the rows that fits see."""
Rows = Sequence[Measurement]
Predictor = Callable[[Measurement], float]


class Row(NamedTuple):
    """A measurement that no fit saw, the prediction of each column that has one, and whether the interval covers it."""

    machine: str
    one: Measurement
    predicted: dict[str, float]
    covered: bool


def nominal(machine: str) -> Predictor:
    """Estimates of netsim on a host of the machine's preset."""
    scenario = read_scenario(
        {
            "format": "flowfabric.scenario/1",
            "topology": {"kind": "preset", "name": PRESETS[machine], "calibration": None},
            "workload": {"kind": "collective", "op": "send", "bytes_per_rank": "1KB"},
            "packet": {"payload": "64KB"},
            "transports": ["ecmp"],
            "seeds": [0],
        }
    )
    topology = prepare(scenario, "board").scene.topology
    schedules = Schedules(Algorithms(), rank_map(topology, range(8)), "board", topology, scenario.packet.payload)

    def predict(one: Measurement) -> float:
        shared = one.bytes // one.ranks if one.op == "all_gather" else one.bytes
        found = schedules.nominal_ps(operation(one.op, one.ranks, shared), range(one.ranks))  # pyright: ignore
        assert found is not None
        return found / 1e6

    return predict


def alpha_beta(rows: Rows) -> Predictor:
    """Time = rounds x alpha + bytes through a rank's link / rate, for each operation."""
    fits: dict[str, np.ndarray] = {}
    for op in {one.op for one in rows}:
        of_op = [one for one in rows if one.op == op]
        terms = np.array([_rounds_and_bytes(one) for one in of_op])
        times = np.array([one.time_us for one in of_op])
        fits[op] = np.linalg.lstsq(terms / times[:, None], np.ones(len(times)), rcond=None)[0]
    return lambda one: max(float(np.array(_rounds_and_bytes(one)) @ fits[one.op]), 0.01)


def _rounds_and_bytes(one: Measurement) -> tuple[float, float]:
    rounds = (2 if one.op == "all_reduce" else 1) * (one.ranks - 1)
    return rounds, rounds * one.bytes / one.ranks


def interpolated(rows: Rows) -> Predictor:
    """Logarithms, by size for each number of GPUs, then by the number of GPUs."""
    curves: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for op, ranks in sorted({(one.op, one.ranks) for one in rows}):
        of_both = [one for one in rows if (one.op, one.ranks) == (op, ranks)]
        sizes = np.array(sorted({one.bytes for one in of_both}))
        times = [float(np.mean([np.log(one.time_us) for one in of_both if one.bytes == size])) for size in sizes]
        curves.setdefault(op, {})[ranks] = np.log(sizes), np.array(times)

    def predict(one: Measurement) -> float:
        of_op = curves[one.op]
        at_size = [float(np.interp(np.log(one.bytes), *of_op[ranks])) for ranks in of_op]
        return float(np.exp(np.interp(np.log(one.ranks), np.log(list(of_op)), at_size)))

    return predict


def board(nccl: Rows, offset: int, unseen: int) -> Iterator[Row]:
    """Rows of nodes that fits did not see."""
    for machine in PRESETS:
        rows = [one for one in nccl if machine in one.device]
        sizes = set(sorted({one.bytes for one in rows})[offset::2])
        seen = [one for one in rows if one.bytes in sizes and one.ranks != unseen]
        known = calibrate(seen, "board")
        others = {"nominal": nominal(machine), "alpha-beta": alpha_beta(seen), "interpolated": interpolated(seen)}
        for one in rows:
            if one in seen:
                continue
            found = known.predict(one.op, one.ranks, one.bytes)
            assert found is not None
            predicted = {name: predict(one) for name, predict in others.items()} | {"calibrated": found.time_us}
            yield Row(machine, one, predicted, found.low_us <= one.time_us <= found.high_us)


def kernels(deepep: Rows) -> Iterator[Row]:
    """Rows of DeepEP on two nodes above the tokens that fits saw."""
    tokens = {op: min(one.bytes for one in deepep if one.op == op) for op in ("dispatch", "combine")}
    seen = [one for one in deepep if one.hosts == 1 or one.bytes <= MOST_TOKENS * tokens[one.op]]
    known = calibrate(seen, "board")
    for one in deepep:
        if one in seen:
            continue
        found = known.predict(one.op, one.ranks, one.bytes, one.hosts, one.sms)
        assert found is not None
        alike = [other for other in seen if (other.op, other.hosts, other.sms) == (one.op, one.hosts, one.sms)]
        predicted = {"alpha-beta": alpha_beta(alike)(one), "calibrated": found.time_us}
        yield Row(f"DeepEP, {one.sms} SMs", one, predicted, found.low_us <= one.time_us <= found.high_us)


def summary(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Median and 90th percentile of the relative error of each column, and the coverage."""
    line: dict[str, Any] = {"of": name, "rows": len(rows)}
    for column in COLUMNS:
        off = [abs(row.predicted[column] / row.one.time_us - 1) for row in rows if column in row.predicted]
        line[column] = [round(float(np.quantile(off, part)), 3) for part in (0.5, 0.9)] if off else None
    return line | {"covered": round(float(np.mean([row.covered for row in rows])), 3)}


def lines(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """A line for all, each machine, operation, number of GPUs and decade of size."""
    yield summary("all", rows)
    switched = [row for row in rows if row.machine != "L40S"]
    if len(switched) < len(rows):
        yield summary("all with NVLink", switched)
    for kind in (
        lambda row: row.machine,
        lambda row: row.one.op,
        lambda row: f"{row.one.ranks} GPUs",
        lambda row: f"{10 ** (len(str(row.one.bytes)) - 1):,} B and more",
    ):
        for name in sorted({kind(row) for row in rows}, key=lambda name: (len(name), name)):
            yield summary(name, [row for row in rows if kind(row) == name])


def show(title: str, content: Sequence[dict[str, Any]]) -> None:
    """Prints a table."""
    table = Table("", "rows", *COLUMNS, "in the interval", title=title, box=SIMPLE_HEAD)
    for line in content:
        cells = (f"{100 * one[0]:.1f}, {100 * one[1]:.1f} %" if (one := line[name]) else "" for name in COLUMNS)
        table.add_row(line["of"], f"{line['rows']:,}", *cells, f"{100 * line['covered']:.1f} %")
    Console(width=140).print(table)


def main() -> None:
    """Prints the board and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nccl", type=Path, required=True)
    parser.add_argument("--deepep", type=Path)
    parser.add_argument("--offset", type=int, choices=(0, 1), default=0, help="first of the sizes that fits see")
    parser.add_argument("--unseen", type=int, choices=(4, 8), default=4, help="GPUs that fits do not see")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    written = {"nccl": list(lines(list(board(read_measurements(options.nccl), options.offset, options.unseen))))}
    show("Collectives of NCCL in a host: median and 90th percentile of the error", written["nccl"])
    if options.deepep:
        written["deepep"] = list(lines(list(kernels(read_measurements(options.deepep)))))
        show("DeepEP on two hosts above 2,048 tokens", written["deepep"])
    if options.out:
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
