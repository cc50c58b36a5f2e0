"""A YAML file of sections, and what the command line changes in it; which keys it may have is not known here."""

from pathlib import Path
from typing import Any

import yaml

from netsim.foundation.documents import TOO_DEEP, check_document
from netsim.foundation.refusal import Refusal, problem_and_remedy
from netsim.foundation.shipped import located, nearest

MISTAGGED = (AttributeError, KeyError, IndexError, TypeError)
"""What PyYAML raises besides its own errors where a value is not what its tag says, such as !!bool x."""


def read_document(path: Path, examples: str = "configs/runs") -> dict[str, Any]:
    """Reads a YAML file of sections.

    Args:
        path: YAML file, or the name of one that comes with the package.
        examples: folder where names are looked up first, and that a refusal names.

    Raises:
        Refusal: the file is missing or malformed.
    """
    folder = Path(examples).name
    path = located(path, folder)
    try:
        document = read_yaml(path, f"a YAML file such as those in {examples}")
    except OSError as error:
        remedy = f"give a YAML file, or the name of one in {examples}: {nearest(path, folder)}"
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", remedy) from error
    if not isinstance(document, dict):
        problem = "is empty" if document is None else "is a list" if isinstance(document, list) else "is a single value"
        such = "run, model, optim" if folder == "runs" else f"those of the files in {examples}"
        raise Refusal(path, "document", problem, f"write sections such as {such}")
    return document


def check_is_of_a_run(path: Path, document: dict[str, Any]) -> None:
    """Refuses a file of another program.

    Raises:
        Refusal: it names the format of a scenario or a sweep.
    """
    kind = str(document.get("format", ""))
    if kind.startswith(("flowfabric.scenario/", "flowfabric.sweep/")):
        remedy = f"give it to python -m netsim {'sweep' if 'sweep' in kind else 'compare'}"
        raise Refusal(path, "format", f"{kind} is not a run configuration", remedy)


def read_yaml(path: Path, wanted: str) -> Any:
    """Reads a YAML file of whatever is in it.

    Args:
        path: the file.
        wanted: what to give in its place, for what is said of it.

    Raises:
        OSError: it cannot be read.
        Refusal: it is malformed.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", "is not UTF-8 text", f"save it as UTF-8, or give {wanted}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "document"
        raise Refusal(
            path, where, f"is not YAML ({_syntax(getattr(error, 'problem', None) or str(error))})", "correct the syntax"
        ) from error
    except ValueError as error:
        raise Refusal(path, "document", f"contains an impossible date ({error})", "quote it") from error
    except MISTAGGED as error:
        raise Refusal(
            path, "document", "contains a value that does not fit its YAML tag", "leave the tag out"
        ) from error
    except RecursionError as error:
        raise Refusal(path, "document", TOO_DEEP, "nest less") from error
    _check(path, "document", document)
    return document


def parse_yaml(text: str) -> Any:
    """Reads YAML of the command line.

    Args:
        text: the whole value.

    Raises:
        ValueError: it is malformed, or contains what no setting takes; the message says why.
    """
    try:
        value = yaml.load(text, _UniqueKeys)
    except (yaml.YAMLError, *MISTAGGED) as error:
        raise ValueError(_syntax(getattr(error, "problem", None) or " ".join(str(error).split()))) from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    check_document(value)
    return value


def _syntax(problem: str) -> str:
    """What PyYAML found, in the words of a person."""
    if "'\\t'" in problem:
        return "there is a tab; indent with spaces"
    return {
        "mapping values are not allowed here": "a colon is missing before this one, or the indentation is wrong",
        "could not find expected ':'": "a key has no colon behind it",
    }.get(problem, problem)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is written twice, where YAML would silently keep the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """See yaml.SafeLoader; what is merged into a mapping later on does not stand twice in it."""
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is written twice", key.start_mark)
            keys.add(key.value)
        return node


def _check(path: Path, field: str, document: Any) -> None:
    """Refuses what no setting takes."""
    try:
        check_document(document)
    except ValueError as error:
        raise Refusal(path, field, *problem_and_remedy(error)) from error


def apply_override(path: Path, document: dict[str, Any], override: str) -> None:
    """Changes one value of a document.

    Args:
        path: of its file, for what is said of it.
        document: the sections; changed in place.
        override: ``dotted.key=value`` with the value in YAML.

    Raises:
        Refusal: it is not dotted.key=value, or the key lies in a value that is not a section.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise Refusal(
            path, override, "is not a setting", "write dotted.key=value without spaces, for example optim.steps=200"
        )
    if key == "stages":
        remedy = "write them in the file; stages.NAME.key=value changes one"
        raise Refusal(path, key, "cannot be replaced as a whole", remedy)
    try:
        value = yaml.load(text, _UniqueKeys)
    except (yaml.YAMLError, RecursionError, ValueError, *MISTAGGED) as error:
        raise Refusal(path, key, f"its value is not YAML ({text})", "quote it") from error
    _check(path, key, value)
    *sections, last = key.split(".")
    node = document
    for depth, section in enumerate(sections, start=1):
        child = {} if node.get(section) is None else node[section]
        if not isinstance(child, dict):
            parent = ".".join(sections[:depth])
            raise Refusal(path, key, f"{parent} is not a section ({child})", f"write {parent}=VALUE")
        node[section] = node = dict(child)
    node[last] = value
