"""From the occurrences of units to the outcome of a run."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.forward.progress import Progress
from netsim.engine.forward.unit import Units
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, QueueSeries, Scene, Skipped
from netsim.engine.queue_series import no_queues, series_of


class Occurrences(NamedTuple):
    """Units that have begun, in the order of their releases."""

    unit: np.ndarray  # of each occurrence; -1 if it is part of a later one
    binding: np.ndarray  # first entry of its links in `Kinds.link`
    release_ps: np.ndarray  # when its first message was released
    begin: np.ndarray  # its first entry in `tasks`, and the end of the last
    tasks: np.ndarray  # their messages

    @classmethod
    def of(cls, progress: Progress, units: int) -> "Occurrences":
        """The first `units` of them."""
        begin = progress.unit_begin[: units + 1]
        return cls(
            progress.unit[:units], progress.binding[:units], progress.unit_ps[:units], begin, progress.laid[: begin[-1]]
        )


class Followed(NamedTuple):
    """How far a program was followed unit by unit."""

    outcome: Outcome | None  # of the part that was followed; None if there is none
    # The scene that is left, in which tasks that are done merely wait until their ends; None if nothing is
    rest: Scene | None
    skipped: Skipped  # what was skipped

    def whole(self, simulate: Callable[[Scene], Outcome]) -> Outcome:
        """The outcome of the whole program."""
        if self.rest is None:
            assert self.outcome is not None
            return self.outcome
        later = simulate(self.rest)
        return later if self.outcome is None else _joined(self.outcome, later)


def outcome_of(
    scene: Scene, units: Units, bound_links: np.ndarray, whole: Occurrences, task_end_ps: np.ndarray, stride: int
) -> Outcome:
    """The outcome of all occurrences."""
    columns = scene.tasks.columns()
    times = np.bincount(whole.unit[whole.unit >= 0], minlength=units.count)
    first_flow = np.zeros(len(task_end_ps) + 1, dtype=np.int64)
    _core.count_flows(units, whole, first_flow)
    first_flow = np.cumsum(first_flow)
    flows = np.zeros(int(first_flow[-1]), dtype=FLOW)
    links = np.zeros(len(scene.topology.links), dtype=LINK)
    last_sent, longest = np.full(len(links), -1, dtype=np.int64), no_queues()
    figures, ranks = (flows, links, last_sent), (columns.src, columns.dst)
    _core.fill_figures(units, bound_links, whole, first_flow, *ranks, stride, figures, longest)
    packets = _sums(units.packets, units.flow_begin)
    hops = _sums(units.link_packets, units.link_begin)
    sends = np.flatnonzero(last_sent >= 0)
    return Outcome(
        completion_ps=int(task_end_ps.max(initial=0)),
        task_end_ps=task_end_ps,
        packets=int(times @ packets),
        packet_hops=int(times @ hops),
        control_hops=0,
        losses=Losses(),
        flows=flows.view(np.recarray),
        links=links.view(np.recarray),
        queues=series_of(longest),
        last_sent=dict(zip(sends.tolist(), last_sent[sends].tolist(), strict=True)),
    )


def _joined(before: Outcome, after: Outcome) -> Outcome:
    """The outcome of a part, with ends -1 of all other tasks, and of the rest, which begins on an idle network."""
    flows = np.concatenate([before.flows, after.flows])
    links = np.zeros(len(before.links), dtype=LINK)
    for name in ("bytes", "busy_ps", "paused_ps"):
        links[name] = before.links[name] + after.links[name]
    links["max_queue_ps"] = np.maximum(before.links["max_queue_ps"], after.links["max_queue_ps"])
    return after._replace(
        packets=before.packets + after.packets,
        packet_hops=before.packet_hops + after.packet_hops,
        flows=flows[np.argsort(flows["id"], kind="stable")].view(np.recarray),
        links=links.view(np.recarray),
        queues=_both(before.queues, after.queues),
        last_sent=before.last_sent | after.last_sent,
    )


def _both(first: QueueSeries, second: QueueSeries) -> QueueSeries:
    """The longest of both in each interval of the wider one."""
    width_ps = max(first.width_ps, second.width_ps)
    parts = []
    for series in (first, second):
        narrow = np.arange(len(series.max_queue_ps)) // (width_ps // series.width_ps)
        wide = np.zeros(int(narrow.max(initial=-1)) + 1, dtype=np.int64)
        np.maximum.at(wide, narrow, series.max_queue_ps)
        parts.append(wide)
    longest = np.zeros(max(map(len, parts)), dtype=np.int64)
    for wide in parts:
        longest[: len(wide)] = np.maximum(longest[: len(wide)], wide)
    return QueueSeries(width_ps, longest)


def _sums(values: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Sum of the values of each group."""
    total = np.concatenate([[0], np.cumsum(values)])
    return total[begin[1:]] - total[begin[:-1]]
