"""Runs on every engine that takes them, which say the same to the last bit, and parts of the scenes for that."""

from collections.abc import Callable, Sequence
from random import Random

from netsim.congestion.credit import NdpConfig, ReceiverCreditConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.nscc import NsccConfig
from netsim.congestion.recovery import GoBackNConfig, SelectiveConfig
from netsim.congestion.swift import SwiftConfig
from netsim.congestion.window import NoneConfig, WindowConfig
from netsim.engine.event.engine import EventEngine
from netsim.engine.event.refusal import refusal as by_event
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.windowed.engine import WindowedEngine
from netsim.engine.windowed.refusal import refusal as by_windowed
from netsim.engine.windowed.refusal import splits
from netsim.foundation.refusal import Refusal
from netsim.transport.protocol import Transport
from netsim.workload.tasks import Task
from tests.netsim.random_scenes import not_among, quick_dcqcn, transport_of
from tests.netsim.scenes import all_to_all, flow

HOSTS = 8
PATTERNS = {
    "all_to_all": all_to_all(HOSTS, 20_000),
    "incast": [flow(src, 0, 80_000) for src in range(1, HOSTS)],
    "permutation": [flow(src, (src + 3) % HOSTS, 120_000) for src in range(HOSTS)],
    "ring": [
        Task(rank, (rank + 1) % HOSTS, 24_001, 0, ((step - 1) * HOSTS + (rank - 1) % HOSTS,) if step else ())
        for step in range(4)
        for rank in range(HOSTS)
    ],
}
DCTCP = DctcpConfig.model_validate({"kind": "dctcp", "mark_above": "8KB"})
SELECTIVE = SelectiveConfig.model_validate({"kind": "selective", "timeout": "30us", "reordering": 16})
_SCALED = {"kind": "swift", "queueing": "1us", "hop_scaling": "100ns", "flow_scaling": "6us"}
CONGESTION = {
    "none": NoneConfig(),
    "window": WindowConfig(kind="window", window=12),
    "dctcp": DCTCP,
    "dcqcn": quick_dcqcn(),
    "swift": SwiftConfig.model_validate({"kind": "swift", "queueing": "1us"}),
    "swift_paced": SwiftConfig.model_validate({"kind": "swift", "queueing": "0us", "smallest_window": 0.3}),
    "swift_scaled": SwiftConfig.model_validate(_SCALED),
    "nscc": NsccConfig(kind="nscc"),
    "receiver_credit": ReceiverCreditConfig(kind="receiver_credit"),
    "ndp": NdpConfig(kind="ndp", window=5),
}
CONGESTION |= {control.kind: control for control in not_among(CONGESTION.values())}
RECOVERY = {
    "go_back_n": GoBackNConfig.model_validate({"kind": "go_back_n", "timeout": "30us"}),
    "selective": SELECTIVE,
    "timeouts_only": SelectiveConfig.model_validate({"kind": "selective", "timeout": "30us"}),
}

Make = Callable[[], Transport]


def takes(engine: str, what: Scene, make: Make) -> bool:
    """Whether an engine simulates a scene; several threads of the windowed one are called by their number."""
    if engine == "event":
        return by_event(what, make()) is None
    return by_windowed(what, make()) is None and (engine == "windowed" or splits(what, make()))


def end(run: Callable[[], Outcome]) -> Outcome | str:
    """What a run was, or why it never ends."""
    try:
        return run()
    except Refusal as error:
        return f"{type(error).__name__}: {error}"


def end_of(engine: str, what: Scene, make: Make, seed: int = 0) -> Outcome | str:
    """The end of a run on an engine."""
    if engine == "simpy":
        return end(ReferenceEngine(what, make(), seed).run)
    if engine == "event":
        return end(EventEngine(what, make(), seed).run)
    return end(WindowedEngine(what, make(), seed, threads=1 if engine == "windowed" else int(engine)).run)


def agreed(what: Scene, make: Make, seed: int = 0, also: Sequence[str] = ()) -> Outcome | str:
    """The end of a run, which is the same on simpy, and on event and windowed where they take it.

    Args:
        what: The scene.
        make: Makes its transport again and again.
        seed: Of the run.
        also: Numbers of threads of the windowed engine to try too.
    """
    expected = end_of("simpy", what, make, seed)
    for engine in ("event", "windowed", *also):
        if takes(engine, what, make):
            found = end_of(engine, what, make, seed)
            if isinstance(found, Outcome) and isinstance(expected, Outcome):
                assert found.equals(expected), engine
            else:
                assert found == expected, engine
    return expected


def ran(what: Scene, transport: str, seed: int = 0, also: Sequence[str] = ()) -> Outcome:
    """The run of a transport with drawn options on all engines, each of which takes it and says the same."""
    make = transport_of(transport, Random(seed), seed, what.most_paths)
    assert all(takes(engine, what, make) for engine in ("event", "windowed", *also))
    outcome = agreed(what, make, seed, also)
    assert isinstance(outcome, Outcome)
    return outcome
