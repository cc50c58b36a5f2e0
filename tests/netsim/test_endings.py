"""Every run ends: flows that can never succeed are given up, by either engine in the same words."""

from collections.abc import Callable

import pytest

from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.errors import InputError
from netsim.transport.protocol import Transport
from tests.netsim.closed_loop import transport_of
from tests.netsim.scenes import all_to_all, fabric, scene
from tests.netsim.test_failures import failing

BOTH_SPINES = [{"switch": f"spine{number}", "at": "10us"} for number in range(2)]


def end(engine: type, what: Scene, make: Callable[[], Transport]) -> Outcome | str:
    """What a run was, or why it ended early."""
    try:
        return engine(what, make(), 0).run()
    except InputError as error:
        return f"{type(error).__name__}: {error}"


def ends(what: Scene, transport: object) -> Outcome | str:
    """The end of a run, which is the same on both engines."""
    expected, found = (
        end(engine, what, lambda: transport_of(transport, what)) for engine in (ReferenceEngine, EventEngine)
    )
    same = found.equals(expected) if isinstance(found, Outcome) and isinstance(expected, Outcome) else found == expected
    assert same
    return expected


@pytest.mark.parametrize("size", [100_000, 2_000_000])
@pytest.mark.parametrize("transport", ["ecmp", "ethereal", "reps", "jsq"])
@pytest.mark.parametrize("kind", ["selective", "go_back_n"])
def test_flows_that_are_cut_off_for_good_are_given_up(kind, transport, size):
    """Messages that their hosts send for longer than the timeout lasts, and paths that change at every timeout."""
    what = scene(fabric(2, 2, 2), all_to_all(4, size))
    found = ends(failing(what, *BOTH_SPINES, recovery={"kind": kind, "timeout": "50us"}), transport)
    assert f"8 messages never arrive, among them one of {size} B from rank 0 to rank 2" in str(found)
