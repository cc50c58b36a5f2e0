"""The trace of a run has what its outcome counts, and a difference between two traces is named."""

from collections import Counter
from random import Random

import pytest

from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.flow_control import TrimConfig
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.reference.trace import Trace
from tests.first_difference import described, first_difference, main
from tests.netsim.agreement import DCTCP, PATTERNS, SELECTIVE
from tests.netsim.random_scenes import transport_of, with_queues
from tests.netsim.scenes import fabric, scene

INCAST = scene(fabric(4, 4, 2), PATTERNS["incast"])._replace(congestion=DCTCP, recovery=SELECTIVE, queue_bytes=16_000)


def traced(what: Scene) -> tuple[Trace, Outcome]:
    trace = Trace()
    transport = transport_of("ecmp", Random(0), 0, what.most_paths)()
    return trace, ReferenceEngine(what, transport, 0, trace=trace).run()


def test_a_trace_has_what_the_outcome_counts():
    for what in (INCAST, INCAST._replace(flow_control=TrimConfig(kind="trim")), with_queues(Random(5), INCAST)):
        trace, outcome = traced(what)
        counts = Counter(event.what for event in trace)
        losses = outcome.losses
        assert (counts["dropped"], counts["trimmed"], counts["marked"]) == (
            losses.dropped,
            losses.trimmed,
            losses.marked,
        )
        assert counts["paused"] == counts["resumed"]
        first = [event for event in trace if event.what == "queued" and not event.control and event.value == 0]
        assert {event.flow for event in first} == {*outcome.flows.id.tolist()}
        ends = {event.flow: event.time_ps for event in sorted(trace) if event.what == "received"}
        assert max(ends.values()) >= outcome.completion_ps
        hops = [event for event in trace if event.what == "departed" and not event.control]
        assert len(hops) == outcome.packet_hops


def test_the_first_event_that_differs_is_named_field_by_field():
    later = DctcpConfig.model_validate({"kind": "dctcp", "mark_above": "9KB"})
    (trace, _), (other, _) = traced(INCAST), traced(INCAST._replace(congestion=later))
    assert first_difference(sorted(trace), sorted(trace)) is None
    one, two = sorted(trace), sorted(other)
    place = first_difference(one, two)
    assert place is not None
    assert one[:place] == two[:place]
    assert one[place].what == "marked"
    shown = described(one, two, ("simpy", "event"), place, 4).splitlines()
    assert len(shown) == 2 + 4 + 1 + 1
    assert shown[-2].startswith(">")
    assert f"what marked and {two[place].what}" in shown[-1]
    assert "lacks" in described(one, one[:place], ("simpy", "event"), place, 4)


@pytest.mark.slow
def test_the_core_has_the_events_of_simpy(capfd: pytest.CaptureFixture[str]):
    for engine in ("event", "windowed"):
        words = ["configs/scenarios/closed_loop_64.yaml", "limits.simulated=20us", "--engine", engine]
        assert main(words) == 0
        assert capfd.readouterr().out.startswith("equal: ")
