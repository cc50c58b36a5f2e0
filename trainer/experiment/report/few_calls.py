"""The part about drawing in few calls of the network: searched times of steps, and what a drawing sends."""

from pathlib import Path

from moe.collective_trace import read
from moe.price.table import change, megabytes
from moe.price.traffic import Traffic
from moe.report.page import Block, Figure, Section, Table
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.evaluation.steps.charts import errors_chart
from trainer.evaluation.steps.measured import Measured, ratio
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import RunFiles, shown
from trainer.flow.sampler.grid import StepsFile
from trainer.sampling.reference import Reference
from trainer.sampling.searched import check_made_of

RECORDED, FORMULA = "collectives.jsonl", "formula.jsonl"
"""In the folder of a drawing: what ``sample --trace`` recorded, and what ``trace --sampling`` wrote."""
FEW = 4
"""Evaluations of the large number, or the nearest to it."""


def steps_part(files: RunFiles, path: Path) -> Part:
    """Gains of the searched times of steps."""
    check_made_of(path, Reference.of_run(ReferenceConfig(run=files.folder)).digest)
    file = StepsFile.read(path)
    found = Measured.of(path, file)
    search = file.made_by.get("search", "endpoint")
    few = min(found.grids, key=lambda number: abs(number - FEW))
    shares = {
        number: ratio(kinds[search].error, kinds["uniform"].error)
        for number, kinds in found.grids.items()
        if search in kinds
    }
    listed = ", ".join(f"{share:.2f} in {number}" for number, share in shares.items())
    text = (
        "A sampler of few steps gains by taking them where the paths bend. The steps verb searched the times at which "
        f"Euler's method ends nearest to {file.made_by.get('nodes', 100)} steps, without any training. On "
        f"{found.fresh:,} noises that the search had not seen, the error is that of equal steps times {listed} "
        "evaluations."
    )
    caption = (
        "Lower is better. Error: mean squared distance from where the fine grid leads the same noise, which the "
        "endpoint search lowers. Energy distance: how much the ends as a whole differ from those of the fine grid, at "
        "which no search looks."
    )
    return Part(
        [(f"searched times, error in {few} evaluations", f"{shares[few]:.2f} x that of equal steps")],
        [(f"Error in {few} calls", f"{shares[few]:.2f} x", "of equal steps, with searched times; no training")],
        [Section("Fewer calls: steps where the paths bend", [Figure(errors_chart(found), caption)], text)],
    )


def drawing_part(files: RunFiles, folder: Path) -> Part:
    """Traffic of the ranks while they draw samples, recorded and by formula."""
    rows, traffic, calls = [], {}, {}
    for name, told in ((RECORDED, "recorded"), (FORMULA, "by formula")):
        header, records = read(folder / name)
        if header.config_sha256 not in files.digests:
            problem = f"is not that of {files.folder} ({shown(header.config_sha256)})"
            raise Refusal(folder / name, "line 1, config_sha256", problem, "write it of this run")
        records = list(records)
        calls[told] = 1 + max((record.micro for record in records), default=0)
        traffic[told] = Traffic.of(header, records, header.ranks_per_node)
    for told, one in traffic.items():
        a_call = megabytes(one.rank_bytes / calls[told])
        rows.append((told, str(calls[told]), megabytes(one.rank_bytes), a_call, megabytes(one.node_bytes)))
    recorded, expected = (traffic[told].rank_bytes for told in ("recorded", "by formula"))
    difference = change(expected, recorded)
    table: list[Block] = [
        Table(
            ("", "calls of the network", "bytes between ranks", "of a call", "between nodes"),
            rows,
            "By formula, tokens are spread evenly over the ranks and choose their experts at random; recorded, where "
            "the router sent them.",
        )
    ]
    text = (
        "With experts on several ranks, each call of the network is all-to-alls: fewer calls are fewer bytes and less "
        f"time on the wire. The ranks drew together in {calls['recorded']} calls and sent {megabytes(recorded)}, "
        f"{difference} against the formula, which writes a drawing for any number of ranks, for netsim to time."
    )
    return Part(
        [("drawing, bytes between ranks", f"{megabytes(recorded)}, {difference} against even routing")],
        [],
        [Section("What a drawing sends", table, text)],
    )
