"""Runs of the exact engine beside those of the reference engine."""

from typing import Any

from pydantic import TypeAdapter

from netsim.engine.exact.engine import ExactEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig

CONFIG: TypeAdapter[Any] = TypeAdapter(TransportConfig)


def config(routing: object) -> TransportConfig:
    return CONFIG.validate_python(routing)


def reference(what: Scene, transport: TransportConfig, seed: int) -> Outcome:
    built = build_transport(transport, seed, what.most_paths)
    assert built is not None
    return ReferenceEngine(what, built, seed).run()


def assert_equal(what: Scene, routing: object, seed: int = 0) -> Outcome:
    outcome = ExactEngine(what, config(routing), seed).run()
    expected = reference(what, config(routing), seed)
    for name, mine, others in zip(outcome._fields, outcome, expected, strict=True):
        assert type(mine) is type(others), name
    assert outcome.equals(expected)
    return outcome
