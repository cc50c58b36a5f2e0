"""Draws by the place of a message within its collective: equal collectives draw alike, in every engine."""

import pickle
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from netsim import simulate
from netsim.engine.exact.engine import ExactEngine
from netsim.engine.exact.refusal import refusal as by_exact
from netsim.engine.reference.engine import ReferenceEngine
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig
from netsim.workload.program import Program, keys_of
from netsim.workload.tasks import Task, Tasks
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of
from tests.netsim.scenes import all_to_all, fabric, scene

CONFIG: TypeAdapter[Any] = TypeAdapter(TransportConfig)
DRAWING: list[Any] = [
    "ecmp",
    "mprdma-4",
    "spray_random",
    {"kind": "spray_random", "entropies": 7},
    {"kind": "spray_random", "entropies": 7, "order": "rounds"},
    "flowlet",
    "ethereal",
    {"kind": "ethereal", "order": "published", "start_delay": "50ns"},
    {"kind": "drill", "m": 0},
    {"kind": "reps", "entropies": 5},
]
SCENARIO: dict[str, Any] = scenario_of(
    2,
    2,
    2,
    jobs=[
        {"workload": collective_of("all_to_all", "64KB"), "ranks": [0, 1, 2, 3], **when}
        for when in ({}, {"start": "1ms"})
    ],
    transports=["spray_random", "ecmp"],
)


def one_after_the_other(alike: bool) -> tuple[Tasks, int]:
    """An all-to-all twice, the second long after the first; and how many messages each has."""
    program = Program()
    pairs = [(task.src, task.dst, task.bytes) for task in all_to_all(8, 40_000)]
    for delay_ps in (0, 10**9):
        first = len(program.tasks)
        for src, dst, size in pairs:
            program.move(src, dst, size, (), delay_ps)
        program.collectives.append((first, len(program.tasks)))
    keys = keys_of(program.tasks.columns(), program.collectives) if alike else None
    return program.tasks.with_keys(keys), len(pairs)


@each("routing", DRAWING)
def test_an_equal_collective_is_the_first_one_again(routing):
    """Under transports that keep no state from message to message; ecmp draws the order of its messages."""
    transport = CONFIG.validate_python(routing)
    found = {}
    for alike in (True, False):
        tasks, messages = one_after_the_other(alike)
        what = scene(fabric(4, 3, 2), [])._replace(tasks=tasks)
        outcome = ReferenceEngine(what, build_transport(transport, 3, what.most_paths), 3).run()
        early = outcome.flows.task < messages
        found[alike] = np.array_equal(outcome.flows.end_ps[early], outcome.flows.end_ps[~early] - 10**9)
        if by_exact(what, transport) is None:
            assert ExactEngine(what, transport, 3).run().equals(outcome)
    assert found == {True: True, False: False}


def test_keys_name_the_first_of_equal_collectives():
    tasks = Tasks()
    sizes = [[5, 6], [5, 6], [7], [5, 7], [5, 6], []]
    spans = []
    for collective in sizes:
        tasks.append(0, 0, 0, 0, ())
        begin = len(tasks)
        for size in collective:
            tasks.append(0, 1, size, 0, ())
        spans.append((begin, len(tasks)))
    keys = keys_of(tasks.columns(), spans)
    assert keys is not None
    moved = [keys[begin:end].tolist() for begin, end in spans]
    assert moved == [[1, 2], [1, 2], [7], [9, 10], [1, 2], []]
    outside = [index for index, task in enumerate(tasks) if not task.bytes]
    assert keys[outside].tolist() == outside
    assert keys_of(tasks.columns(), spans[:1]) is None, "nothing repeats"


def test_keys_travel_with_the_tasks():
    keys = np.array([0, 0], dtype=np.int64)
    tasks = Tasks([Task(0, 1, 5, 0, ()), Task(0, 1, 5, 0, ())]).with_keys(keys)
    again: Tasks = pickle.loads(pickle.dumps(tasks, protocol=5))
    for copy in (again, tasks.with_columns(tasks.columns())):
        assert copy.keys is not None
        assert copy.keys.tolist() == [0, 0]


def test_the_key_stands_in_the_results_and_changes_runs_in_which_collectives_repeat():
    results = {draws: simulate(SCENARIO | {"draws": draws}).to_dict() for draws in ("task", "collective")}
    plain = simulate(SCENARIO).to_dict()
    hashes = {name: [run["sha256"] for run in found["runs"]] for name, found in results.items()}
    assert [found["scenario"]["draws"] for found in (plain, *results.values())] == ["task", "task", "collective"]
    assert hashes["task"] == [run["sha256"] for run in plain["runs"]] != hashes["collective"]


@each("transport", ["spray_random", "ethereal"])
def test_a_collective_that_occurs_once_draws_the_same_either_route(transport):
    once = {"jobs": SCENARIO["jobs"][:1], "transports": [transport]}
    hashes = {
        simulate(SCENARIO | once | {"draws": draws}).to_dict()["runs"][0]["sha256"] for draws in ("task", "collective")
    }
    assert len(hashes) == 1
