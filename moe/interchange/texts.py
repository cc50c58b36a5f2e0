"""Texts of a user: one a line, or JSON lines with a field `text`."""

from pathlib import Path

from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal


def read_texts(path: Path) -> list[str]:
    """Read the texts of a file, by its name: `.jsonl` as JSON lines, any other as lines of text.

    Args:
        path: The file, in UTF-8. Blank lines are skipped.

    Returns:
        At least one text.

    Raises:
        Refusal: The file cannot be read, has no texts, or a line of JSON has no `text`.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror or error})", "check the path") from error
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", f"is not UTF-8 text ({error.reason})", "convert it to UTF-8") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix == ".jsonl":
        numbered = [(number, _text_of(path, number, line)) for number, line in numbered]
    texts = [text for _, text in numbered if text.strip()]
    if not texts:
        raise Refusal(path, "file", "contains no texts", "write one text a line")
    return texts


def _text_of(path: Path, number: int, line: str) -> str:
    remedy = 'write lines such as {"text": "..."}'
    try:
        document = parse_json(line)
    except ValueError as error:
        raise Refusal(path, f"line {number}", f"is not JSON ({error})", remedy) from error
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise Refusal(path, f"line {number}: text", f"is not text ({line[:40]})", remedy)
    return text
