"""Readers for text files of other tools, line by line, with one-line errors."""

import re
from pathlib import Path

from netsim.foundation.refusal import Refusal

MOST = 2**62
"""Numbers in files stay below this, so that sums of bytes and of picoseconds keep to 64 bits."""

_WHOLE = re.compile(r"[0-9]{1,19}")


def read_lines(path: Path, content: str) -> list[str]:
    """The lines of a text file in UTF-8, without their ends; messages call it `content`."""
    remedy = f"give {content}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError:
        raise Refusal(path, "file", "is not text", remedy) from None
    if "\0" in text:
        raise Refusal(path, "file", "is not text", remedy)
    if not text.strip():
        raise Refusal(path, "file", "is empty", remedy)
    return [line.removesuffix("\r") for line in text.split("\n")]


def whole_number(path: Path, field: str, text: str, least: int = 0) -> int:
    """A decimal integer in [least, 2**62); messages name line and column by `field`."""
    if not _WHOLE.fullmatch(text) or not least <= int(text) < MOST:
        raise Refusal(
            path, field, f"is not a whole number ({text!r:.40})", f"write digits, from {least} to below 2**62"
        )
    return int(text)
