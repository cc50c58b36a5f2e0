"""Every run ends: flows that can never succeed are given up, by either engine in the same words."""

from itertools import count, product
from types import SimpleNamespace

import pytest

from netsim.engine.event.engine import EventEngine
from netsim.engine.exact.engine import ExactEngine
from netsim.engine.fluid.engine import FluidEngine
from netsim.engine.limits import LimitsConfig, Pulse
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.reference.watching import Rounds
from netsim.foundation.units import format_time
from netsim.sweep.driver import sweep
from netsim.transport.config import EcmpConfig
from netsim.transport.protocol import Flow, Transport
from tests.each import each
from tests.netsim.agreement import agreed, end
from tests.netsim.closed_loop import controlled, failing, transport_of
from tests.netsim.scenes import all_to_all, fabric, flow, scene
from tests.netsim.sweeps import SCENARIO, Here, rows, written

pytestmark = pytest.mark.usefixtures("blank_pictures")

BOTH_SPINES = [{"switch": f"spine{number}", "at": "2us", "noticed_after": "100us"} for number in range(2)]


@each("size, transport, kind", product([20_000, 100_000], ["ecmp", "ethereal", "jsq"], ["selective", "go_back_n"]))
def test_flows_that_are_cut_off_for_good_are_given_up(kind, transport, size):
    """Messages that their hosts send for longer than the timeout lasts, and paths that change at every timeout."""
    what = scene(fabric(2, 2, 2), all_to_all(4, size))
    recovery = {"kind": kind, "timeout": "10us", "longest_timeout": "10us"}
    found = ends(failing(what, *BOTH_SPINES, recovery=recovery), transport)
    assert f"8 messages never arrive, among them one of {size} B from rank 0 to rank 2" in str(found)


def ends(what: Scene, transport: object) -> Outcome | str:
    """The end of a run, which is the same on all engines that take it."""
    return agreed(what, lambda: transport_of(transport, what))


def limited(what: Scene, **limits: object) -> Scene:
    """The scene with a section `limits`."""
    return what._replace(limits=LimitsConfig.model_validate(limits))


@each("at", [0, 1, -1])
def test_simulated_time_is_limited_to_the_picosecond(at):
    """A run may end at its limit; a picosecond less is too little, and all engines say so."""
    what = scene(fabric(2, 2, 2), all_to_all(4, 20_000))
    whole = ReferenceEngine(what, transport_of("ecmp", what), 0).run()
    limit = limited(what, simulated=f"{whole.completion_ps + at}ps")
    found = ends(limit, "ecmp")
    exact = end(lambda: ExactEngine(limit, EcmpConfig(kind="ecmp"), 0).run())
    if at >= 0:
        assert isinstance(found, Outcome)
        assert found.equals(whole)
        assert isinstance(exact, Outcome)
        return
    late = int((whole.task_end_ps == whole.completion_ps).sum())
    first = what.tasks[int((whole.task_end_ps == whole.completion_ps).argmax())]
    for said in (found, exact):
        assert f"LimitError: scenario: limits.simulated: {format_time(whole.completion_ps - 1)} reached" in str(said)
        assert f"{12 - late} of 12 tasks done" in str(said)
        assert f"first, rank {first.dst} waits for 20KB from rank {first.src}: " in str(said)
        assert str(said).endswith("; raise limits.simulated, or let the workload send less")
    assert "not all of its 5 packets have arrived" in str(found)


def test_a_task_whose_delay_outlasts_the_limit_is_named():
    what = limited(scene(fabric(2, 1, 1), [flow(0, 1, 4000), flow(1, 0, 4000, 10**9)]), simulated="100us")
    said = str(ends(what, "ecmp"))
    assert "1 of 2 tasks done" in said
    assert "rank 0 waits for 4KB from rank 1: its delay of 1ms is not over" in said
    fluid = end(lambda: FluidEngine(what).run())
    assert "rank 0 waits for 4KB from rank 1: its delay of 1ms is not over" in str(fluid)


@each("engine, limit", [(ReferenceEngine, "3s"), (EventEngine, "1s"), (FluidEngine, "1s")])
def test_wall_time_is_limited(engine, limit, monkeypatch):
    """A clock that jumps by a second whenever it is read; engines read it after some thousand events."""
    monkeypatch.setattr("netsim.engine.limits.time", SimpleNamespace(monotonic=count().__next__))
    for module in ("event", "fluid"):
        name = "_STOPS_BETWEEN_LOOKS" if module == "event" else "_EVENTS_BETWEEN_LOOKS"
        monkeypatch.setattr(f"netsim.engine.{module}.engine.{name}", 1)
    what = scene(fabric(2, 2, 2), all_to_all(4, 2_000_000))
    pulses: list[Pulse] = []

    seed = () if engine is FluidEngine else (0,)

    def run(what: Scene) -> Outcome | str:
        return end(lambda: engine(what, transport_of("ethereal", what), *seed, report=pulses.append).run())

    assert f"limits.wall: {limit} reached" in str(run(limited(what, wall=limit)))
    pulses.clear()
    assert isinstance(run(what), Outcome)
    assert {pulse.tasks for pulse in pulses} == {12}


class AlwaysFirst(Transport):
    """A transport of a user's that never leaves its first path."""

    def choose_path(self, flow, serial, usable, now_ps):  # noqa: ARG002
        return usable[0]


class AlwaysBack(AlwaysFirst):
    """One whose flows have a path, and move to the one that they are on."""

    def admit(self, released, now_ps):  # noqa: ARG002
        return [Flow(m.task * self.stride, m, m.bytes, 0) for m in released]

    def on_timeout(self, flow, path, usable, now_ps):  # noqa: ARG002
        return 0


class SwitchesFirst(Transport):
    """One whose switches send everything the same route."""

    at_switch = True

    def choose_link(self, flow, serial, switch, links, backlog_ps, now_ps):  # noqa: ARG002
        return links[0]


@each("transport, kind", product([AlwaysFirst, AlwaysBack, SwitchesFirst], ["selective", "go_back_n"]))
def test_a_transport_of_the_users_that_never_leaves_a_dead_path_ends_too(kind, transport):
    """The other path works and the routing sees nothing, so that no flow is cut off for good."""
    what = failing(
        scene(fabric(2, 2, 1), [flow(0, 1, 400_000)]),
        {"switch": "spine0", "at": "5us", "noticed_after": "never"},
        recovery={"kind": kind, "timeout": "20us"},
    )
    said = str(end(lambda: ReferenceEngine(limited(what, fruitless=20), transport(0, 2), 0).run()))
    assert "limits.fruitless: 20 reached" in said
    assert "after 20 timeouts in a row without progress" in said
    assert "0 of 1 tasks done; first, rank 1 waits for 400KB from rank 0: " in said
    assert "raise recovery.timeout if it is below the round trip" in said


@each("transport", ["ecmp", "ethereal", "spray_random", "jsq"])
def test_timeouts_in_a_row_are_limited(transport):
    """The receiver's link is down for longer than the limit has patience."""
    down = {"link": "host1-leaf1", "at": "5us", "until": "1s", "noticed_after": "never"}
    recovery = {"kind": "selective", "timeout": "20us", "longest_timeout": "20us"}
    what = failing(scene(fabric(2, 2, 1), [flow(0, 1, 400_000)]), down, recovery=recovery)
    for fruitless in (3, 100):
        said = str(ends(limited(what, fruitless=fruitless), transport))
        assert f"limits.fruitless: {fruitless} reached" in said
        assert f"after {fruitless} timeouts in a row" in said


def incast(senders: int, header: str, delay: str, kind: str, **limits: object) -> Scene:
    """Hosts that send to one and repeat at once what is trimmed; headers and answers take their time on links."""
    tasks = [flow(src, 0, 40_000) for src in range(1, 1 + senders)]
    what = scene(fabric((senders + 1) // 2, 1, 2, link_delay=delay), tasks, payload="1000B")
    sections = {
        "recovery": {"kind": kind, "timeout": "5us"},
        "flow_control": {"kind": "trim", "header": header},
        "acknowledgement": {"lane": "priority", "size": "64B"},
    }
    return limited(controlled(what, queue="4KB", **sections), **limits)


@each("delay, kind, fruitless", product(["0ns", "500ns"], ["none", "selective"], [1, 10]))
def test_packets_that_are_all_trimmed_end_the_run(fruitless, kind, delay):
    """Three headers nearly as large as packets fill the receiver's link; no timer runs out, since all are answered."""
    said = str(ends(incast(3, "900B", delay, kind, fruitless=fruitless, simulated="1ms"), "spray_round_robin"))
    assert f"limits.fruitless: {fruitless} reached at {5 * (fruitless + 1)}us of simulated time" in said
    assert "0 of 3 tasks done; first, rank 0 waits for 40KB from rank 1: not all of its 40 packets have arrived" in said
    assert f"after {fruitless} rounds in a row in which packets were refused and none got through" in said
    assert "let fewer packets be in flight (congestion)" in said


@each("delay", ["0ns", "500ns"])
def test_a_run_in_which_little_gets_through_goes_on(delay):
    """Packets go three times and more, and some flows wait for longer than two timeouts until others are done."""
    found = ends(incast(7, "64B", delay, "selective", fruitless=2), "spray_round_robin")
    assert isinstance(found, Outcome)
    assert found.losses.trimmed > 3 * sum(found.flows.packets)
    assert found.completion_ps > 5 * 5 * 10**6


@each("progress", [True, False])
def test_what_becomes_of_background_traffic_makes_no_difference_to_rounds(progress):
    """Background is trimmed, or gets through, and nothing else is heard of."""
    tasks = [flow(0, 1, 1)._replace(background=True), flow(0, 1, 1)]
    what = limited(controlled(scene(fabric(1, 1, 2), tasks), flow_control={"kind": "trim"}), fruitless=1)
    rounds = Rounds(what)
    rounds.note(0, progress)
    assert rounds.next(rounds.end_ps + 1)
    rounds.note(0, progress=True)
    rounds.note(1, progress=False)
    assert rounds.refused == 1
    assert not rounds.next(rounds.end_ps + 1)


def test_a_flow_that_has_arrived_and_cannot_hear_of_it_is_given_up():
    """Its acknowledgements are lost, since the way back is slow and then down for long: nobody waits for anything."""
    what = scene(fabric(2, 1, 1, link_delay="10us"), [flow(0, 1, 4000)])
    down = {"link": "host0-leaf0", "at": "45us", "until": "1s", "noticed_after": "never"}
    recovery = {"kind": "selective", "timeout": "100us", "longest_timeout": "100us"}
    found = ends(limited(failing(what, down, recovery=recovery), fruitless=3), "ecmp")
    assert isinstance(found, Outcome)
    assert found.losses.retransmitted == 2  # the third timeout ends it


def test_a_sweep_keeps_the_runs_that_reach_no_limit(tmp_path, monkeypatch):
    """Of two cells one takes longer than the limit; its rows say so, and the other is whole."""
    monkeypatch.setattr("netsim.sweep.driver.Processes", Here)
    limits = {"limits": {"simulated": "10us"}, "engine": "simpy"}
    sizes = {"workload.bytes_per_rank": ["8KB", "800KB"]}
    failures = sweep(written(tmp_path, scenario=SCENARIO | limits, grid=sizes), tmp_path / "out")
    assert len(failures) == 1
    table = rows(tmp_path / "out")
    assert len(table) == 8
    for row in table:
        too_much = row["workload.bytes_per_rank"] == "800KB"
        assert ("limits.simulated: 10us reached" in row["problem"]) == too_much == (not row["completion_ns"])
