"""Uneven all-to-alls: how many bytes each rank sends to each."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from netsim.documents import Section, read_lines, whole_number
from netsim.draws import Draws, Purpose
from netsim.foundation.refusal import Refusal

Matrix = tuple[tuple[int, ...], ...]


class ZipfSplits(Section, frozen=True):
    """Section ``splits`` of kind ``zipf``: every rank favours the same ranks, as tokens favour popular experts.

    The k-th most popular rank gets a share of each buffer in proportion to k**-exponent.

    Args:
        exponent: Skew of the popularity; 0 is even.
        seed: Seed of the order of popularity; the same in every run of the scenario.
    """

    kind: Literal["zipf"]
    exponent: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0


class MatrixSplits(Section, frozen=True):
    """Section ``splits`` of kind ``matrix``.

    Args:
        path: A file without a header line, relative to the working directory: line i holds the bytes that rank i sends
            to each rank, itself included, separated by commas.
    """

    kind: Literal["matrix"]
    path: str


Splits = Annotated[ZipfSplits | MatrixSplits, Field(discriminator="kind")]


def zipf_matrix(splits: ZipfSplits, size: int, bytes_per_rank: int) -> Matrix:
    """Bytes from row to column. Rows sum to `bytes_per_rank`; entries are their exact share to within a byte."""
    draws = Draws(splits.seed, Purpose.SPLITS)
    popular = sorted(range(size), key=lambda rank: (draws(rank), rank))
    exponent = -Decimal(str(splits.exponent))
    weights = [int(10**40 * Decimal(place) ** exponent) for place in range(1, size + 1)]
    whole = sum(weights)
    shares = [bytes_per_rank * weight // whole for weight in weights]
    largest_remainder = sorted(range(size), key=lambda place: (-(bytes_per_rank * weights[place] % whole), place))
    for place in largest_remainder[: bytes_per_rank - sum(shares)]:
        shares[place] += 1
    row = [0] * size
    for rank, share in zip(popular, shares, strict=True):
        row[rank] = share
    return (tuple(row),) * size


def read_matrix(path: Path) -> Matrix:
    """Reads the file of a `MatrixSplits`."""
    lines = read_lines(path, "a file of as many lines as ranks, as many numbers in each")
    while not lines[-1].strip():
        lines.pop()
    matrix = tuple(_row(path, number, line.split(","), len(lines)) for number, line in enumerate(lines, start=1))
    if not any(size_bytes for i, row in enumerate(matrix) for j, size_bytes in enumerate(row) if i != j):
        raise Refusal(path, "file", "no rank sends anything to another", "write the bytes from each rank to each")
    return matrix


def _row(path: Path, number: int, cells: list[str], size: int) -> tuple[int, ...]:
    if len(cells) != size:
        problem = f"has {len(cells)} columns in a file of {size} lines"
        raise Refusal(path, f"line {number}", problem, "write as many lines as ranks, as many numbers in each")
    columns = enumerate(cells, start=1)
    return tuple(whole_number(path, f"line {number}: column {column}", cell.strip()) for column, cell in columns)
