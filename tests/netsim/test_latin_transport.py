"""The example of a user's own transport, in a module of the tests, beside the others and under losses."""

from typing import Any

import netsim
from netsim.results import Results
from tests.netsim.documents import collective_of

LATIN = "tests.netsim.own_transport:Latin"
SHAPE = {"kind": "leaf_spine", "leaves": 4, "spines": 4, "hosts_per_leaf": 4}


def simulate(*transports: Any, **sections: Any) -> Results:
    """An all-to-all of 8,000 B from each of 16 hosts to each."""
    workload = collective_of("all_to_all", "128KB")
    fixed = {"format": "flowfabric.scenario/1", "topology": SHAPE, "workload": workload, "seeds": [0]}
    return netsim.simulate({**fixed, "transports": list(transports), **sections})


def test_it_balances_every_link():
    """Of the 16 messages between two leaves a Latin square puts 4 on each spine: 3 * 4 messages on every link up."""
    results = simulate({"class": LATIN}, {"class": LATIN, "options": {"shift": 1}, "label": "next"}, "ecmp")
    assert [run.transport for run in results.runs] == ["Latin", "next", "ecmp"]
    up = [n for n, link in enumerate(results.links) if link.src.startswith("leaf") and link.dst.startswith("spine")]
    for run in results.runs:
        assert (set(run.links["bytes"][up].tolist()) == {3 * 4 * 8000}) == (run.transport != "ecmp")
        assert run.bound_ps <= run.completion_ps


def test_it_meets_losses_and_failures_like_any_other():
    down = {"link": "leaf0-spine0", "at": "2us", "until": "50us", "noticed_after": "20us"}
    results = simulate(
        {"class": LATIN},
        topology={**SHAPE, "queue": "20KB", "failures": [down]},
        congestion={"kind": "dctcp", "mark_above": "12KB"},
        recovery={"kind": "selective", "timeout": "100us"},
    )
    assert results.runs[0].losses.dropped > 0
    assert results.runs[0].flows["bytes"].sum() == 16 * 15 * 8000
