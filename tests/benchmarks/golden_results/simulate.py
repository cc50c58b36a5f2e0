"""Digests of one scenario: every transport and two seeds by each engine that takes them.

python -m tests.benchmarks.golden_results.simulate SCENARIO FOLDER [KEY=VALUE ..] [--simpy KEY=VALUE,..|none]
"""

import argparse
import csv
import gzip
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from netsim import simulate
from tests.benchmarks.golden_results.gold import LEFT_OUT, Gold, digest, without

KINDS = (
    "ecmp",
    "mprdma-4",
    "flowlet",
    "adaptive_flow",
    "spray_random",
    "spray_round_robin",
    "drb",
    "reps",
    "drill",
    "jsq",
    "ethereal",
    "ideal",
    "valiant",
    "ugal",
)
"""Transports besides those of the scenario itself."""
ENGINES = ("auto", "exact", "event", "windowed", "fluid", "simpy")
SEEDS = (0, 1)
TABLES = ("links.csv", "flows.csv", "flows.csv.gz", "collectives.csv")
NAMED = re.compile(r"transports\.(\d+)|cannot simulate (\S+):")
"""How a refusal names the transport that it is about."""


def main() -> int:
    """Simulates, and writes ``gold.json`` into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--simpy", nargs="*", default=(), help="overrides of simpy, which is slow; none: leave it out")
    given = parser.parse_args()
    gold = Gold()
    for engine in ENGINES:
        if engine == "simpy" and given.simpy == ["none"]:
            continue
        overrides = [*given.overrides, *(given.simpy if engine == "simpy" else ())]
        _by_engine(gold, engine, given.scenario, overrides, given.folder)
    (given.folder / "gold.json").write_text(json.dumps([gold.digests, gold.texts]))
    return 0


def _by_engine(gold: Gold, engine: str, scenario: Path, overrides: list[str], folder: Path) -> None:
    """Adds the runs of one engine, and the refusals of the transports that it does not take."""
    left = [*KINDS, *(one for one in yaml.safe_load(scenario.read_text())["transports"] if one not in KINDS)]
    while left:
        changes = [*overrides, f"engine={engine}", f"seeds={list(SEEDS)}", f"transports={json.dumps(left)}"]
        try:
            results = simulate(scenario, overrides=changes)
        except ValueError as error:
            refused = _refused(str(error), left)
            name = "all" if refused is None else _label(left[refused])
            gold.text(f"{engine}/{name}/refused", re.sub(r"transports\.\d+", "transports.N", f"{error}\n"))
            if refused is None:
                return
            del left[refused]
            continue
        written = folder / engine
        results.write(written)
        _add(gold, engine, written)
        return


def _refused(message: str, transports: list[Any]) -> int | None:
    """Which transport a refusal is about; None: it names none."""
    named = NAMED.search(message)
    if named is None:
        return None
    return int(named[1]) if named[1] else [_label(one) for one in transports].index(named[2])


def _label(transport: Any) -> str:
    return transport if isinstance(transport, str) else transport.get("label", transport["kind"])


def _add(gold: Gold, engine: str, written: Path) -> None:
    """Adds what ``compare`` writes: a digest of each run's figures and rows, and one of the scenario."""
    document = without(json.loads((written / "results.json").read_text()), LEFT_OUT)
    rows: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path in (written / name for name in TABLES):
        if path.exists():
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
                for row in csv.reader(lines):
                    rows[row[0], row[1]].append(",".join(row))
    for run in document.pop("runs"):
        transport, seed = run["transport"], str(run["seed"])
        gold.digests[f"{engine}/{transport}/{seed}"] = digest(json.dumps(run), "\n".join(rows[transport, seed]))
    gold.digests[f"{engine}/scenario"] = digest(json.dumps(document))


if __name__ == "__main__":
    sys.exit(main())
