"""How much sooner a sweep is done with more processes, and what it costs over simulating alone.

python -m tests.benchmarks.sweep_processes [SWEEP] [--jobs 1 2 4]
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from netsim import simulate
from netsim.sweep.driver import sweep
from netsim.sweep.sweep_file import read_sweep


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", nargs="?", type=Path, default=Path("configs/sweeps/spines.yaml"))
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    cells = read_sweep(given.sweep).cells
    with TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        for cell in cells:
            simulate(cell.scenario.resolved()).write(Path(folder) / "alone")
        alone_s = time.perf_counter() - began_s
        print(f"{len(cells)} cells, simulated and written one after the other: {alone_s:.2f} s")
        for jobs in given.jobs:
            began_s = time.perf_counter()
            assert sweep(given.sweep, Path(folder) / str(jobs), jobs=jobs) == []
            passed_s = time.perf_counter() - began_s
            began_s = time.perf_counter()
            assert sweep(given.sweep, Path(folder) / str(jobs), jobs=jobs) == []
            again_s = time.perf_counter() - began_s
            ratio = alone_s / passed_s
            print(f"sweep, {jobs} processes: {passed_s:.2f} s, {ratio:.2f} times as fast; again: {again_s:.2f} s")


if __name__ == "__main__":
    main()
