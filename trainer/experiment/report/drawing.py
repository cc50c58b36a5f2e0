"""The parts about drawing in few calls, about the traffic of a drawing, and about texts that are written on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe.collective_trace import CollectiveRecord, read
from moe.placement.placement import Placement
from moe.price.table import change, megabytes
from moe.price.traffic import Traffic
from netsim.foundation.page import Block, Figure, Section, Table
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.evaluation.step_figures import StepFigures, ratio
from trainer.evaluation.steps_page import errors_chart
from trainer.experiment.report.part import Part, before_after_bars
from trainer.experiment.report.run_files import RunFiles, shown
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.sampler_choice import check_made_of
from trainer.sampling.trained import Reference

RECORDED, FORMULA = "collectives.jsonl", "formula.jsonl"
"""In the folder of a drawing: what ``sample --trace`` recorded, and what ``trace --sampling`` wrote."""
FEW = 4
"""Evaluations of the large number, or the nearest to it."""


def steps_part(files: RunFiles, path: Path) -> Part:
    """Gains of the searched times of steps."""
    check_made_of(path, Reference.of_run(ReferenceConfig(run=files.folder)).digest)
    file = StepsFile.read(path)
    found = StepFigures.of(path, file)
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


_REMEDY = "write both with `python -m trainer generate RUN --record` under torchrun, from the same run and prompts"


@dataclass(frozen=True)
class _Decoded:
    """One placement: its traffic, the busiest rank over the mean, the texts, the hash of the run's configuration."""

    placement: Placement
    traffic: Traffic
    busiest: float
    texts: bytes
    config_sha256: str | None

    @classmethod
    def read(cls, folder: Path) -> "_Decoded":
        header, records = read(folder / "collectives.jsonl")
        placement = Placement.read(folder / "placement.json")
        try:
            texts = (folder / "texts.txt").read_bytes()
        except OSError as error:
            raise Refusal(folder / "texts.txt", "file", f"cannot be read ({error.strerror})", _REMEDY) from error
        traffic = Traffic.of(header, records, placement.ranks_per_node)
        return cls(placement, traffic, _busiest(records, header.world_size), texts, header.config_sha256)


def decoding_part(folder: Path) -> Part:
    """Saving of a placement while texts are written, from ``generate --record`` in contiguous/ and placed/."""
    before, placed = (_Decoded.read(folder / name) for name in ("contiguous", "placed"))
    path = folder / "placed"
    if before.config_sha256 != placed.config_sha256:
        problem = f"is not that of {folder / 'contiguous'} ({shown(placed.config_sha256)})"
        raise Refusal(path / "collectives.jsonl", "line 1, config_sha256", problem, _REMEDY)
    same = before.texts == placed.texts
    was, now = before.traffic, placed.traffic
    less = change(was.rank_bytes, now.rank_bytes)
    rows = [
        ("rows that leave their rank", f"{was.moved:.1%}", f"{now.moved:.1%}", change(was.moved, now.moved)),
        ("bytes between ranks", megabytes(was.rank_bytes), megabytes(now.rank_bytes), less),
        (
            "busiest rank (mean of layers)",
            f"{before.busiest:.2f} x mean",
            f"{placed.busiest:.2f} x mean",
            f"{placed.busiest - before.busiest:+.2f}",
        ),
    ]
    bars = {
        "rows that leave their rank": {"contiguous": 100 * was.moved, "placed": 100 * now.moved},
        "bytes between ranks": {"contiguous": was.rank_bytes / 1e6, "placed": now.rank_bytes / 1e6},
    }
    written = before.texts.decode("utf-8", errors="replace").split("\n" + "-" * 80 + "\n")
    equal = "Both write the same bytes" if same else "The texts differ, since sums are rounded otherwise"
    text = (
        f"A small language model writes {len(written):,} texts at once in context-coherent dispatch, where a token "
        f"stays with its expert. Placed by affinity between layers, {now.moved:.1%} of the rows leave their rank in "
        f"place of {was.moved:.1%}, and the bytes between ranks change by {less}. {equal}."
    )
    caption = "Recorded while the ranks wrote. Bytes: token moves, and keys and values of every new byte for all ranks."
    told = "While the texts were written: rows of tokens, and all bytes of the expert layers and caches."
    blocks = [
        Figure(before_after_bars(bars, ("%", "MB"), across=True), told),
        Table(("", "contiguous, recorded", "placed, recorded", "change"), rows, caption),
    ]
    return Part(
        [("decoding, rows that leave their rank", f"{was.moved:.1%} -> {now.moved:.1%}, bytes {less}")],
        [
            (
                "Rows between ranks, decoding",
                f"{now.moved:.0%}",
                f"leave their rank; contiguous {was.moved:.0%}; bytes {less}",
            )
        ],
        [Section("Second act: a language model decodes with its experts placed", blocks, text)],
    )


def _busiest(records: list[CollectiveRecord], world_size: int) -> float:
    """Rows that the busiest rank gets over the mean of the ranks, mean over the layers."""
    layers = sorted({record.layer for record in records if record.op == "all_to_all" and record.layer is not None})
    rows_LR = np.zeros([len(layers), world_size])
    for record in records:
        if record.op == "all_to_all" and record.layer is not None:
            rows_LR[layers.index(record.layer), record.rank] += record.bytes_out
    return float((rows_LR.max(axis=1) / np.maximum(rows_LR.mean(axis=1), 1)).mean()) if layers else 1.0
