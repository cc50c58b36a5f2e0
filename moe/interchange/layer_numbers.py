"""Numbers of layers as a user writes them."""

import re

_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_layers(text: str) -> tuple[int, ...]:
    """Read numbers and ranges, such as `0-2,5`.

    Args:
        text: Numbers from 0 on, and ranges with both ends, separated by commas.

    Returns:
        The numbers in ascending order.

    Raises:
        ValueError: The text is no such list.
    """
    found: set[int] = set()
    for part in text.split(","):
        matched = _RANGE.fullmatch(part.strip())
        if matched is None:
            raise ValueError(f"dense_layers: is not a list of layers ({text[:40]}); write it as 0 or 0-2,5")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if last < first:
            raise ValueError(f"dense_layers: the range {part.strip()} runs backwards; write the smaller number first")
        found.update(range(first, last + 1))
    return tuple(sorted(found))
