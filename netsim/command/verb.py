"""What a verb of the command line is made of."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verb:
    """One verb.

    Args:
        name: The word on the command line.
        summary: What it does, in a line of the list of verbs.
        about: Its own help: what it does, an example that can be copied, what it reads and writes.
        add_arguments: Adds its arguments to a parser.
        run: Does it and returns the exit status. It imports its driver itself, so that help is quick.
    """

    name: str
    summary: str
    about: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

    def add_to(self, verbs: "argparse._SubParsersAction[Any]") -> None:
        """Adds the verb to those of a parser; what is parsed then holds it as `verb`.

        Args:
            verbs: What `add_subparsers` returned.
        """
        style = argparse.RawDescriptionHelpFormatter
        parser = verbs.add_parser(self.name, help=self.summary, description=self.about, formatter_class=style)
        parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
        parser.set_defaults(verb=self)
        self.add_arguments(parser)
