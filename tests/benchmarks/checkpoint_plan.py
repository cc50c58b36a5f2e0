"""What a save at 512 ranks costs rank 0 besides writing its own values: python -m tests.benchmarks.checkpoint_plan

The other ranks are fakes: under FSDP each of them has a row block of every tensor, of two rows of four values. Timed is
what rank 0 does alone, with the files of all ranks on this machine's disk:

    records     its own records of its rectangles
    plan        who writes what, from the records of all ranks; every rank does the same
    averages    ema.safetensors from the files of all ranks
    manifest    the small files and COMPLETE, with the records of the files of all ranks

and beside them what it sends and receives for the plan, and what reading costs a rank:

    resume      a rank with the same division reads its own file
    redivide    a rank of half as many reads what it needs from all files
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.checkpoint.manifest import FileRecord, Manifest
from trainer.checkpoint.resuming import fill
from trainer.checkpoint.storage import write_index, write_pieces
from trainer.checkpoint.writers import RECORD, check_complete, records_of, write_averages, writes
from trainer.model.parallel.state import StatePiece

KINDS = ("weight", "exp_avg", "exp_avg_sq", "ema")
ROWS, COLUMNS = 2, 4


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--tensors", type=int, default=600)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), given.ranks, given.tensors)
    print(f"{given.ranks} ranks, {given.tensors} tensors, {len(KINDS)} kinds")
    for key, value in figures.items():
        print(f"{key:>24} {value:10.3f}")
    if given.out is not None:
        given.out.write_text(json.dumps({"ranks": given.ranks, "tensors": given.tensors, **figures}, indent=1) + "\n")


def measured(folder: Path, ranks: int, tensors: int) -> dict[str, float]:
    """Times each part of a save once.

    Args:
        folder: an empty one for the checkpoint.
        ranks: fake ranks.
        tensors: parameters that all of them share.

    Returns:
        Seconds of a processor, for the machine may do other things, and bytes in megabytes, by name.
    """
    figures: dict[str, float] = {}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        begun = time.process_time()
        result = act()
        figures[f"{name}_s"] = time.process_time() - begun
        return result

    own = rectangles(0, ranks, tensors)
    timed("records", lambda: records_of(own))
    records = np.concatenate([records_of(rectangles(rank, ranks, tensors)) for rank in range(ranks)])
    numbers = np.repeat(np.arange(ranks), tensors)
    written = timed("plan", lambda: writes(records, numbers))
    assert written.all()
    elements = timed("check", lambda: check_complete(records))
    figures["sent_mb"], figures["received_mb"] = (count * RECORD.itemsize / 1e6 for count in (tensors, len(records)))
    state, files = folder / "state", dict[str, FileRecord]()
    for rank in range(ranks):
        pieces = [piece for of_rectangle in rectangles(rank, ranks, tensors) for piece in of_rectangle]
        files[f"state/rank_{rank:05d}.safetensors"] = write_pieces(state, rank, pieces)
        files[f"ranks/rank_{rank:05d}.pt"] = FileRecord(0, "0" * 64)
    write_index(state, ranks)
    before = resident_mb()
    files |= timed("averages", lambda: write_averages(folder, elements, 1, 0, ranks))
    figures["averages_memory_mb"] = resident_mb() - before
    timed("manifest", lambda: Manifest(1, 1, {}, {"world_size": ranks}, files).write(folder))
    figures["save_beyond_own_s"] = sum(value for name, value in figures.items() if name.endswith("_s"))
    figures["file_mb"] = files["state/rank_00000.safetensors"].size_bytes / 1e6
    same = [piece for of_rectangle in own for piece in of_rectangle]
    timed("resume", lambda: fill(state, 0, same))
    other = [piece for of_rectangle in rectangles(0, ranks // 2, tensors, 2 * ROWS) for piece in of_rectangle]
    timed("redivide", lambda: fill(state, 0, other))
    return figures


def rectangles(rank: int, ranks: int, tensors: int, rows: int = ROWS) -> list[list[StatePiece]]:
    """What a rank holds: its rows of every tensor, of all kinds."""
    shape, offset = (ranks * rows, COLUMNS), (rank * rows, 0)
    return [
        [StatePiece(f"blocks.{number}.weight", kind, shape, offset, torch.zeros(rows, COLUMNS)) for kind in KINDS]
        for number in range(tensors)
    ]


def resident_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
