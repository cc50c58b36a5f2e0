"""A workload of one collective, even or not, for which all ranks are ready at the same time."""

from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from netsim.collective.columns import message_columns
from netsim.collective.protocol import Operation
from netsim.draws import Draws, Purpose
from netsim.foundation.lines import read_lines, whole_number
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from netsim.foundation.units import Size, split_bytes
from netsim.workload.program import Program, Span
from netsim.workload.protocol import Schedules, WorkloadSection

Matrix = tuple[tuple[int, ...], ...]


class ZipfSplits(Section):
    """Section ``splits`` of kind ``zipf``: every rank favours the same ranks, as tokens favour popular experts.

    The k-th most popular rank gets a share of each buffer in proportion to k**-exponent.

    Args:
        exponent: Skew of the ranks' popularity; 0: all ranks get equal shares.
        seed: Seed of the order of popularity; the same in every run of the scenario.
    """

    kind: Literal["zipf"]
    exponent: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0


class MatrixSplits(Section):
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


Collective = Literal["all_to_all", "all_reduce", "all_gather", "reduce_scatter", "broadcast", "send"]


class CollectiveConfig(WorkloadSection):
    """Section ``workload`` of kind ``collective``.

    Args:
        op: Collective to simulate; send: one message from the first rank to the second.
        splits: Bytes that each rank sends to each rank in an all_to_all; null: equal shares.
        bytes_per_rank: Size of a rank's input buffer, its own block included: 4.096MB for an all_to_all of 64 ranks is
            64 kB to each. broadcast and send: the buffer of the root, which is the first rank. Omit it with a matrix of
            splits.
    """

    kind: Literal["collective"]
    op: Collective
    splits: Splits | None = None
    bytes_per_rank: Annotated[Size, Field(gt=0)] | None = Field(default=None, validate_default=True)

    @field_validator("splits")
    @classmethod
    def _splits_belong_to_all_to_all(cls, splits: Splits | None, info: ValidationInfo) -> Splits | None:
        op = info.data.get("op", "all_to_all")
        if splits is not None and op != "all_to_all":
            raise ValueError(f"{op} has no splits; remove them or choose op: all_to_all")
        return splits

    @field_validator("bytes_per_rank")
    @classmethod
    def _said_once(cls, bytes_per_rank: int | None, info: ValidationInfo) -> int | None:
        if isinstance(info.data.get("splits"), MatrixSplits):
            if bytes_per_rank is not None:
                raise ValueError("the matrix of splits says already how much moves; remove it")
        elif bytes_per_rank is None:
            raise PydanticKnownError("missing")
        return bytes_per_rank


def operation(op: Collective, size: int, bytes_per_rank: int) -> Operation:
    """The operation of `size` participants whose input buffers hold `bytes_per_rank` each, splits being even."""
    cut = tuple(split_bytes(bytes_per_rank, size))
    match op:
        case "all_to_all":
            return Operation(op, size, matrix=(cut,) * size)
        case "all_reduce" | "reduce_scatter":
            return Operation(op, size, blocks=cut)
        case "all_gather":
            return Operation(op, size, blocks=(bytes_per_rank,) * size)
        case "broadcast" | "send":
            return Operation(op, size, blocks=(bytes_per_rank,))


class CollectiveWorkload:
    """The workload of a `CollectiveConfig`."""

    def __init__(self, config: CollectiveConfig) -> None:
        self.notices: list[str] = []
        self._config = config

    @cached_property
    def _matrix(self) -> Matrix:
        """The content of the file of a matrix of splits; empty without one."""
        splits = self._config.splits
        return read_matrix(Path(splits.path)) if isinstance(splits, MatrixSplits) else ()

    def size(self, available: int) -> int:
        """All ranks; send: two; a matrix: as many as it has lines."""
        return 2 if self._config.op == "send" else len(self._matrix) or available

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        come = [program.wait(ranks[0], (), start_ps)] * len(ranks) if start_ps else []
        messages = message_columns(schedules(self._operation(len(ranks)), ranks))
        over = program.carry_out(messages, ranks, come)
        program.spans.append(Span(self._config.op, None, len(ranks), None, None, None, messages.payload, come, over))

    def _operation(self, size: int) -> Operation:
        op, splits, bytes_per_rank = self._config.op, self._config.splits, self._config.bytes_per_rank
        if bytes_per_rank is None:
            return Operation(op, size, matrix=self._matrix)
        if splits is None or isinstance(splits, MatrixSplits):
            return operation(op, size, bytes_per_rank)
        return Operation(op, size, matrix=zipf_matrix(splits, size, bytes_per_rank))
