"""What merging the ranks' traces costs: processor time and memory for each record.

python -m tests.benchmarks.merge --out merge.json
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, write
from netsim.foundation.files import replacing

CASES = {
    "32 ranks, 2,000 all-reduces": (32, 2_000, 0),
    "64 ranks, 20,000 all-reduces": (64, 20_000, 0),
    "32 ranks, 2,000 records, every third an all-to-all": (32, 2_000, 3),
}


def main() -> None:
    """Measures every case in a process of its own, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merge", nargs=2, metavar=("FOLDER", "WORLD_SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    if options.merge:
        print(json.dumps(merged(Path(options.merge[0]), int(options.merge[1]))))
        return
    figures = {name: measured(*case) for name, case in CASES.items()}
    for name, figure in figures.items():
        print(
            f"{figure['us_per_record']:6.2f} us and {figure['bytes_per_record']:5.0f} bytes a record "
            f"({figure['peak_mib']:.0f} MiB above the interpreter's)  {name}"
        )
    if options.out is not None:
        with replacing(options.out) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measured(world_size: int, count: int, every: int) -> dict[str, float]:
    """Figures of one case.

    Args:
        world_size: ranks.
        count: records of each.
        every: which of them are all-to-alls; 0: none.
    """
    with tempfile.TemporaryDirectory() as folder:
        header = TraceHeader("recorded", world_size, 8, {"data": tuple(range(world_size))}, (5, 6), None, "2")
        for rank in range(world_size):
            write(rank_path(Path(folder), rank), header, records(rank, world_size, count, every))
        again = [sys.executable, "-m", "tests.benchmarks.merge", "--merge", folder, str(world_size)]
        told = json.loads(subprocess.run(again, stdout=subprocess.PIPE, check=True).stdout)
    total = world_size * count
    return {
        "records": total,
        "us_per_record": told["seconds"] / total * 1e6,
        "bytes_per_record": told["bytes"] / total,
        "peak_mib": told["bytes"] / 2**20,
    }


def records(rank: int, world_size: int, count: int, every: int) -> Iterator[CollectiveRecord]:
    """What a rank recorded in two steps."""
    for seq in range(count):
        common: dict[str, Any] = {
            "rank": rank,
            "seq": seq,
            "step": 5 + (seq >= count // 2),
            "micro": 0,
            "phase": "backward",
        }
        times: dict[str, Any] = {"gap_ns": 1000, "t_issue_ns": seq * 1000, "t_done_ns": seq * 1000 + 10}
        if every and seq % every == 0:
            sent, got = (
                tuple(1000 * (1 + (one * 7 + other * 3 + seq) % 50) for one, other in pairs)
                for pairs in (
                    [(rank, other) for other in range(world_size)],
                    [(other, rank) for other in range(world_size)],
                )
            )
            splits: dict[str, Any] = {
                "in_splits": sent,
                "out_splits": got,
                "bytes_in": sum(sent),
                "bytes_out": sum(got),
            }
            yield CollectiveRecord(
                **common, **times, **splits, op="all_to_all", group="data", size1=False, dtype="bfloat16"
            )
        else:
            size: dict[str, Any] = {"bytes_in": 4_000_000, "bytes_out": 4_000_000}
            yield CollectiveRecord(
                **common, **times, **size, op="all_reduce", group="data", size1=False, dtype="bfloat16"
            )


def merged(folder: Path, world_size: int) -> dict[str, float]:
    """Processor time of merging, and by how much the peak of this process grew."""
    from trainer.trace.merge import merge

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    merge(folder, world_size)
    seconds = time.process_time() - begun
    return {"seconds": seconds, "bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024}


if __name__ == "__main__":
    main()
