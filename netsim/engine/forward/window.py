"""A stretch of a program between two idle moments, simulated plainly."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from netsim.engine.limits import NO_LIMIT
from netsim.engine.protocol import Outcome, Scene
from netsim.workload.protocol import TaskColumns, Tasks


class Window(NamedTuple):
    """A stretch that has been simulated.

    Args:
        outcome: Its flows, links and queues, with the numbers of the whole program, and the ends of `tasks`.
        tasks: Tasks that it has carried out.
        idle_ps: No message was under way then, and none of the other tasks had begun.
    """

    outcome: Outcome
    tasks: np.ndarray
    idle_ps: int


def window_of(
    scene: Scene, plain: Callable[[Scene], Outcome], stride: int, end_ps: np.ndarray, cut: int
) -> Window | None:
    """Simulates the next tasks, up to the last idle moment before any other can begin; None if there is none.

    Args:
        scene: The whole scene; no draw depends on the number of a task.
        plain: Simulates a scene plainly.
        stride: Largest number of flows of a message.
        end_ps: When tasks were done, on a network that is now idle; -1 for the others.
        cut: End of the next tasks.
    """
    columns = scene.tasks.columns()
    chosen = end_ps < 0
    chosen[cut:] = False
    tasks, outcome = _simulated(scene, plain, columns, chosen, end_ps)
    ends_ps = end_ps.copy()
    ends_ps[tasks] = outcome.task_end_ps
    begin_ps = earliest_begins(columns, ends_ps)
    others_ps = int(np.min(begin_ps[(ends_ps < 0) & (begin_ps >= 0)], initial=NO_LIMIT))
    idle_ps = _last_idle(outcome.flows, others_ps)
    if idle_ps is None:
        return None
    if (outcome.flows["start_ps"] >= idle_ps).any():
        chosen &= ends_ps <= idle_ps
        tasks, outcome = _simulated(scene, plain, columns, chosen, end_ps)
    over = outcome.task_end_ps <= idle_ps
    flows = outcome.flows.copy()
    flows["id"] += (tasks[flows["task"]] - flows["task"]) * stride
    flows["task"] = tasks[flows["task"]]
    return Window(outcome._replace(flows=flows, task_end_ps=outcome.task_end_ps[over]), tasks[over], idle_ps)


def earliest_begins(columns: TaskColumns, end_ps: np.ndarray) -> np.ndarray:
    """When each task begins that waits only for tasks that are done (`end_ps` is not -1); -1 for the others."""
    waiting = np.repeat(np.arange(len(end_ps)), np.diff(columns.after_begin))
    awaited_ps = end_ps[columns.after]
    latest_ps, unknown = np.zeros(len(end_ps), dtype=np.int64), np.zeros(len(end_ps), dtype=bool)
    np.maximum.at(latest_ps, waiting, awaited_ps)
    unknown[waiting[awaited_ps < 0]] = True
    return np.where(unknown, -1, latest_ps + columns.delay_ps)


def _simulated(
    scene: Scene, plain: Callable[[Scene], Outcome], columns: TaskColumns, chosen: np.ndarray, end_ps: np.ndarray
) -> tuple[np.ndarray, Outcome]:
    """Chosen tasks, and the outcome of a program of them alone, in which they begin when they would."""
    tasks = np.flatnonzero(chosen)
    waits_for = np.diff(columns.after_begin)
    after = columns.after[np.repeat(chosen, waits_for)]
    waiting = np.repeat(np.arange(len(tasks)), waits_for[tasks])
    kept = end_ps[after] < 0
    begin = np.concatenate([[0], np.cumsum(np.bincount(waiting[kept], minlength=len(tasks)))])
    begin_ps = earliest_begins(columns, end_ps)[tasks]
    part = TaskColumns(*(column[tasks] if len(column) == len(chosen) else column for column in columns))
    number = np.cumsum(chosen) - 1
    part = part._replace(
        delay_ps=np.where(begin_ps < 0, part.delay_ps, begin_ps), after_begin=begin, after=number[after[kept]]
    )
    limits = scene.limits.model_copy(update={"simulated": NO_LIMIT})
    return tasks, plain(scene._replace(tasks=Tasks.of_columns(part), limits=limits))


def _last_idle(flows: np.ndarray, latest_ps: int) -> int | None:
    """The last moment up to `latest_ps` behind a flow at which none is under way: it is over, or another begins."""
    order = np.argsort(flows["start_ps"], kind="stable")
    starts_ps, ends_ps = flows["start_ps"][order], np.maximum.accumulate(flows["end_ps"][order])
    begun = int(np.searchsorted(starts_ps, latest_ps))
    if not begun:
        return None
    if ends_ps[begun - 1] <= latest_ps:
        return int(ends_ps[begun - 1]) if latest_ps == NO_LIMIT else latest_ps
    idle = np.flatnonzero(starts_ps[1:begun] >= ends_ps[: begun - 1])
    return int(starts_ps[idle[-1] + 1]) if len(idle) else None
