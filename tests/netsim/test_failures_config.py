"""Links that fail: the rate of every link and the paths in use, against a timeline drawn moment by moment."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from netsim.topology.failure import NEVER, FailureConfig, Rates, Routes
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.protocol import Topology, paths
from tests.each import each

FABRIC = {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 2, "host_rate": "200bps"}
TOPOLOGY = LeafSpine(LeafSpineConfig.model_validate(FABRIC | {"fabric_rate": "100bps"}))
HORIZON_PS = 60
"""Later than the last change of `random_failures`."""


def failure(**fields: Any) -> FailureConfig:
    return FailureConfig.model_validate(fields)


def random_failures(seed: int) -> list[FailureConfig]:
    """Up to six failures of links and switches; they may touch, overlap and repeat each other."""
    random = Random(seed)
    switches = [{"switch": switch} for tier in TOPOLOGY.tiers for switch in tier]
    links = [{"link": link.name} for link in TOPOLOGY.links if link.src != link.dst]
    failures = []
    for _ in range(random.randint(1, 6)):
        at = random.choice([0, 0, random.randint(1, 20)])
        until = random.choice([None, at + random.randint(1, 15)])
        late = random.choice([None, 0, random.randint(1, 10)])
        failures.append(
            failure(
                **random.choice([random.choice(switches), random.choice(links)]),
                at=f"{at}ps",
                until=until and f"{until}ps",
                rate=random.choice([0, 0, "40bps", "100bps"]),
                noticed_after=late if late is None else f"{late}ps",
            )
        )
    return failures


def concerns(which: FailureConfig, link: int) -> bool:
    """A link by its own name or that of the other direction, or by the switch at either end."""
    there, back = TOPOLOGY.links[link], TOPOLOGY.links[TOPOLOGY.reverse(link)]
    return which.link in (there.name, back.name) or which.switch in (there.src, there.dst)


def true_rate(failures: list[FailureConfig], link: int, time_ps: int) -> int:
    """The least of what the link can do and what its failures leave."""
    rate = TOPOLOGY.links[link].rate_bps
    for which in failures:
        if concerns(which, link) and which.at <= time_ps and not (which.until is not None and which.until <= time_ps):
            rate = min(rate, which.rate)
    return rate


def known_down(failures: list[FailureConfig], link: int, time_ps: int) -> bool:
    """Some failure has been noticed to begin and not yet to end."""
    for which in failures:
        late = NEVER if which.noticed_after is None else which.noticed_after
        begun = which.at == 0 or which.at + late <= time_ps
        ended = which.until is not None and which.until + late <= time_ps
        if concerns(which, link) and which.rate == 0 and begun and not ended:
            return True
    return False


@pytest.fixture(params=range(25))
def failures(request: pytest.FixtureRequest) -> list[FailureConfig]:
    return random_failures(request.param)


def moments() -> Iterator[tuple[int, int]]:
    return ((link, time_ps) for link in range(len(TOPOLOGY.links)) for time_ps in range(HORIZON_PS))


def test_the_rate_at_every_moment(failures: list[FailureConfig]):
    rates = Rates(TOPOLOGY, failures)
    for link, time_ps in moments():
        assert rates.at(link, time_ps) == true_rate(failures, link, time_ps)


def test_the_next_moment_at_which_a_link_is_down(failures: list[FailureConfig]):
    rates = Rates(TOPOLOGY, failures)
    for link in range(len(TOPOLOGY.links)):
        following = NEVER
        for time_ps in reversed(range(HORIZON_PS)):
            following = time_ps if true_rate(failures, link, time_ps) == 0 else following
            assert rates.next_down(link, time_ps) == following


def test_the_best_rate_of_a_link_and_whether_anything_can_be_lost(failures: list[FailureConfig]):
    rates = Rates(TOPOLOGY, failures)
    lossy = False
    for link in range(len(TOPOLOGY.links)):
        timeline = [true_rate(failures, link, time_ps) for time_ps in range(HORIZON_PS)]
        assert rates.best(link) == max(timeline)
        lossy |= any(now == 0 and before > 0 for before, now in pairwise(timeline))
    assert rates.lossy == lossy


def test_what_the_routing_knows(failures: list[FailureConfig]):
    known = Rates(TOPOLOGY, failures).known_down()
    times = [time_ps for time_ps, _ in known]
    assert times == sorted(set(times))
    assert times[0] == 0
    for time_ps in range(HORIZON_PS):
        avoided = [links for time, links in known if time <= time_ps][-1]
        assert avoided == {link for link in range(len(TOPOLOGY.links)) if known_down(failures, link, time_ps)}


def test_paths_in_use(failures: list[FailureConfig]):
    """Those whose fabric is not known to be down; all of them if there is none, unless it has been so from the start.

    A host's own link has no alternative: it counts at the start only.
    """
    routes = Routes(TOPOLOGY, Rates(TOPOLOGY, failures))
    for time_ps in range(HORIZON_PS):
        epoch = routes.epoch(time_ps)
        for src, dst in [(0, 0), (0, 1), (0, 2), (3, 1)]:
            whole = paths(TOPOLOGY, src, dst)
            down = [[known_down(failures, link, time_ps) for link in path] for path in whole]
            good = [n for n, links in enumerate(down) if not any(links if not epoch else links[1:-1])]
            assert routes.paths(src, dst) == whole
            assert list(routes.usable(src, dst, epoch)) == (good if good or not epoch else list(range(len(whole))))


def test_without_failures_nothing_changes():
    rates = Rates(TOPOLOGY, ())
    assert [rates.at(link, 10**15) for link in range(len(TOPOLOGY.links))] == [link.rate_bps for link in TOPOLOGY.links]
    assert not rates.lossy
    assert rates.known_down() == [(0, frozenset())]
    assert Routes(TOPOLOGY, rates).usable(0, 2) == (0, 1)


@each("rate", [0, "0bps", "40bps"])
def test_a_rate_is_read_and_written(rate: object):
    read = failure(link="leaf0-spine1", rate=rate)
    assert read.rate == (40 if rate == "40bps" else 0)
    assert FailureConfig.model_validate(read.model_dump(mode="json")) == read


@each("noticed_after", [None, "0ps", "2ms"])
def test_a_failure_is_written_as_it_can_be_read_back(noticed_after: str | None):
    """Without its nulls, as a resolved scenario is written."""
    read = failure(link="leaf0-spine1", at="1us", noticed_after=noticed_after)
    assert FailureConfig.model_validate(read.model_dump(mode="json", exclude_none=True)) == read


def test_a_cable_fails_in_both_directions_and_a_switch_with_all_its_cables():
    topology: Topology = TOPOLOGY
    down = Rates(topology, [failure(link="spine1-leaf0")]).known_down()[0][1]
    assert {topology.links[link].name for link in down} == {"leaf0-spine1", "spine1-leaf0"}
    down = Rates(topology, [failure(switch="leaf1")]).known_down()[0][1]
    assert down == {n for n, link in enumerate(topology.links) if "leaf1" in (link.src, link.dst)}
