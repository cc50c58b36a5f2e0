"""Whether the code still computes the same results.

    python -m tests.benchmarks.golden_results --out FILE [--against FILE] [--only GROUP,..] [--large] [--jobs N]

Computes small cases of everything that does not train, and writes a SHA-256 of each result by its name. The weights
that training makes are for tests.benchmarks.golden_weights. Groups:

    schemas  every schema as the models generate it, those written by hand, and the page of all keys
    help     --help of every verb of the three packages, and what the verbs keys print
    moe      placement and report of three routing traces by every objective, solver and choice; replay, price, export
    netsim   every scenario and kind of congestion control under every transport, two seeds, by each engine that takes
             it: figures, links, flows and collectives of each run
    check    what check prints of every run, method and engine: layout, memory, collectives, all settings
    traces   formula traces of a step, with what is computed, and of a drawing of every run
    verbs    JSON and pictures of restore, edit, steps and evaluate on runs with random weights
    large    the whole demo, and 256 ranks on simpy; only with --large or by name

Refusals are results too: the line that names field and remedy. simpy, which is slow, takes the scenarios with fewer
bytes, demo is simulated with a smaller model and two_nodes with a recorded trace of tests/files. Fields that a clock
changes are left out.

With --against, every name whose digest differs from that of an earlier file is printed, with the lines that differ
where it is text; "new" is what the earlier file does not have. The exit code is 1 if anything differs, is missing or
failed. A line is printed for each case that is done, and the file holds all that are.

    git stash; python -m tests.benchmarks.golden_results --out before.json; git stash pop
    python -m tests.benchmarks.golden_results --out after.json --against before.json
    python -m tests.benchmarks.golden_results --out after.json --against before.json --only schemas,help

A digest holds on one kind of machine only: another processor or another release of PyTorch may round otherwise.
"""

import argparse
import difflib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.golden_results.gold import Case, Gold
from tests.benchmarks.golden_results.groups import GROUPS

OPTIONAL = "large"
MOST_LINES = 12
"""Of one text that differs."""


def main() -> int:
    """Computes, compares, prints and writes.

    Returns:
        The exit code.
    """
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.golden_results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the digests go, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="an earlier --out")
    parser.add_argument("--only", metavar="GROUP,..", help=f"some of {', '.join(GROUPS)} (default: all but {OPTIONAL})")
    parser.add_argument("--large", action="store_true", help=f"the group {OPTIONAL} too")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="cases at a time (default: cores)"
    )
    given = parser.parse_args()
    groups = given.only.split(",") if given.only else [name for name in GROUPS if name != OPTIONAL]
    groups += [OPTIONAL] if given.large and OPTIONAL not in groups else []
    if unknown := [name for name in groups if name not in GROUPS]:
        parser.error(f"--only: there is no {', '.join(unknown)}; use some of {', '.join(GROUPS)}")
    machine = {
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    earlier = json.loads(given.against.read_text()) if given.against else None
    if earlier is not None and earlier["machine"] != machine:
        print(f"made on {earlier['machine']}, this is {machine}: results may differ", file=sys.stderr)

    begun = time.monotonic()
    found: dict[str, Any] = {"machine": machine, "digests": {}, "texts": {}}
    failed: list[str] = []
    for case, gold, problem in _computed(groups, given.jobs):
        found["digests"] |= {f"{case.name}/{name}": digest for name, digest in gold.digests.items()}
        found["texts"] |= {f"{case.name}/{name}": text for name, text in gold.texts.items()}
        failed += [case.name] if problem else []
        _write(given.out, found)
    wrong = failed + (_differences(found, earlier, groups, failed) if earlier is not None else [])
    print(
        f"{len(found['digests'])} digests, {len(wrong)} different, missing or failed; {time.monotonic() - begun:.0f} s"
    )
    return 1 if wrong else 0


def _write(path: Path, found: dict[str, Any]) -> None:
    """Writes what is known so far, whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    unfinished.replace(path)


def _computed(groups: list[str], jobs: int) -> Iterator[tuple[Case, Gold, str]]:
    """Each case as it is done, with what it found, and why it failed where it did; prints a line."""
    for group in groups:
        cases = list(GROUPS[group]())
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
            waiting = {pool.submit(_made, case, Path(folder) / str(number)): case for number, case in enumerate(cases)}
            for number, future in enumerate(as_completed(waiting), 1):
                case, (gold, problem, seconds) = waiting[future], future.result()
                verdict = f"failed: {problem}" if problem else f"{len(gold.digests)} digests"
                print(f"{number:>4}/{len(cases)} {case.name:<44}{seconds:>6.1f} s  {verdict}", flush=True)
                yield case, gold, problem


def _made(case: Case, folder: Path) -> tuple[Gold, str, float]:
    gold, begun = Gold(), time.monotonic()
    folder.mkdir()
    try:
        case.make(gold, folder)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        return gold, f"{type(error).__name__}: {error}", time.monotonic() - begun
    return gold, "", time.monotonic() - begun


def _differences(found: dict[str, Any], earlier: dict[str, Any], groups: list[str], failed: list[str]) -> list[str]:
    """Prints what differs from an earlier file; the names of what is different or missing."""
    now, before = found["digests"], earlier["digests"]
    of_groups = [name for name in before if name.partition("/")[0] in groups]
    missing = [
        name for name in of_groups if name not in now and not name.startswith(tuple(f"{one}/" for one in failed))
    ]
    different = [name for name in of_groups if name in now and now[name] != before[name]]
    for name in different:
        print(f"different: {name}")
        if name in found["texts"] and name in earlier["texts"]:
            for line in _changed_lines(earlier["texts"][name], found["texts"][name]):
                print(f"    {line}")
    for name in missing:
        print(f"missing: {name}")
    if new := len(now.keys() - before.keys()):
        print(f"new: {new} that {'is' if new == 1 else 'are'} not in the earlier file")
    return [*different, *missing]


def _changed_lines(before: str, now: str) -> Iterator[str]:
    lines = list(difflib.unified_diff(before.splitlines(), now.splitlines(), lineterm="", n=0))[2:]
    changed = [line for line in lines if not line.startswith("@@")]
    yield from changed[:MOST_LINES]
    if len(changed) > MOST_LINES:
        yield f"... {len(changed) - MOST_LINES} more"


if __name__ == "__main__":
    sys.exit(main())
