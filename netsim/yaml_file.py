"""YAML files of the user's: what cannot be read is refused in one line."""

from pathlib import Path
from typing import Any

import yaml

from netsim.documents import TOO_DEEP, check_document
from netsim.errors import InputError
from netsim.shipped import located, nearest

MISTAGGED = (AttributeError, KeyError, IndexError, TypeError)
"""What PyYAML raises besides its own errors where a value is not what its tag says, such as !!bool x."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML would keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return node


def parse_yaml(text: str) -> Any:
    """What a text in YAML says.

    Raises:
        yaml.YAMLError: It is no YAML, or a key occurs twice.
        ValueError: It holds an impossible date.
        RecursionError: It is nested too deep.
        AttributeError, KeyError, IndexError, TypeError: `MISTAGGED`.
    """
    return yaml.load(text, _Loader)


def load_yaml(path: Path, content: str, folder: str | None = None) -> object:
    """What a YAML file contains.

    Args:
        path: The file, or the name of one that comes with the package.
        content: What it should hold, for messages: "a scenario".
        folder: Of configs where names are looked up; None: the plural of the last word of `content`.

    Raises:
        InputError: It is missing, no text or no YAML, or a key occurs twice.
    """
    folder = folder or f"{content.split()[-1]}s"
    path = located(path, folder)
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = f"give the path of {content}, or the name of one in configs/{folder}: {nearest(path, folder)}"
        raise InputError(path, "file", f"cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError:
        raise InputError(path, "file", "is not text", f"give the path of {content} in YAML") from None
    except ValueError as error:
        raise InputError(path, "file", f"contains an impossible date ({error})", "quote it") from None
    except MISTAGGED:
        raise InputError(path, "file", "contains a value that does not fit its YAML tag", "leave the tag out") from None
    except RecursionError:
        raise InputError(path, "file", TOO_DEEP, "nest less") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "file"
        problem = _syntax(getattr(error, "problem", None) or str(error))
        raise InputError(path, line, f"is not YAML ({problem})", "correct the line") from None
    check_document(path, document)
    return document


def _syntax(problem: str) -> str:
    """What PyYAML found, in the words of a person."""
    if "'\\t'" in problem:
        return "there is a tab; indent with spaces"
    return {
        "mapping values are not allowed here": "a colon is missing before this one, or the indentation is wrong",
        "could not find expected ':'": "a key has no colon behind it",
    }.get(problem, problem)
