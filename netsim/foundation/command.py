"""A command line: verbs, the options that the fields of a request make, and the line and the exit code of an error."""

import argparse
import ast
import inspect
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, cast, dataclass_transform, get_args, get_origin

from netsim.foundation.extra import remedy
from netsim.foundation.files import is_full
from netsim.foundation.outputs import Output, add_overwrite, check_outputs
from netsim.foundation.refusal import Failure, Refusal, nearest

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Request:
    """Options and words of a verb: one for each field, with the text under it as its help.

    A field without a default is required. The type says what is read: a flag for `bool`, choices for `Literal`, an
    option that may be repeated for `tuple[T, ...]`. A field whose type is another request stands for its options.
    What else there is to say is in `Annotated`, in any order:

    - `WORD`: it has a place on the command line and no name;
    - text: its metavar, or its names where they begin with a dash;
    - `"+"`, `"?"`: one or more values behind the name; one or none, which is read as empty text;
    - a function that reads the value, or a tuple of choices;
    - `Group`: the part of the help that it is shown in; `Either`: it excludes others of the same name.
    """

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)


WORD = object()


@dataclass(frozen=True)
class Group:
    """A titled group of options in the help."""

    title: str


@dataclass(frozen=True)
class Either:
    """A set of options that exclude each other."""

    name: str


R = TypeVar("R", bound=Request)


@dataclass(frozen=True, kw_only=True)
class Verb(Generic[R]):
    """A verb.

    Attributes:
        summary: For the list of verbs.
        description: Text in front of the options; a function is called only where it is shown.
        epilog: Text behind them: examples that can be copied.
        request: Makes the options.
        run: Does it; None stands for exit code 0. It imports its driver itself, so that help is quick.
        outputs: What it writes, and must not replace unless it wrote that itself; adds `--overwrite`.
        following: The command that comes next, with options in braces.
    """

    name: str
    summary: str
    description: str | Callable[[], str]
    epilog: str | None = None
    request: type[R]
    run: Callable[[R], int | None]
    outputs: Callable[[R], Iterable[tuple[Output, Path | None]]] | None = None
    following: str | None = None

    def read(self, options: argparse.Namespace) -> R:
        """The request that the options make."""
        return cast(R, _request(self.request, vars(options)))


@dataclass(frozen=True)
class Program:
    """Verbs under one name; a program with errors or surroundings of its own extends it."""

    name: str
    verbs: Sequence[Verb[Any]]
    description: str
    epilog: str | None = None
    prog: str = field(default="", kw_only=True)
    """How help calls the program, if not python -m NAME."""

    def parser(self) -> "Parser":
        """The parser of the command line; options of a verb are added when it is used."""
        prog = self.prog or f"python -m {self.name}"
        parser = Parser(prog=prog, description=self.description, epilog=self.epilog, program=self)
        verbs = parser.add_subparsers(required=True, metavar="VERB")
        for verb in self.verbs:
            style = argparse.RawDescriptionHelpFormatter
            one: Parser = verbs.add_parser(verb.name, help=verb.summary, epilog=verb.epilog, formatter_class=style)
            one.program, one.verb = self, verb
        return parser

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Runs a command.

        Args:
            arguments: Command line without the program; that of the process if None.

        Returns:
            The exit code. Whatever is wrong has been said in one line on stderr.
        """
        try:
            options = self.parser().read(arguments)
        except SystemExit as stop:
            return int(stop.code or DONE)
        try:
            with self.around(options):
                request = options.verb.read(options)
                if options.verb.outputs is not None:
                    check_outputs(options.verb.outputs(request), overwrite=options.overwrite)
                code = options.verb.run(request) or DONE
            code = self.exit_code(code)
        except (Exception, KeyboardInterrupt) as error:
            ending = self.ending(error, options)
            if ending is None:
                raise
            if options.debug:
                traceback.print_exception(error)
            code, problem = ending
            said = "\n".join(f"{self.name} {options.verb.name}: {line}" for line in problem.splitlines() or [""])
            self.say(said, code, error)
            return code
        if code == DONE and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            self.show_following(options)
        return code

    def around(self, options: argparse.Namespace) -> AbstractContextManager[object]:  # noqa: ARG002
        """Returns the context in which a verb runs; none by default."""
        return nullcontext()

    def exit_code(self, code: int) -> int:
        """Returns the exit code of the process, given the code of its verb."""
        return code

    def ending(self, error: BaseException, options: argparse.Namespace) -> tuple[int, str] | None:  # noqa: ARG002
        """Exit code and problem of an error, a line for each; None: a fault of the program, which is raised."""
        match error:
            case KeyboardInterrupt():
                return INTERRUPTED, "interrupted"
            case Failure():
                return FAILED, str(error)
            case OSError() if is_full(error):
                return FAILED, str(error)
            case Refusal():
                return WRONG_INPUT, " ".join(str(error).split())
            case ModuleNotFoundError() if line := remedy(error):
                return WRONG_INPUT, line
        return None

    def say(self, line: str, code: int, error: BaseException | None) -> None:  # noqa: ARG002
        """Prints why a command ends; there is no error where the command line itself is wrong."""
        print(line, file=sys.stderr)

    def misused(self, message: str) -> str:
        """Words the problem of a wrong command line."""
        return message

    def values(self, options: argparse.Namespace) -> Mapping[str, Any]:
        """Values for the braces in `Verb.following`."""
        return vars(options)

    def show_following(self, options: argparse.Namespace) -> None:
        """Prints the command that comes next on stderr, if the verb has one."""
        if options.verb.following is not None:
            print(f"next: {options.verb.following.format(**self.values(options))}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Parser that reports a wrong command line in one line, and adds the options of a verb when it is used."""

    def __init__(self, *, program: Program | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.program, self.verb = program, cast("Verb[Any] | None", None)

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Reads a command line; settings `key=value` may stand between options and behind them."""
        options, rest = self.parse_known_args(arguments)
        settings = getattr(options, "overrides", None)  # argparse stops collecting them at the first option
        if settings is None or any(word.startswith("-") for word in rest):
            dashed = [word.lstrip("-") for word in rest if "=" in word and "." in word.partition("=")[0]]
            remedy = f"; settings have no dashes: {' '.join(dashed)}" if dashed and settings is not None else ""
            if rest:
                self.error(f"unrecognized arguments: {' '.join(rest)}{remedy}")
        elif rest:
            settings += rest
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Adds the options of the verb, then parses as argparse does."""
        self.fill()
        return super().parse_known_args(args, namespace)

    def fill(self) -> "Parser":
        """Adds the description and the options of the verb, once."""
        if self.verb is not None and self.get_default("verb") is None:
            verb = self.verb
            self.description = verb.description() if callable(verb.description) else verb.description
            self.set_defaults(verb=verb)
            self.add_argument("--debug", action="store_true", help="print the traceback of an error")
            _add_fields(self, verb.request)
            if verb.outputs is not None:
                add_overwrite(self)
        return self

    def error(self, message: str) -> NoReturn:
        """Prints the problem in one line and ends the command."""
        program = cast(Program, self.program)
        wrong = re.match(r"argument VERB: invalid choice: '(.*)' \(choose from", message)
        if wrong is not None:
            near = nearest(wrong[1], (verb.name for verb in program.verbs))
            message = f"{wrong[1]} is not a verb" + (f"; use {near}" if near else "")
        name = self.prog.removeprefix("python -m ")
        program.say(f"{name}: {program.misused(message)}; see {self.prog} --help", WRONG_INPUT, None)
        raise SystemExit(WRONG_INPUT)


def _request(kind: type, values: Mapping[str, Any]) -> object:
    """Makes a request from the values of options by name."""
    made = {}
    for one in fields(kind):
        nested = is_dataclass(one.type)
        value = _request(cast(type, one.type), values) if nested else values[one.name]
        made[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def _add_fields(parser: argparse.ArgumentParser, kind: type) -> None:
    """Adds the options of a request to a parser."""
    texts = {name: text for each in reversed(kind.__mro__) for name, text in _texts(each)}
    parts: dict[Any, Any] = {None: parser}
    for one in fields(kind):
        if is_dataclass(one.type):
            _add_fields(parser, cast(type, one.type))
            continue
        default = None if one.default is MISSING else one.default
        names, group, settings = _settings(one.name, one.type, default, required=one.default is MISSING)
        if group not in parts:
            titled = isinstance(group, Group)
            parts[group] = parser.add_argument_group(group.title) if titled else parser.add_mutually_exclusive_group()
        parts[group].add_argument(*names, help=texts[one.name], **settings)


def _settings(name: str, kind: Any, default: Any, *, required: bool) -> tuple[list[str], Any, dict[str, Any]]:
    """Names, group and settings of the option of a field, as argparse wants them."""
    notes: list[Any] = []
    if get_origin(kind) is Annotated:
        kind, *notes = get_args(kind)
    if NoneType in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    words = [note for note in notes if isinstance(note, str)]
    names = [word for word in words if word.startswith("-")] or [f"--{name.replace('_', '-')}"]
    metavars = [word for word in words if not word.startswith("-") and word not in ("+", "?")]
    group = next((note for note in notes if isinstance(note, Group | Either)), None)
    settings: dict[str, Any] = {"default": default}
    if metavars:
        settings["metavar"] = metavars[0] if len(metavars) == 1 else tuple(metavars)
    if WORD in notes:
        names = [name]
    else:
        settings |= {"dest": name, "required": required}
    if kind is bool:
        return names, group, settings | {"action": "store_true"}
    read = next((note for note in notes if callable(note)), None)
    several = get_origin(kind) is tuple and read is None
    parts = get_args(kind)
    if "?" in words:
        settings |= {"nargs": "?", "const": ""}
    elif several and parts[-1] is not Ellipsis:
        settings["nargs"] = len(parts)
    elif several and (WORD in notes or "+" in words):
        settings["nargs"] = "+" if "+" in words else "*"
    elif several:
        settings["action"] = "append"
    elif WORD in notes and not required:
        settings["nargs"] = "?"
    if several and default == ():
        settings["default"] = []
    choices = get_args(kind) if get_origin(kind) is Literal else None
    choices = next((note for note in notes if isinstance(note, tuple)), choices)
    if choices is not None:
        return names, group, settings | {"choices": choices, "type": type(choices[0])}
    return names, group, settings | {"type": read or (parts[0] if several else kind)}


def _texts(kind: type) -> Iterator[tuple[str, str]]:
    """The text under each field that a class itself declares, in one line."""
    if not is_dataclass(kind):
        return
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    for one, below in pairwise(cast(ast.ClassDef, tree).body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(below, ast.Expr):
            yield one.target.id, " ".join(str(ast.literal_eval(below.value)).split())
