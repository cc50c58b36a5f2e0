"""A transport of the user's own: how a scenario names it, what it can do, and what may be wrong with it."""

import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from netsim import simulate
from netsim.__main__ import main
from netsim.foundation.refusal import Refusal
from tests.each import each, rows
from tests.netsim.documents import collective_of, scenario_of

pytestmark = pytest.mark.usefixtures("blank_pictures")

MODULE = """
from netsim.transport import Flow, Transport


class Pinned(Transport):
    def __init__(self, seed, most_paths, path=0, pieces=1):
        super().__init__(seed, most_paths)
        self.path, self.pieces = path, pieces

    @property
    def stride(self):
        return self.pieces

    def admit(self, released, now_ps):
        return [
            Flow(m.task * self.stride + piece, m, m.bytes // self.pieces, min(self.path, len(m.paths) - 1))
            for m in released
            for piece in range(self.pieces)
        ]


class EveryPacket(Transport):
    def choose_path(self, flow, serial, usable, now_ps):
        return usable[serial % len(usable)]


class EverySwitch(Transport):
    at_switch = True

    def choose_link(self, flow, serial, switch, links, backlog_ps, now_ps):
        return links[-1]


class Leaver(Transport):
    def __init__(self, seed, most_paths):
        raise SystemExit(3)


class NoTransport:
    pass


a_number = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A working directory with the module `mine`, which is forgotten afterwards."""
    (tmp_path / "mine.py").write_text(dedent(MODULE))
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "leaver.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "failing.py").write_text("1 / 0\n")
    (tmp_path / "garbled.py").write_text("def\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("mine", "broken"):
        sys.modules.pop(name, None)


def scenario(*transports: Any, **sections: Any) -> dict[str, Any]:
    """Four hosts on two leaves send 48 kB to each other."""
    return scenario_of(2, 3, 2, collective_of("all_to_all", "192KB"), transports=list(transports)) | sections


def bytes_up(run: Any) -> list[int]:
    """Bytes from leaf 0 to each spine."""
    return [int(record.bytes) for record in run.links[8:11]]


def test_each_of_the_three_routes_to_choose_works():
    """By flow, by packet, by switch: where the class says, all bytes go."""
    names = ("Pinned", "EveryPacket", "EverySwitch")
    results = simulate(scenario(*({"class": f"mine:{name}"} for name in names)))
    assert [run.transport for run in results.runs] == list(names)
    pinned, packets, switches = map(bytes_up, results.runs)
    assert pinned == [192_000, 0, 0]
    assert packets == [64_000] * 3
    assert switches == [0, 0, 192_000]


def test_it_meets_losses_and_failures_like_any_other():
    down = {"link": "leaf0-spine0", "at": "2us", "until": "50us", "noticed_after": "20us"}
    content = scenario_of(
        2, 3, 2, collective_of("all_to_all", "192KB"), {"queue": "20KB", "failures": [down]},
        transports=[{"class": "mine:EveryPacket"}], congestion={"kind": "dctcp", "mark_above": "12KB"},
        recovery={"kind": "selective", "timeout": "100us"},
    )  # fmt: skip
    (run,) = simulate(content).runs
    assert run.losses.dropped > 0
    assert run.flows["bytes"].sum() == 4 * 3 * 48_000


def test_options_and_labels_reach_it():
    second = {"class": "mine:Pinned", "options": {"path": 1, "pieces": 4}, "label": "second"}
    results = simulate(scenario({"class": "mine:Pinned"}, second))
    assert [(run.transport, bytes_up(run), len(run.flows)) for run in results.runs] == [
        ("Pinned", [192_000, 0, 0], 12),
        ("second", [0, 192_000, 0], 48),
    ]


def test_processes_find_it_too():
    entries = ({"class": "mine:Pinned", "options": {"path": 1}}, {"class": "mine:EveryPacket"})
    alone, together = (simulate(scenario(*entries), jobs=jobs).to_dict()["runs"] for jobs in (1, 2))
    assert [run["sha256"] for run in alone] == [run["sha256"] for run in together]


def test_the_resolved_scenario_can_be_read_again():
    entry = {"class": "mine:Pinned", "options": {"path": 2}, "label": "third"}
    first = simulate(scenario(entry))
    again = simulate(first.scenario)
    assert bytes_up(again.runs[0]) == bytes_up(first.runs[0]) == [0, 0, 192_000]


WRONG = r"""
{class: 'not_mine:Pinned'} | transports.1: not_mine cannot be imported | run from the folder that contains it
{class: 'leaver:Any'} | transports.1: leaver cannot be imported (SystemExit: 3) | install
{class: 'failing:Any'} | transports.1: failing cannot be imported (ZeroDivisionError | install
{class: 'garbled:Any'} | transports.1: garbled cannot be imported (SyntaxError | install
{class: '..x:Any'} | transports.1: '..x:Any' does not name a class | write module:Class
{class: 'mine:Leaver'} | transports.1: mine:Leaver ends the program | raise an error instead
{class: 'broken:Any'} | transports.1: broken cannot be imported | install
{class: 'mine:Pined'} | transports.1: Pined of mine is not a transport | name a class
{class: 'mine:NoTransport'} | transports.1: NoTransport of mine is not a transport | extends
{class: 'mine:a_number'} | transports.1: a_number of mine is not a transport | extends
{class: mine.Pinned} | transports.1.class: must match pattern | use text that matches
{class: 'mine:Pinned', options: {paths: 1}} | transports.1: mine:Pinned refuses its options | correct options
{kind: ecmp, options: {path: 1}} | transports.1.options: is not a known key | remove
{class: 'mine:Pinned', option: {}} | transports.1.option: is not a known key | remove
{class: 'mine:Pinned', options: 3} | transports.1.options: is not a section (3)
{class: 'mine:Pinned', label: a b} | transports.1.label: must match pattern | use text that matches
"""


@each("row", rows(WRONG))
def test_what_is_wrong_is_said_in_one_line(row: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, problem, *remedies = row
    entry = yaml.safe_load(text)
    with pytest.raises(Refusal) as raised:
        simulate(scenario("ecmp", entry))
    assert raised.value.file == "scenario"
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump(scenario("ecmp", entry)))
    assert main(["compare", str(file), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{file}: {problem}" in said
    assert all(remedy in said.partition("; ")[2] for remedy in remedies)
    assert not (tmp_path / "out").exists()


def test_a_transport_that_loses_bytes_is_refused():
    """16,000 bytes in three pieces of 5,333."""
    content = scenario_of(
        2, 2, 1, collective_of("all_to_all", "32KB"), transports=[{"class": "mine:Pinned", "options": {"pieces": 3}}]
    )
    with pytest.raises(Refusal, match=r"Pinned\.admit carries 15999 B of 16000 B"):
        simulate(content)
