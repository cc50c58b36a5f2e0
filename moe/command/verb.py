"""A verb of the command line."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netsim.foundation.outputs import Output, add_overwrite, check_outputs


@dataclass(frozen=True)
class Verb:
    """One verb: its name, its help and what it runs.

    Attributes:
        name: The word on the command line.
        summary: What it does, in a few words.
        description: Makes the text in front of the options; called only where this verb's help may be shown.
        epilog: Examples that can be copied as they stand.
        add_arguments: Adds its arguments to a parser.
        run: Does it. It imports what it needs itself, so that help is quick.
        outputs: What it writes.
    """

    name: str
    summary: str
    description: Callable[[], str]
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    outputs: Callable[[argparse.Namespace], Iterable[tuple[Output, Path | None]]]

    def add_to(self, verbs: "argparse._SubParsersAction[Any]", *, described: bool) -> None:
        """Add the verb to those of a parser; what is parsed then holds it as ``verb``.

        Args:
            verbs: What ``add_subparsers`` returned.
            described: Whether its own help may be shown.
        """
        parser = verbs.add_parser(
            self.name,
            help=self.summary,
            description=self.description() if described else None,
            epilog=self.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(verb=self)
        parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
        self.add_arguments(parser)
        add_overwrite(parser)

    def start(self, options: argparse.Namespace) -> None:
        """Run the verb, unless that would replace what another one wrote.

        Raises:
            ValueError: It would, or the input is wrong.
        """
        check_outputs(self.outputs(options), overwrite=options.overwrite)
        self.run(options)
