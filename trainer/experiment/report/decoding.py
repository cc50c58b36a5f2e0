"""The part about decoding: the same texts written in coherent dispatch, contiguous against placed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe.collective_trace import CollectiveRecord, read
from moe.placement.placement import Placement
from moe.price.table import change, megabytes
from moe.price.traffic import Traffic
from moe.report.page import Figure, Section, Table
from netsim.foundation.refusal import Refusal
from trainer.experiment.report.curves import before_after_bars
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import shown

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
