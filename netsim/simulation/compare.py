"""Runs a scenario: every transport with every seed."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from netsim.engine.limits import Pulse
from netsim.engine.protocol import Outcome, Skipped
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import format_time
from netsim.simulation.engines import REBUILD, WITHOUT_CORE, is_core_built, packet_hops, run_engine, run_forward
from netsim.simulation.prepare import Prepared, name_ranks, prepare
from netsim.simulation.results import Results, Run, RunEvent
from netsim.simulation.scenario import Scenario, read_scenario
from netsim.transport.config import TransportConfig
from netsim.workers import Handle, Shared, attached, end_with_parent, without_interrupts

_SECONDS_BETWEEN_PULSES = 0.5
_NO_BOUND = f"{WITHOUT_CORE}, which finds the lower bound: none is shown (bound_ns is 0)"
_MOST_HOPS_ON_SIMPY = 500_000_000
Work = Sequence[tuple[TransportConfig, int]]
Progress = Callable[[RunEvent], None]
_Runs = dict[tuple[str, int], Run]


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
        ValueError: The scenario, or a trace it names, is wrong (`netsim.foundation.refusal.Refusal`), or a run has
            reached a limit of the scenario (`netsim.engine.limits.LimitError`).
        RuntimeError: A run is faster than its lower bound, which is a fault of netsim.
    """
    read = read_scenario(scenario, overrides)
    source = str(scenario) if isinstance(scenario, Path) else "scenario"
    prepared = prepare(read, source)
    work = [(transport, seed) for transport in read.transports for seed in read.seeds]
    report = progress or (lambda _: None)
    if not is_core_built():
        _refuse_what_takes_hours(prepared, work, source)
    runs = _simulated(prepared, read, source, work, jobs, report)
    in_order = [runs[transport.name, seed] for transport, seed in work]
    notices = [*prepared.laid_out.notices, *_notices_of_late(read, in_order)]
    if prepared.bound is None:
        notices.append(_NO_BOUND)
    return Results(read.resolved(), prepared, in_order, notices)


def _refuse_what_takes_hours(prepared: Prepared, work: Work, source: str) -> None:
    """Refuses runs that would take hours on simpy, which simulates everything without the compiled core."""
    hops = len(work) * packet_hops(prepared.scene)
    if hops > _MOST_HOPS_ON_SIMPY:
        problem = f"{WITHOUT_CORE}, and its {hops:,} packet-hops would take simpy hours"
        raise Refusal(source, "engine", problem, f"{REBUILD}, or simulate less")


def _simulated(prepared: Prepared, scenario: Scenario, source: str, work: Work, jobs: int, progress: Progress) -> _Runs:
    """All runs, in processes of their own if there are several and cores for them."""
    processes = min(jobs, len(work))
    if processes < 2:
        return dict(_one_by_one(prepared, work, jobs, progress))
    shared = Shared((prepared.laid_out, prepared.bound))
    try:
        return dict(_parallel(scenario, source, shared.handle, work, processes, jobs // processes, progress))
    finally:
        shared.close()


def _notices_of_late(scenario: Scenario, runs: Iterable[Run]) -> Iterator[str]:
    """Remarks on failures that begin when all runs are over."""
    last_ps = max(run.completion_ps for run in runs)
    for number, failure in enumerate(scenario.topology.failures):
        if failure.at >= last_ps:
            late = f"topology.failures.{number} begins at {format_time(failure.at)} and changes nothing"
            yield f"{late}: the longest run ends after {format_time(last_ps)}"


def _one_by_one(
    prepared: Prepared, work: Work, cores: int, progress: Progress
) -> Iterator[tuple[tuple[str, int], Run]]:
    """Simulates the runs in this process, one after the other."""
    for transport, seed in work:
        event = RunEvent(transport.name, seed, len(work), None)
        progress(event)
        run = run_one(
            prepared,
            transport,
            seed,
            lambda pulse: progress(event._replace(pulse=pulse)),  # noqa: B023
            cores,
        )
        progress(event._replace(run=run))
        yield (transport.name, seed), run


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

    with ProcessPoolExecutor(jobs, context, _begin_worker, (pulses, layout)) as pool, _killed_on_error(pool):
        waiting = list(reversed(work))
        running: dict[Future[Run], tuple[str, int]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                transport, seed = waiting.pop()
                progress(RunEvent(transport.name, seed, len(work), None))
                with without_interrupts():
                    future = pool.submit(_run_in_worker, scenario, source, transport, seed, cores)
                running[future] = transport.name, seed
            while not (done := wait(running, _SECONDS_BETWEEN_PULSES, FIRST_COMPLETED).done):
                pass_on()
            pass_on()
            for future in done:
                name, seed = running.pop(future)
                progress(RunEvent(name, seed, len(work), future.result()))
                yield (name, seed), future.result()


@contextmanager
def _killed_on_error(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Kills all processes of the pool if the block raises, as after an interrupt or a failed run."""
    try:
        yield
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise


_pulses: list[Any] = []
"""Queue for the progress of this worker's run."""
_layouts: list[Handle] = []
"""Layout that this worker shares."""


def _begin_worker(queue: Any, layout: Handle) -> None:
    end_with_parent()
    _pulses.append(queue)
    _layouts.append(layout)


def _run_in_worker(scenario: Scenario, source: str, transport: TransportConfig, seed: int, cores: int) -> Run:
    def report(pulse: Pulse) -> None:
        _pulses[0].put((transport.name, seed, pulse))

    return run_one(_prepared_in_worker(scenario, source), transport, seed, report, cores)  # pyright: ignore[reportArgumentType]  # frozen, so hashable


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
    """Simulates one transport with one seed; `report` gets the run's state about once a second."""
    started = time.perf_counter()
    run = prepared.scene, transport, seed, prepared.most_paths, report, cores
    if prepared.fast_forward and prepared.engine == "auto":
        outcome, engine, skipped = run_forward(*run)
    else:
        (outcome, engine), skipped = run_engine(prepared.engine, *run), Skipped()
    bound_ps = _bound_ps(prepared, outcome)
    name_ranks(prepared.scene, outcome)
    wall_s = time.perf_counter() - started
    result = Run(transport.name, seed, engine, bound_ps, outcome, prepared.laid_out.spans, wall_s, skipped)
    _refuse_impossible(result)
    return result


def _bound_ps(prepared: Prepared, outcome: Outcome) -> int:
    """Lower bound of a run; 0, which always holds, where none is known."""
    if prepared.bound is None:
        return 0
    return prepared.bound.ps if outcome.losses.retransmitted else prepared.bound.of_run(outcome.last_sent)


def _refuse_impossible(run: Run) -> None:
    """Raises if a packet-level run ends before its lower bound; flow level may, since it divides packets over paths."""
    if run.engine != "fluid" and run.completion_ps < run.bound_ps:
        ends, bound = format_time(run.completion_ps), format_time(run.bound_ps)
        problem = f"{run.transport}, seed {run.seed}, ends after {ends}, before its lower bound of {bound}"
        raise RuntimeError(f"{problem}; one of them is wrong and nothing is written, please report the scenario")
