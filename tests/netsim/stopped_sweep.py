"""A sweep that the signal STOP_BY stops when it has kept STOP_AFTER runs and written half of another."""

import os
import signal
import sys

from netsim.__main__ import main
from netsim.sweep.folder import SweepFolder, _whole
from netsim.sweep.job import Files
from netsim.sweep.sweep_file import Cell

keep_run = SweepFolder.keep_run
kept: list[tuple[int, int]] = []


def stopped(self: SweepFolder, cell: Cell, run: tuple[int, int], files: Files) -> None:
    if len(kept) == int(os.environ["STOP_AFTER"]):
        with _whole(self._run_folder(cell, run)) as folder:
            for name in list(files)[: len(files) // 2]:
                (folder / name).write_bytes(files[name])
            os.kill(os.getpid(), signal.Signals[os.environ["STOP_BY"]])
    keep_run(self, cell, run, files)
    kept.append(run)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    SweepFolder.keep_run = stopped
    sys.exit(main())
