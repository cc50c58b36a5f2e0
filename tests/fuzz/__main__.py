"""``python -m tests.fuzz``: malformed input for every reader, and a table of how it ended."""

import argparse
import faulthandler
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.readers import READERS
from tests.fuzz.run import Tally, run

STUCK_S = 600
"""After which a process that no alarm reaches, for it is in compiled code, says where it is and ends."""


def main() -> int:
    """Runs the cases; 1 if one ends as none may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Damages files that users give.")
    parser.add_argument(
        "--cases", type=int, default=10_000, metavar="N", help="of all readers together (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all damage (default: 0)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the first case of each fault")
    parser.add_argument("--reader", metavar="NAME", help="only this reader, by its name in the table")
    parser.add_argument("--case", type=int, metavar="N", help="only this case of the reader")
    options = parser.parse_args()
    readers = [reader for reader in READERS if options.reader in (None, reader.name)]
    if not readers:
        parser.error(f"--reader: there is no {options.reader}; there are {', '.join(one.name for one in READERS)}")
    each = -(-options.cases // len(readers))
    numbers = range(each) if options.case is None else range(options.case, options.case + 1)
    started = time.monotonic()
    done = Counter[str]()

    def progress(reader: object) -> None:  # noqa: ARG001
        done["readers"] += 1
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        share = f"{done['readers']} of {len(readers)} readers, {time.monotonic() - started:.0f} s"
        print(f"\r{share}", end="", file=sys.stderr, flush=True)

    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    with TemporaryDirectory() as folder:
        tallies = run(readers, numbers, options.seed, Path(folder) / "files", keep=options.keep, progress=progress)
    faulthandler.cancel_dump_traceback_later()
    print(file=sys.stderr)
    print(table(tallies))
    return int(any(tally.failures for tally in tallies))


def table(tallies: list[Tally]) -> str:
    """How the cases of every reader ended, and the first case of each fault."""
    width = max(len(tally.reader.name) for tally in tallies)
    lines = [f"{'reader':{width}}  {'cases':>6}  {'exit 0':>6}  {'exit 2':>6}  {'failures':>8}"]
    for tally in tallies:
        figures = tally.cases, tally.accepted, tally.refused, len(tally.failures)
        lines.append("{:{}}  {:>6}  {:>6}  {:>6}  {:>8}".format(tally.reader.name, width, *figures))
    sums = [
        sum(column)
        for column in zip(*((t.cases, t.accepted, t.refused, len(t.failures)) for t in tallies), strict=True)
    ]
    lines.append("{:{}}  {:>6}  {:>6}  {:>6}  {:>8}".format("all", width, *sums))
    for tally in tallies:
        faults = Counter(failure.verdict.fault for failure in tally.failures)
        for fault, count in faults.most_common():
            first = next(failure for failure in tally.failures if failure.verdict.fault == fault)
            lines.append(f"{tally.reader.name}, case {first.number} ({first.file}): {fault}; {count} such")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
