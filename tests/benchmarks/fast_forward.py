"""A deep model's step with fast-forward on and off: CPU time, and equality to the last bit.

``python -m tests.benchmarks.fast_forward`` writes the trace of one step by formula, simulates it both ways with one
transport, and prints what was skipped and the ratio of CPU times, set-up of the run included. ``--random N`` compares N
random programs of repeated collectives instead, every second with ``draws: collective``. Exit status 1: a run differs,
or the ratio misses the bar.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from netsim.engine.forward.refusal import refusal
from netsim.engine.protocol import Outcome, Skipped
from netsim.simulation.engines import run_engine, run_forward
from netsim.simulation.prepare import Prepared, prepare
from netsim.simulation.results import Run
from netsim.simulation.scenario import read_scenario
from netsim.transport.config import TransportConfig
from tests.netsim.repeated_scenes import DRAWN, ROUTINGS, repeated_scene
from trainer.__main__ import main as trainer

CONFIG: TypeAdapter[Any] = TypeAdapter(TransportConfig)
STEP = "configs/runs/dit_moe_64.yaml"
STAGGERED = "{kind: ethereal, order: staggered}"


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24, help="layers of the model (default: 24)")
    parser.add_argument("--ranks", type=int, default=64, choices=(16, 64), help="ranks, one a host (default: 64)")
    parser.add_argument("--payload", default="4KB", help="payload of a packet (default: 4KB)")
    parser.add_argument("--transport", default=STAGGERED, help=f"one transport, as YAML (default: {STAGGERED})")
    parser.add_argument(
        "--draws", default="task", choices=("task", "collective"), help="key of scenarios (default: task)"
    )
    parser.add_argument("--gap-ns", default="0", metavar="N", help="computation before each collective (default: 0)")
    parser.add_argument("--bar", type=float, default=8.0, help="least ratio of CPU times (default: 8)")
    parser.add_argument("--random", type=int, metavar="N", help="compare N random programs instead")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first random program (default: 0)")
    given = parser.parse_args()
    if given.random is not None:
        return compare_random(range(given.first_seed, given.first_seed + given.random))
    with TemporaryDirectory() as folder:
        return compare_step(given, Path(folder))


def compare_step(given: argparse.Namespace, folder: Path) -> int:
    """Simulates one step both ways, after a step of one layer that loads the compiled code."""
    both_ways(*step_of(given, 1, folder))
    step, transport = step_of(given, given.layers, folder)
    (outcome, _, skipped), on_s, plain, off_s = both_ways(step, transport)
    same = outcome.equals(plain) and sha256(step, outcome) == sha256(step, plain)
    moved = step.scene.tasks.columns().bytes
    print(f"{given.layers} layers, {given.ranks} ranks, {given.transport}, packets of {given.payload}", end="")
    print(f", draws by {given.draws}, gaps of {int(given.gap_ns):,} ns")
    collectives = len(step.laid_out.spans)
    print(f"collectives {collectives}, messages {int((moved > 0).sum()):,}, packet-hops {plain.packet_hops:,}")
    print(f"skipped {skipped.messages:,} messages, {100 * skipped.bytes / moved.sum():.2f} % of the bytes")
    print(f"equal to the last bit, hashes too: {'yes' if same else 'NO'}")
    print(f"CPU off {off_s:.2f} s, on {on_s:.2f} s, ratio {off_s / on_s:.1f} (bar {given.bar:g})")
    return int(not same or off_s / on_s < given.bar)


def step_of(given: argparse.Namespace, layers: int, folder: Path) -> tuple[Prepared, TransportConfig]:
    """One step of a model, prepared, and the transport."""
    trace, ranks = folder / f"{layers}.jsonl", str(given.ranks)
    settings = [f"model.num_layers={layers}", f"parallel.expert={ranks}", f"moe.num_experts={ranks}"]
    where = ["--world-size", ranks, "--ranks-per-node", "1", "--gap-ns", given.gap_ns, "--out", str(trace)]
    if trainer(["trace", STEP, *settings, *where]):
        sys.exit("the trace could not be written")
    leaves = {16: 4, 64: 8}[given.ranks]
    shape = {"kind": "leaf_spine", "leaves": leaves, "spines": leaves, "hosts_per_leaf": leaves}
    content = {
        "format": "flowfabric.scenario/1",
        "topology": shape,
        "packet": {"payload": given.payload},
        "workload": {"kind": "trace", "path": str(trace)},
        "transports": ["ecmp"],
        "seeds": [0],
    }
    read = read_scenario(content, [f"transports=[{given.transport}]", f"draws={given.draws}"])
    return prepare(read, "scenario"), read.transports[0]


def both_ways(step: Prepared, transport: TransportConfig) -> tuple[tuple[Outcome, str, Skipped], float, Outcome, float]:
    """Outcome and CPU seconds of a run on and off."""
    run = step.scene, transport, 0, step.most_paths
    on, on_s = timed(lambda: run_forward(*run))
    (off, _), off_s = timed(lambda: run_engine("auto", *run))
    return on, on_s, off, off_s


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and its CPU seconds."""
    begin_s = time.process_time()
    return call(), time.process_time() - begin_s


def sha256(step: Prepared, outcome: Outcome) -> str:
    """Hash of a run in results.json."""
    return Run("any", 0, "any", 0, outcome, step.laid_out.spans, 0.0).to_dict(step.scene.topology.links)["sha256"]


def compare_random(seeds: range) -> int:
    """Compares random programs; prints how many could skip, and the seeds of those that differ."""
    followed, skipping, messages, wrong = 0, 0, 0, []
    for seed in seeds:
        draw = Random(seed)
        alike = seed % 2 == 1
        what, transport = (
            repeated_scene(draw, alike=alike),
            CONFIG.validate_python(draw.choice(DRAWN if alike else ROUTINGS)),
        )
        if refusal(what, transport) is not None:
            continue
        most_paths = what.most_paths
        outcome, _, skipped = run_forward(what, transport, seed, most_paths)
        engine = "simpy" if seed % 4 == 0 else "event"
        followed, skipping = followed + 1, skipping + (skipped.messages > 0)
        messages += skipped.messages
        if not outcome.equals(run_engine(engine, what, transport, seed, most_paths)[0]):
            wrong.append(seed)
    print(f"{len(seeds)} programs: {followed} followed, {skipping} skipped {messages:,} messages, {len(wrong)} differ")
    if wrong:
        print(f"seeds that differ: {wrong}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
