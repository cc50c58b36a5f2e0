"""``python -m tests.sanitizers``: drawn scenes on a core that is built with the sanitizers of the compiler."""

import argparse
import subprocess
import sys

from tests.built_core import netsim_with

_ABOUT = """\
Builds the core with the sanitizers for addresses and undefined behaviour, and again with that for threads, and
simulates drawn scenes on every engine, each compared with simpy. The first thing that a sanitizer finds ends the
command with its report. Needs g++ with its sanitizers, and what `make core` needs.
"""
_KINDS = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
}
"""Python itself leaks on purpose, and its memory is that of one process."""


def run(kind: str, cases: int, seed: int) -> int:
    """Simulates drawn scenes on a core with a kind of sanitizers; returns the exit status of the comparison."""
    libraries = [_output("g++", f"-print-file-name={name}") for name in _KINDS[kind]]
    scenes = ("-P", "-m", "tests.fuzz.scenes", "--cases", str(cases), "--seed", str(seed))
    with netsim_with(f"SANITIZE={kind}") as environment:
        watched = environment | _OPTIONS | {"LD_PRELOAD": " ".join(libraries)}
        return subprocess.run([sys.executable, *scenes], env=watched, check=False).returncode


def _output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Runs both kinds; returns 0 if neither finds anything."""
    parser = argparse.ArgumentParser(description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500, help="scenes of each kind (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of all scenes (default: 0)")
    parser.add_argument("--only", choices=_KINDS, help="one kind of sanitizers")
    given = parser.parse_args()
    for kind in [given.only] if given.only else _KINDS:
        print(f"sanitizers: {kind}", flush=True)
        if status := run(kind, given.cases, given.seed):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
