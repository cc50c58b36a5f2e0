"""Damage to the bytes of a file, whatever they mean, and to the words of a text."""

import random
import re

from tests.fuzz.oddities import odd_word

_WORD = re.compile(r"[^\s,:=>]+")
_ODD_BYTES = (
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\x1b[31m",
    b"\xe2\x80\xa8",
    b'"',
    b"{",
)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """A file that was cut off, or of which some bytes are others, missing or doubled."""
    at = rng.randrange(len(content) + 1)
    if rng.random() < 0.3:
        at = min(at, rng.randrange(128))
    end = min(len(content), at + rng.choice([1, 2, 8, 100]))
    match rng.randrange(9):
        case 0:
            return content[:at]
        case 1:
            return content[at:]
        case 2:
            return content[:at] + content[end:]
        case 3:
            return content[:end] + content[at:]
        case 4:
            return content[:at] + rng.choice(_ODD_BYTES) + content[at:]
        case 5:
            return content[:at] + bytes(end - at) + content[end:]
        case 6:
            return rng.choice(
                [
                    b"",
                    b"\n",
                    b"\x00",
                    b"\xff\xfe",
                    b"\xef\xbb\xbf" + content,
                    content.replace(b"\n", b"\r\n"),
                    content * 2,
                ]
            )
    changed = bytearray(content or b"\0")
    for _ in range(rng.choice([1, 1, 3, 20])):
        changed[rng.randrange(len(changed)) if rng.random() < 0.5 else min(at, len(changed) - 1)] ^= 1 << rng.randrange(
            8
        )
    return bytes(changed)


def damaged_words(content: bytes, rng: random.Random) -> bytes:
    """A text of which words are others, or lines are missing, doubled, moved or torn."""
    text = content.decode("utf-8")
    lines = text.split("\n")
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                lines.insert(at, lines[at])
            case 1 if len(lines) > 1:
                del lines[at]
            case 2:
                lines.insert(rng.randrange(len(lines)), lines.pop(at))
            case 3:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + rng.choice(["", " ", ",", "\n", "\t", '"', "#", ";"]) + lines[at][cut:]
            case _:
                words = list(_WORD.finditer(lines[at]))
                if words:
                    word = rng.choice(words)
                    new = rng.choice(words).group() if rng.random() < 0.2 else odd_word(rng)
                    lines[at] = lines[at][: word.start()] + new + lines[at][word.end() :]
    return "\n".join(lines).encode("utf-8", "surrogatepass")
