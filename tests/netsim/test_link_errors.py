"""Corrupted packets: by hand, in closed form, and on all engines that know them."""

from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.conditions import LOST, Conditions
from netsim.engine.reference.engine import ReferenceEngine
from netsim.topology.keys import LinkErrorsConfig
from netsim.transport.ecmp import Ecmp
from tests.each import each
from tests.netsim.closed_loop import controlled
from tests.netsim.scenes import fabric, flow, scene

PACKET, SERVICE, DELAY = 4000, 320_000, 500_000


def faulty(what: Scene, rate: float, retry: str) -> Scene:
    return what._replace(link_errors=LinkErrorsConfig.model_validate({"rate": rate, "retry": retry}))


def both(what: Scene, seed: int = 0) -> Outcome:
    expected = ReferenceEngine(what, Ecmp(0, 1), seed).run()
    assert EventEngine(what, Ecmp(0, 1), seed).run().equals(expected)
    return expected


@each("queued", [False, True])
def test_a_link_repeats_after_its_round_trip_and_packets_behind_wait(queued):
    """The first link is never idle but for round trips; what the second repeats may fit into the gaps of the first."""
    packets = 300
    what = faulty(scene(fabric(1, 1, 2), [flow(0, 1, packets * PACKET)]), 0.02, "link")
    what = controlled(what, flow_control={"kind": "pfc", "pause_above": "9MB", "resume_at": "8MB"}) if queued else what
    conditions = Conditions(what, Ecmp(0, 1), 0)
    links = what.topology.up(0), what.topology.down(1)
    leaves_ps = [0, 0]
    again = 0
    for serial in range(packets):
        arrives_ps = 0
        for hop, link in enumerate(links):
            repeats = conditions.repeats(link, 0, serial, control=False)
            again += repeats
            leaves_ps[hop] = max(leaves_ps[hop], arrives_ps) + SERVICE + repeats * (SERVICE + 2 * DELAY)
            arrives_ps = leaves_ps[hop] + DELAY
    outcome = both(what)
    assert again > 0
    assert outcome.completion_ps == leaves_ps[1] + DELAY
    assert outcome.losses.dropped == 0
    assert outcome.packets == packets


def test_a_link_that_does_not_repeat_loses_as_many_as_are_drawn():
    repeats = {"kind": "selective", "timeout": "50us", "reordering": 4}
    what = faulty(controlled(scene(fabric(1, 1, 2), [flow(0, 1, 500 * PACKET)]), recovery=repeats), 0.05, "none")
    outcome = both(what)
    conditions, links = Conditions(what, Ecmp(0, 1), 0), (what.topology.up(0), what.topology.down(1))
    lost = sum(
        any(conditions.repeats(link, 0, serial, control=False) == LOST for link in links)
        for serial in range(outcome.packets)
    )
    assert outcome.losses.dropped == lost == outcome.losses.retransmitted > 0


def test_the_share_of_corrupted_packets_is_the_rate():
    what = faulty(scene(fabric(1, 1, 2), [flow(0, 1, 1)]), 0.01, "none")
    conditions, draws = Conditions(what, Ecmp(0, 1), 7), 40_000
    lost = sum(conditions.repeats(0, 5, serial, control=False) == LOST for serial in range(draws))
    assert abs(lost - 0.01 * draws) < 5 * (0.01 * draws) ** 0.5
