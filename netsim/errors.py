"""How a scenario's wrong input is worded, and a run that ends at a limit."""

import errno
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from netsim.foundation.complaint import also_wrong, written
from netsim.foundation.refusal import Refusal, listed, nearest
from netsim.foundation.settings import kinds_of, sections_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class LimitError(Refusal):
    """A run has reached a limit of its own or the disk's. The input need not be wrong: it is a failure."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """While entered, an error that says that there is no space left is about `path`, which is being written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"cannot be written ({error.strerror})"
            raise LimitError(path, "output", problem, "make space there and give the same command again") from error
        raise


def first_refusal(
    error: ValidationError, file: str | Path, content: object, model: type[BaseModel], place: str = ""
) -> Refusal:
    """Turns pydantic's first finding into one line; `place` comes before the dotted path, such as ``line 7``."""
    findings = error.errors(include_url=False)
    paths = [_path(finding, content) for finding in findings]
    problem, remedy = _explain(findings[0], model)
    further = {
        path: finding["type"] == "missing"
        for path, finding in zip(paths, findings, strict=True)
        if paths[0][: len(path)] != path
    }
    if further:
        problem = f"{problem} ({also_wrong(further)})"
    field = ".".join(map(str, paths[0])) or "file"
    return Refusal(file, f"{place}: {field}" if place else field, problem, remedy)


def _path(finding: "ErrorDetails", content: object) -> tuple[int | str, ...]:
    if finding["type"] == "union_tag_invalid":
        key = finding.get("ctx", {})["discriminator"].strip("'")
        finding = {**finding, "loc": (*finding["loc"], key)}
    return written(finding, content)


def _explain(finding: "ErrorDetails", model: type[BaseModel]) -> tuple[str, str]:
    value, context = reprlib.repr(finding["input"]), finding.get("ctx", {})
    match finding["type"]:
        case "missing":
            return "is missing", "add it"
        case "extra_forbidden":
            *place, key = finding["loc"]
            fields = [field for section in sections_at(model, place) for field in section.model_fields.items()]
            near = nearest(key, (field.alias or name for name, field in fields))
            return (
                f"is not a known key ({value})",
                f"write {near}, or remove it" if near else "remove it or check its spelling",
            )
        case "value_error":
            problem, _, remedy = finding["msg"].removeprefix("Value error, ").partition("; ")
            return (f"{problem} ({value})" if isinstance(finding["input"], (str, int, float)) else problem), remedy
        case "union_tag_invalid":
            sections = sections_at(model, finding["loc"])
            kinds = list(dict.fromkeys(kind for section in sections for kind in kinds_of(section)))
            near = nearest(context["tag"], kinds)
            remedy = f"use {near}" if near else f"use one of {', '.join(kinds)}"
            return f"has a wrong value ({context['tag']!r})", remedy
        case "too_short" if "field_type" in context:
            return f"has {context['actual_length'] or 'no'} entries", f"give at least {context['min_length']}"
        case "literal_error":
            near = nearest(finding["input"], listed(context["expected"]))
        case _:
            near = None
    remedy = f"use {near}" if near else _plain(finding["msg"])
    return f"has a wrong value ({value})", remedy


def _plain(message: str) -> str:
    """What pydantic says of a value, without what a person need not know."""
    message = re.sub(r", unable to .*|, got .*| or instance of .*| or object to .*", "", message)
    message = re.sub(r"a valid (?=[aeiou])", "an ", message).replace("a valid ", "a ").replace("a tuple", "a list")
    return message.replace("Input should be", "it must be").replace("Input", "it")
