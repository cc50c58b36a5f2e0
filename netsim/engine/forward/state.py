"""The state of a program that is carried out unit by unit."""

from typing import NamedTuple

import numpy as np

NOW, RELEASED, EVENTS, DONE, UNITS, LAID, BUSY, IDLE, IDLE_UNITS, MET, MEETS, GATHERS, GATHERED = range(13)
"""Entries of `Progress.totals`: the time; released messages that have not begun; entries of the heap; tasks that are
done; occurrences of units, and their messages; when the last message arrives that is under way; the last moment at
which none was; occurrences before it; with `MEETING`, the occurrence that is met, and the message that meets it;
whether a unit takes in messages that are released while it is under way; the last moment at which one did."""

MOST_JOINED = 16
"""Most messages of a unit that meet under way."""


class Kinds(NamedTuple):
    """Messages that are released alone, by source, destination and size."""

    unit: np.ndarray  # unit of each kind
    binding: np.ndarray  # first entry of its links in `link`
    link: np.ndarray  # the links of kinds and of units, in the order in which `Units.link` counts them


class Progress(NamedTuple):
    """State of a program. T tasks, L links."""

    bytes: np.ndarray  # [T] payload
    delay_ps: np.ndarray  # [T] delay
    first_link: np.ndarray  # [T] link on which a task's host sends
    next_begin: np.ndarray  # [T + 1] rows of `next` of each task
    next: np.ndarray  # tasks that wait for it
    waits_for: np.ndarray  # [T] how many tasks it still waits for
    end_ps: np.ndarray  # [T] when it was done, or -1
    kind: np.ndarray  # [T] kind of the task's message, or -1
    released: np.ndarray  # [T] tasks that are released in this instant
    stack: np.ndarray  # [T + 1] scratch space
    event_ps: np.ndarray  # [T + 1] heap of times, from 1
    event: np.ndarray  # [T + 1] 2 task: its delay is over; 2 task + 1: its message has arrived
    due_ps: np.ndarray  # [T] when a task's message arrives
    free_ps: np.ndarray  # [L] when a link has served all units that have begun
    owner: np.ndarray  # [L] the last occurrence that uses a link
    seen_ps: np.ndarray  # [L] scratch space: the last instant in which a unit of one message was about to use a link
    unit: np.ndarray  # unit of each occurrence; -1 once it is part of another
    binding: np.ndarray  # first entry of its links in `Kinds.link`
    unit_ps: np.ndarray  # its release
    unit_begin: np.ndarray  # its first entry in `laid`
    laid: np.ndarray  # tasks of occurrences
    # Hash table of units that are a message and a unit that it meets: the latter's unit, the message's, and the time
    # between their releases
    joint: np.ndarray
    joint_unit: np.ndarray  # the unit of both; -1 if the entry is free
    totals: np.ndarray  # see above
