"""Which engine simulates what: the fastest that is exact unless one is named, and a line where that one cannot."""

from typing import Any

import pytest

from netsim import simulate
from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of

SMALL: dict[str, Any] = scenario_of(2, 2, 2, collective_of("all_to_all", "16KB"))
OWN = {"class": "tests.netsim.own_transport:Latin"}
ALL_REDUCE = collective_of("all_reduce", "16KB")
PFC = {"flow_control": {"kind": "pfc"}}


def engine(**more: Any) -> str:
    """Who simulates the first run."""
    return simulate(SMALL | more).runs[0].engine


@each(
    "more, chosen",
    [
        ({}, "exact"),
        ({"transports": [{"kind": "ethereal", "pieces": "minimal"}]}, "exact"),
        ({"transports": ["jsq"]}, "windowed"),
        ({"transports": ["reps"]}, "windowed"),
        ({"congestion": {"kind": "dctcp"}}, "windowed"),
        ({"workload": ALL_REDUCE}, "windowed"),
        ({"workload": ALL_REDUCE, "topology": SMALL["topology"] | {"link_delay": "0ns"}}, "event"),
        ({"workload": ALL_REDUCE, "topology": SMALL["topology"] | {"link_delay": "50ns"}}, "event"),
        (PFC, "event"),
        ({"transports": [OWN]}, "simpy"),
        ({"transports": ["ideal"]}, "fluid"),
        ({"engine": "simpy"}, "simpy"),
        ({"engine": "event"}, "event"),
        ({"engine": "fluid", "transports": ["ethereal"]}, "fluid"),
        ({"engine": "exact", "transports": ["ideal"]}, "fluid"),
    ],
)
def test_the_fastest_engine_that_is_exact(more, chosen):
    assert engine(**more) == chosen


@each("name", ["exact", "event", "windowed"])
@each("transport", ["ecmp", "spray_random", "drb", {"kind": "ethereal", "order": "staggered"}])
def test_the_run_is_the_same_whoever_simulates_it(name, transport):
    """The hash in results.json leaves out who it was."""
    runs = [simulate(SMALL | {"engine": chosen, "transports": [transport]}) for chosen in (name, "simpy")]
    first, second = (results.to_dict()["runs"][0] for results in runs)
    assert (first["engine"], second["engine"]) == (name, "simpy")
    assert first["sha256"] == second["sha256"]


@each(
    "more, why",
    [
        ({"engine": "exact", "transports": ["jsq"]}, "exact cannot simulate jsq: "),
        ({"engine": "exact", "transports": ["ecmp", "reps"]}, "exact cannot simulate reps: "),
        ({"engine": "exact", "workload": ALL_REDUCE}, "exact cannot simulate ecmp: a message waits for another"),
        ({"engine": "exact", "congestion": {"kind": "swift"}}, "exact cannot simulate ecmp: congestion swift"),
        ({"engine": "event", "transports": [OWN]}, "event cannot simulate Latin: "),
        ({"engine": "windowed", "topology": SMALL["topology"] | {"link_delay": "0ns"}}, "link host0.* has no delay"),
        ({"engine": "fluid", "transports": ["flowlet"]}, "fluid cannot simulate flowlet: "),
        ({"engine": "fluid", "transports": ["adaptive_flow"]}, "fluid cannot simulate adaptive_flow: "),
    ],
)
def test_an_engine_that_cannot_says_so_before_anything_runs(more, why):
    with pytest.raises(Refusal, match=why) as raised:
        simulate(SMALL | more)
    assert raised.value.field == "engine"
