"""Runs a scenario: every transport with every seed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from netsim.engine.limits import Pulse
from netsim.engine.protocol import Skipped
from netsim.engines import run_engine
from netsim.forwarding import run_forward
from netsim.grid.shared import Handle, Shared, attached
from netsim.prepare import Prepared, prepare
from netsim.results import Results, Run, RunEvent
from netsim.scenario import Scenario, read_scenario
from netsim.seats import name_ranks
from netsim.transport.config import TransportConfig

_SECONDS_BETWEEN_PULSES = 0.5
Work = Sequence[tuple[TransportConfig, int]]
Progress = Callable[[RunEvent], None]


def simulate(
    scenario: Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
) -> Results:
    """Simulates every transport of a scenario with every seed.

    Args:
        scenario: Path of a YAML file, or its content as a mapping.
        overrides: ``dotted.key=value`` changes to it.
        jobs: Cores to use, at least 1: a process for each run, and threads of a large run where there are fewer runs.
            The results do not depend on it.
        progress: Called when a run starts, when it ends, and about once a second while it goes on.

    Returns:
        All runs, transports in the scenario's order, each with its seeds in order.

    Raises:
        ValueError: The scenario, or a trace it names, is wrong (`netsim.errors.InputError`), or a run has reached a
            limit of the scenario (`netsim.engine.limits.LimitError`).
    """
    read = read_scenario(scenario, overrides)
    source = str(scenario) if isinstance(scenario, Path) else "scenario"
    prepared = prepare(read, source)
    work = [(transport, seed) for transport in read.transports for seed in read.seeds]
    report = progress or (lambda _: None)
    processes = min(jobs, len(work))
    if processes > 1:
        shared = Shared((prepared.laid_out, prepared.bound))
        try:
            runs = dict(_parallel(read, source, shared.handle, work, processes, jobs // processes, report))
        finally:
            shared.close()
    else:
        runs = dict(_one_by_one(prepared, work, jobs, report))
    in_order = [runs[transport.name, seed] for transport, seed in work]
    known = prepared.recorded_ps, prepared.notices, prepared.traces, prepared.algorithms
    return Results(read.resolved(), prepared.scene, prepared.spans, in_order, *known)


def _one_by_one(
    prepared: Prepared, work: Work, cores: int, progress: Progress
) -> Iterator[tuple[tuple[str, int], Run]]:
    for transport, seed in work:
        progress(RunEvent(transport.name, seed, len(work), None))
        name, runs = transport.name, len(work)
        run = run_one(
            prepared,
            transport,
            seed,
            lambda pulse: progress(RunEvent(name, seed, runs, None, pulse)),  # noqa: B023
            cores,
        )
        progress(RunEvent(name, seed, runs, run))
        yield (name, seed), run


def _parallel(
    scenario: Scenario, source: str, layout: Handle, work: Work, jobs: int, cores: int, progress: Progress
) -> Iterator[tuple[tuple[str, int], Run]]:
    """Simulates in parallel, in processes that share the layout of the scenario's workloads."""
    context = get_context("spawn")
    pulses = context.SimpleQueue()

    def pass_on() -> None:
        while not pulses.empty():
            name, seed, pulse = pulses.get()
            progress(RunEvent(name, seed, len(work), None, pulse))

    with ProcessPoolExecutor(jobs, context, _begin_worker, (pulses, layout)) as pool:
        waiting = list(reversed(work))
        running: dict[Future[Run], tuple[str, int]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                transport, seed = waiting.pop()
                progress(RunEvent(transport.name, seed, len(work), None))
                running[pool.submit(_run_in_worker, scenario, source, transport, seed, cores)] = transport.name, seed
            while not (done := wait(running, _SECONDS_BETWEEN_PULSES, FIRST_COMPLETED).done):
                pass_on()
            pass_on()
            for future in done:
                name, seed = running.pop(future)
                progress(RunEvent(name, seed, len(work), future.result()))
                yield (name, seed), future.result()


_pulses: list[Any] = []
"""In a worker: the queue for how far its run is."""
_layouts: list[Handle] = []
"""In a worker: the layout that it shares."""


def _begin_worker(queue: Any, layout: Handle) -> None:
    _pulses.append(queue)
    _layouts.append(layout)


def _run_in_worker(scenario: Scenario, source: str, transport: TransportConfig, seed: int, cores: int) -> Run:
    def report(pulse: Pulse) -> None:
        _pulses[0].put((transport.name, seed, pulse))

    return run_one(_prepared_in_worker(scenario, source), transport, seed, report, cores)


@lru_cache(maxsize=1)
def _prepared_in_worker(scenario: Scenario, source: str) -> Prepared:
    laid_out, bound = attached(_layouts[0])
    prepared = prepare(scenario, source, laid_out, checked=True)
    prepared.bound = bound
    return prepared


def run_one(
    prepared: Prepared,
    transport: TransportConfig,
    seed: int,
    report: Callable[[Pulse], None] | None = None,
    cores: int = 1,
) -> Run:
    """Simulates one transport with one seed.

    Args:
        prepared: The prepared scenario.
        transport: One of the scenario's transports.
        seed: Seed of all draws.
        report: Called about once a second with how far the run is.
        cores: How many the run may take.
    """
    started = time.perf_counter()
    run = prepared.scene, transport, seed, prepared.most_paths, report, cores
    if prepared.fast_forward and prepared.engine == "auto":
        outcome, engine, skipped = run_forward(*run)
    else:
        (outcome, engine), skipped = run_engine(prepared.engine, *run), Skipped()
    needless = outcome.losses.retransmitted > 0
    bound_ps = prepared.bound.ps if needless else prepared.bound.of_run(outcome.last_sent)
    name_ranks(prepared.scene, outcome)
    wall_s = time.perf_counter() - started
    return Run(transport.name, seed, engine, bound_ps, outcome, prepared.spans, wall_s, skipped)
