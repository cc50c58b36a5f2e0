"""What each verb proposes to do next: a command that its program takes, shown at a terminal alone."""

import argparse
import io
import shlex
import sys

import pytest

from moe.command.program import PROGRAM as MOE
from netsim.command.program import PROGRAM as NETSIM
from netsim.foundation.command import Program, Request, Verb
from tests.each import each
from trainer.__main__ import program

PROGRAMS: dict[str, Program] = {"trainer": program(), "moe": MOE, "netsim": NETSIM}
TABLES = {
    name: {verb.name: verb.following for verb in one.verbs if verb.following is not None}
    for name, one in PROGRAMS.items()
}


def options_of(program: str, verb: str) -> set[str]:
    """The names of a verb's options, and of the run's folder where it has a configuration."""
    (verbs,) = (
        action for action in PROGRAMS[program].parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    names = {action.dest for action in verbs.choices[verb].fill()._actions}
    return names | ({"run_dir"} if "config" in names else set())


@pytest.mark.parametrize("program", TABLES)
def test_every_verb_has_a_next_command(program: str) -> None:
    """Check ends with a line of its own."""
    assert {verb.name for verb in PROGRAMS[program].verbs} - TABLES[program].keys() == {
        "trainer": {"check"},
        "moe": set(),
        "netsim": set(),
    }[program]


@each(("program", "verb"), [(program, verb) for program in TABLES for verb in TABLES[program]])
def test_a_next_command_is_one_that_its_program_takes(program: str, verb: str) -> None:
    values = dict.fromkeys(options_of(program, verb), "x")
    words = shlex.split(TABLES[program][verb].format(**values))
    words = words[words.index("-m") :]
    if "--help" in words:
        words.remove("--help")
        assert words[2] in {verb.name for verb in PROGRAMS[words[1]].verbs}
    else:
        PROGRAMS[words[1]].parser().read(words[2:])


def test_it_is_shown_to_a_person_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    verb = Verb(
        name="do", summary="", description="", request=Request, run=lambda _: None, following="do {debug}, {{then}}"
    )
    program = Program("one", (verb,), "")
    assert program.main(["do"]) == 0
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert program.main(["do"]) == 0
    assert terminal.getvalue() == "next: do False, {then}\n"
