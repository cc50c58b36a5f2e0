"""What Python and the core share: both sides have the same fields in the same order."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

import netsim.engine.core
from netsim.congestion import CongestionConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.engine import _core
from netsim.engine.core.shared import names, number, record, records_of_control
from netsim.engine.event import state
from netsim.engine.fluid.streaming import Streams
from netsim.engine.windowed.engine import Wheels
from netsim.engine.windowed.shares import Shares
from netsim.transport.ecmp import Ecmp
from tests.each import each
from tests.netsim.agreement import CONGESTION, DCTCP, end_of
from tests.netsim.scenes import fabric, flow, scene

HEADER = (Path(netsim.engine.core.__file__).parent / "state.hpp").read_text(encoding="utf-8")
PARTS = [state.Network, state.Hosts, state.Program, state.Routing, state.Queued, state.Flight, Streams, Shares, Wheels]


@each("part", PARTS, ids=lambda part: part.__name__)
def test_arrays_are_handed_over_in_the_order_of_the_header(part: Any):
    body = re.sub(r"//.*", "", HEADER.split(f"struct {part.__name__} {{")[1].split("};")[0])
    fields = re.findall(r"[\w>&]\s+(\w+);", body)
    assert [field for field in fields if field != "of_thread"] == list(part._fields)


def test_records_and_names_are_read_from_the_header():
    assert record("Flow").itemsize % 64 == 0
    assert record("Rising")["beside"].shape == (3,)
    assert names("Recovery") == ("NOTHING_LOST", "SELECTIVE", "GO_BACK_N")
    assert (number("GO_BACK_N"), number("GOES_ON"), number("BLOCK")) == (2, -1, 16)
    for unknown in (record, names, number):
        with pytest.raises(LookupError):
            unknown("Nothing")


def test_every_congestion_control_fills_in_the_settings_of_its_header():
    sections = get_args(get_args(CongestionConfig)[0])
    assert {section.core for section in sections} == {*_core.controls}
    for control in CONGESTION.values():
        settings, _ = records_of_control(control.core)
        assert {*(settings.names or ())} == {*control.constants(False)}


def test_settings_that_do_not_match_their_header_are_named(monkeypatch: pytest.MonkeyPatch):
    what = scene(fabric(2, 2, 2), [flow(0, 2, 9_000)])._replace(congestion=DCTCP)
    for core, said in (
        ("Fixed", r"DctcpConfig.constants has .*, and FixedSettings .* \[\]"),
        ("New", "run `make core`"),
    ):
        monkeypatch.setattr(DctcpConfig, "core", core)
        with pytest.raises(LookupError, match=said):
            end_of("event", what, lambda: Ecmp(0, what.most_paths))
