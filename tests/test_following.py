"""What each verb proposes to do next: a command that its program takes, shown at a terminal alone."""

import argparse
import io
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest

import moe.command.line
import trainer.__main__
from moe.command.following import FOLLOWING as OF_MOE
from moe.command.following import show
from netsim.command.program import PROGRAM as NETSIM
from netsim.foundation.command import Parser
from trainer.command.following import FOLLOWING as OF_TRAINER

PARSERS: dict[str, Callable[[Sequence[str]], argparse.ArgumentParser]] = {
    "trainer": lambda _: trainer.__main__._parser(),
    "moe": lambda words: moe.command.line._parser(words),
    "netsim": lambda _: NETSIM.parser(),
}
TABLES: dict[str, tuple[Mapping[str, str], Iterable[str]]] = {
    "trainer": (OF_TRAINER, {verb.name for verb in trainer.__main__.VERBS} - {"check"}),
    "moe": (OF_MOE, {verb.name for verb in moe.command.line.VERBS}),
    "netsim": ({verb.name: verb.following or "" for verb in NETSIM.verbs}, {verb.name for verb in NETSIM.verbs}),
}


def options_of(program: str, verb: str) -> set[str]:
    """The names of a verb's options, and of the run's folder where it has a configuration."""
    (verbs,) = (
        action for action in PARSERS[program]([verb])._actions if isinstance(action, argparse._SubParsersAction)
    )
    parser = verbs.choices[verb]
    names = {action.dest for action in (parser.fill() if isinstance(parser, Parser) else parser)._actions}
    return names | ({"run_dir"} if "config" in names else set())


@pytest.mark.parametrize("program", TABLES)
def test_every_verb_has_a_next_command(program: str) -> None:
    table, verbs = TABLES[program]
    assert set(table) == set(verbs)


@pytest.mark.parametrize(("program", "verb"), [(program, verb) for program in TABLES for verb in TABLES[program][0]])
def test_a_next_command_is_one_that_its_program_takes(program: str, verb: str) -> None:
    values = dict.fromkeys(options_of(program, verb), "x")
    words = shlex.split(TABLES[program][0][verb].format(**values))
    words = words[words.index("-m") :]
    if "--help" in words:
        words.remove("--help")
        assert words[2] in TABLES[words[1]][1]
    else:
        PARSERS[words[1]](words[2:]).parse_args(words[2:])


def test_it_is_shown_to_a_person_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show("do {this}", {"this": "that"})
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    show("do {this}", {"this": "that"})
    assert terminal.getvalue() == "next: do that\n"
