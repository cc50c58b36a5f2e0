"""keys: every key of a scenario."""

import argparse

from netsim.command.status import DONE
from netsim.command.verb import Verb
from netsim.foundation.refusal import Refusal

_ABOUT = """\
Lists every key of a scenario: what it takes, its default, its unit and what it means. One line a key where the output
is piped, for grep. The same is on the page configs/README.md; editors complete keys from
configs/schemas/scenario.schema.json, which the first line of each scenario in configs names.

examples:
  python -m netsim keys topology
  python -m netsim keys transports.ethereal
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", nargs="?", metavar="PREFIX", help="show only the keys that begin so")


def _run(arguments: argparse.Namespace) -> int:
    from netsim.foundation.reference import chosen, show
    from netsim.scenario import Scenario

    try:
        found = chosen(Scenario.schema(), arguments.prefix, "a scenario")
    except Refusal as error:
        raise Refusal("command line", error.field, error.problem, error.remedy) from None
    show(found, whole=arguments.prefix is not None)
    return DONE


KEYS = Verb(
    "keys", "every key of a scenario: what it takes, its default and what it means", _ABOUT, _add_arguments, _run
)
