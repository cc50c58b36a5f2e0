"""The verbs of moe as a user calls them."""

import pytest

from moe.__main__ import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said about wrong input: exit status 2 and one line."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said when all went well."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out
