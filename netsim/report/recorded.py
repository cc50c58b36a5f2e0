"""Recorded time of each step beside the simulated time, for workloads that are recorded traces."""

from collections.abc import Mapping
from typing import NamedTuple

from netsim.results import Results, Run


class Step(NamedTuple):
    """An optimiser step, from its first collective to the end of its last; predictions by transport, means of seeds."""

    number: int
    recorded_us: float
    predicted_us: Mapping[str, float]


def steps(results: Results) -> list[Step]:
    """Every step whose recorded time is known."""
    runs: dict[str, list[Run]] = {}
    for run in results.runs:
        runs.setdefault(run.transport, []).append(run)
    recorded_steps = []
    for number, recorded_ps in results.recorded_ps.items():
        indices = [index for index, span in enumerate(results.spans) if span.step == number]
        if indices and recorded_ps:
            predicted = {
                name: sum(_duration_ps(run, indices) for run in seeds) / len(seeds) / 1e6
                for name, seeds in runs.items()
            }
            recorded_steps.append(Step(number, recorded_ps / 1e6, predicted))
    return recorded_steps


def ratios(results: Results) -> dict[str, float]:
    """Predicted over recorded time, all steps together, by transport; empty where nothing was recorded."""
    known = steps(results)
    recorded = sum(step.recorded_us for step in known)
    return {
        run.transport: sum(step.predicted_us[run.transport] for step in known) / recorded
        for run in results.runs
        if known
    }


def sentence(results: Results) -> str:
    """The comparison in one sentence, empty if nothing was recorded."""
    known = steps(results)
    if not known:
        return ""
    mean_ms = sum(step.recorded_us for step in known) / len(known) / 1000
    each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios(results).items())
    plural = "s" if len(known) > 1 else ""
    return f"predicted / recorded step time, {len(known)} step{plural} of {mean_ms:,.4g} ms: {each}"


def _duration_ps(run: Run, indices: list[int]) -> int:
    times = [run.collectives[index] for index in indices]
    return max(time.end_ps for time in times) - min(time.start_ps for time in times)
