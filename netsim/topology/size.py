"""How large a fabric may be: what would not fit into memory is refused before it is built."""

from typing import Annotated

from pydantic import Field

MOST_LINKS = 4_000_000
RanksPerHost = Annotated[int, Field(gt=0, le=1_024)]


def refuse_too_many(links: int) -> None:
    """Checks a number of directed links."""
    if links > MOST_LINKS:
        raise ValueError(f"these are {links:,} links; take a smaller fabric, {MOST_LINKS:,} are possible")
