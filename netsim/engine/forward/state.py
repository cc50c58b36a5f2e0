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
    """Messages that are released alone, by source, destination and size.

    Args:
        unit: Unit of each kind.
        binding: First entry of its links in `link`.
        link: The links of kinds and of units, in the order in which `Units.link` counts them.
    """

    unit: np.ndarray
    binding: np.ndarray
    link: np.ndarray


class Progress(NamedTuple):
    """State of a program. T tasks, L links.

    Args:
        bytes: [T] payload.
        delay_ps: [T] delay.
        first_link: [T] link on which a task's host sends.
        next_begin: [T + 1] rows of `next` of each task.
        next: Tasks that wait for it.
        waits_for: [T] how many tasks it still waits for.
        end_ps: [T] when it was done, or -1.
        kind: [T] kind of the task's message, or -1.
        released: [T] tasks that are released in this instant.
        stack: [T + 1] scratch space.
        event_ps: [T + 1] heap of times, from 1.
        event: [T + 1] 2 task: its delay is over; 2 task + 1: its message has arrived.
        due_ps: [T] when a task's message arrives.
        free_ps: [L] when a link has served all units that have begun.
        owner: [L] the last occurrence that uses a link.
        seen_ps: [L] scratch space: the last instant in which a unit of one message was about to use a link.
        unit: Unit of each occurrence; -1 once it is part of another.
        binding: First entry of its links in `Kinds.link`.
        unit_ps: Its release.
        unit_begin: Its first entry in `laid`.
        laid: Tasks of occurrences.
        joint: Hash table of units that are a message and a unit that it meets: the latter's unit, the message's, and
            the time between their releases.
        joint_unit: The unit of both; -1 if the entry is free.
        totals: See above.
    """

    bytes: np.ndarray
    delay_ps: np.ndarray
    first_link: np.ndarray
    next_begin: np.ndarray
    next: np.ndarray
    waits_for: np.ndarray
    end_ps: np.ndarray
    kind: np.ndarray
    released: np.ndarray
    stack: np.ndarray
    event_ps: np.ndarray
    event: np.ndarray
    due_ps: np.ndarray
    free_ps: np.ndarray
    owner: np.ndarray
    seen_ps: np.ndarray
    unit: np.ndarray
    binding: np.ndarray
    unit_ps: np.ndarray
    unit_begin: np.ndarray
    laid: np.ndarray
    joint: np.ndarray
    joint_unit: np.ndarray
    totals: np.ndarray
