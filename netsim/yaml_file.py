"""YAML files of the user's: what cannot be read is refused in one line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from netsim.errors import InputError


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, content: str) -> object:
    """What a YAML file contains.

    Args:
        path: The file.
        content: What it should hold, for messages: "a scenario".

    Raises:
        InputError: It is missing, no text or no YAML, or a key occurs twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(path, "file", f"cannot be read ({error.strerror})", f"give the path of {content}") from None
    except UnicodeDecodeError:
        raise InputError(path, "file", "is no text", f"give the path of {content} in YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "file"
        raise InputError(path, line, f"is no YAML ({getattr(error, 'problem', error)})", "correct the line") from None
