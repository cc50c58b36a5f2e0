"""Dependencies between messages: each waits for the data it carries, and for nothing else."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from netsim.collective.protocol import Message


class Schedule:
    """Messages in the order of a program: each waits for all earlier ones that brought its sender one of its blocks."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self.messages: list[Message] = []
        self._blocks = blocks
        self._brought: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))

    def send(self, src: int, dst: int, blocks: tuple[int, ...]) -> None:
        """Adds a message that carries `blocks` from `src` to `dst`."""
        message, come = len(self.messages), self._brought[src]
        after = {earlier for block in blocks if block in come for earlier in come[block]}
        size_bytes = sum(map(self._blocks.__getitem__, blocks))
        self.messages.append(Message(message, src, dst, size_bytes, blocks, tuple(sorted(after))))
        brought = self._brought[dst]
        for block in blocks:
            brought[block].append(message)


def in_rounds(rounds: Iterable[Sequence[tuple[int, int]]], blocks: Sequence[int]) -> list[Message]:
    """Messages (sender, receiver) with every block: each waits for those that its sender received in earlier rounds."""
    messages: list[Message] = []
    size_bytes, everything = sum(blocks), tuple(range(len(blocks)))
    heard: dict[int, tuple[int, ...]] = {}
    for pairs in rounds:
        before = heard.copy()
        for src, dst in pairs:
            heard[dst] = (*heard.get(dst, ()), len(messages))
            messages.append(Message(len(messages), src, dst, size_bytes, everything, before.get(src, ())))
    return messages
