"""What a verb of the command line is made of."""

import argparse
import os
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netsim.foundation.outputs import Output, add_overwrite, check_outputs
from trainer.distributed.refusal import StartRefused


@dataclass(frozen=True)
class Verb:
    """One verb: what it is called, what its help says and what it runs.

    Attributes:
        name: the word on the command line.
        summary: what it does, in one sentence without a capital and without a full stop.
        example: a command line that can be copied as it stands.
        add_arguments: adds its arguments to a parser.
        run: does it and returns the exit code. It imports its driver itself, so that help is quick.
        details: sentences that follow the summary in the verb's own help.
        outputs: what it writes where another verb may have written; None: nothing, or its own code looks.
        reads_runs: whether it may read run folders, whose classes are imported with ``--trust-code`` alone.
    """

    name: str
    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    details: str = ""
    outputs: Callable[[argparse.Namespace], Iterable[tuple[Output, Path | None]]] | None = None
    reads_runs: bool = True

    def add_to(self, verbs: "argparse._SubParsersAction[Any]") -> None:
        """Adds the verb to those of a parser; what is parsed then holds it as ``verb``.

        Args:
            verbs: what ``add_subparsers`` returned.
        """
        parser = verbs.add_parser(
            self.name,
            help=self.summary,
            description=textwrap.fill(f"{self.summary[0].upper()}{self.summary[1:]}. {self.details}", width=100),
            epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(verb=self)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if self.reads_runs:
            parser.add_argument(
                "--trust-code",
                action="store_true",
                help="import the classes that the config.yaml of a run folder names, which is code of whoever wrote it",
            )
        self.add_arguments(parser)
        if self.outputs is not None:
            add_overwrite(parser)

    def start(self, options: argparse.Namespace) -> int:
        """Runs the verb, unless that would replace what another one wrote.

        Raises:
            ValueError: it would, or the input is wrong.
        """
        if self.outputs is not None:
            check_outputs(self.outputs(options), overwrite=options.overwrite)
        return self.run(options)


def refuse_misspelt(options: argparse.Namespace) -> None:
    """Refuses unknown keys of the configuration of :func:`add_configuration`, before a verb imports anything.

    Where nodes may have been given different files, the ranks compare them first.

    Raises:
        StartRefused: names file, key and remedy; every rank of the node says the same.
    """
    several_nodes = os.environ.get("WORLD_SIZE", "1") != os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not hasattr(options, "config") or several_nodes:
        return
    from trainer.config.misspelt import check_names  # brings pydantic, which help does without

    try:
        check_names(options.config, options.overrides)
    except ValueError as error:
        raise StartRefused(str(error)) from error


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Adds a configuration file and the settings that replace its own."""
    parser.add_argument("config", type=Path, help="YAML configuration; configs/runs holds examples")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, for example optim.lr=1e-3"
    )
