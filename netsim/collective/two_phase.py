"""All-to-all on a grid: first along the rows, then along the columns, in few and large messages."""

from collections.abc import Sequence
from math import isqrt

from netsim.collective.protocol import Message, Operation


def all_to_all(operation: Operation) -> list[Message]:
    """Rows of neighbours, as near to a square as the size allows; a prime size has one row: direct."""
    size = operation.size
    rows = next(number for number in range(isqrt(size), 0, -1) if size % number == 0)
    width = size // rows
    return along_rows_and_columns(operation, [range(row * width, (row + 1) * width) for row in range(rows)])


def along_rows_and_columns(operation: Operation, rows: Sequence[Sequence[int]]) -> list[Message]:
    """Each participant sends the blocks for a column to the member of its row in that column, which forwards them.

    In R rows of C each participant sends C - 1 messages of R blocks, then, having received those of its row, R - 1 of C
    blocks.
    """
    columns = list(zip(*rows, strict=True))
    matrix = operation.matrix
    messages: list[Message] = []
    come: list[list[int]] = [[] for _ in range(operation.size)]
    for row in rows:
        for i in row:
            for j, column in zip(row, columns, strict=True):
                if i != j:
                    come[j].append(len(messages))
                    size_bytes = sum(matrix[i][end] for end in column)
                    messages.append(Message(len(messages), i, j, size_bytes, column, ()))
    for row in rows:
        for j, column in zip(row, columns, strict=True):
            ready: tuple[int, ...] = ()
            if come[j] and len(column) > 1:
                ready = (len(messages),)
                messages.append(Message(len(messages), j, j, 0, (), tuple(come[j])))
            for end in column:
                if end != j:
                    size_bytes = sum(matrix[i][end] for i in row)
                    messages.append(Message(len(messages), j, end, size_bytes, (end,), ready))
    return messages
