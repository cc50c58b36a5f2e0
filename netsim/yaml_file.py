"""YAML files of the user's: what cannot be read is refused in one line."""

from pathlib import Path
from typing import ClassVar

import yaml

from netsim.foundation.documents import MISTAGGED, TOO_DEEP, UniqueKeys, check_document, syntax_problem
from netsim.foundation.refusal import Refusal
from netsim.foundation.shipped import located, nearest


class _Loader(UniqueKeys):
    twice: ClassVar[str] = "the key {} occurs twice"


def load_yaml(path: Path, content: str, folder: str | None = None) -> object:
    """The content of a YAML file, or of a shipped one by name from `folder`, by default the plural of `content`."""
    folder = folder or f"{content.split()[-1]}s"
    path = located(path, folder)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        remedy = f"give the path of {content}, or the name of one in configs/{folder}: {nearest(path, folder)}"
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError:
        raise Refusal(path, "file", "is not text", f"give the path of {content} in YAML") from None
    except ValueError as error:
        raise Refusal(path, "file", f"contains an impossible date ({error})", "quote it") from None
    except MISTAGGED:
        raise Refusal(path, "file", "contains a value that does not fit its YAML tag", "leave the tag out") from None
    except RecursionError:
        raise Refusal(path, "file", TOO_DEEP, "nest less") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "file"
        problem = syntax_problem(getattr(error, "problem", None) or str(error))
        raise Refusal(path, line, f"is not YAML ({problem})", "correct the line") from None
    try:
        check_document(document)
    except Refusal as found:
        raise Refusal(path, found.field or "file", found.problem, found.remedy) from None
    return document
