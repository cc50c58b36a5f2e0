"""The launcher's store before there are process groups: what the ranks of a start tell each other through it."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch.distributed as dist

from trainer.distributed.difference import node_place
from trainer.distributed.groups import Launch, early_store
from trainer.distributed.process.launcher import STAGE
from trainer.distributed.refusal import RanksMissing, StartRefused

ARRIVAL_S = 60.0
"""A rank waits so long for another that says nothing."""
LINGER_S = 10.0
"""Rank 0, with which the store may end, waits so long for the other nodes to hear why they are refused."""
PAUSE_S, MOST_PAUSE_S = 0.02, 0.25
"""Between two looks into the store."""
SILENT = "rank 0 does not answer; look at what node 0 wrote, and start all nodes again"
REFUSAL, HEARD = "start/refusal", "start/heard"
"""Why the start is refused, the same for all stages of it; how many nodes besides that of rank 0 have read it."""


class StartStore:
    """The store as one rank sees it, and which rank that is.

    `prefix` is of keys that belong to this stage of the run. `agreed`: all ranks have been compared; later errors
    concern no other rank.
    """

    def __init__(self, launch: Launch, connect: Callable[[], dist.Store] | None = None) -> None:
        self.launch = launch
        self.node = int(os.environ.get("GROUP_RANK", launch.rank // launch.local_world_size))
        self.nodes = int(os.environ.get("GROUP_WORLD_SIZE", launch.world_size // launch.local_world_size))
        self.prefix = f"start/{os.environ.get(STAGE, '')}"
        self.agreed = False
        self._connect = connect or partial(early_store, launch, timedelta(seconds=ARRIVAL_S))
        self._store: dist.Store | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the first rank of its node, which looks at the files of the node."""
        return self.launch.local_rank == 0

    @property
    def place(self) -> str:
        """Names its node for a person."""
        first = self.launch.rank - self.launch.local_rank
        return node_place(self.node, socket.gethostname(), range(first, first + self.launch.local_world_size))

    @property
    def store(self) -> dist.Store:
        """The store itself; kept until the end, for rank 0 may serve it. RanksMissing if rank 0 cannot be reached."""
        if self._store is None:
            try:
                self._store = self._connect()
            except dist.DistNetworkError as error:
                place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                problem = f"rank 0 cannot be reached at {place} within {ARRIVAL_S:g} s"
                raise RanksMissing(f"{problem}; look at what node 0 wrote, and start all nodes again") from error
        return self._store

    def reconnect(self) -> None:
        """Leaves a store that has ended, as that of a former stage does; the next look opens another."""
        self._store = None

    def seen(self, key: str) -> bytes | None:
        """What is under a key now; None: nothing."""
        return self.store.get(key) if self.store.check([key]) else None

    def read(self, key: str, until: float) -> bytes:
        """Another rank's value of a key, once it is written, or until `until` on the monotonic clock, in seconds.

        It looks again and again, for a store that is made to wait until a time prints a warning when that has come.

        Raises:
            StartRefused: the start has been refused meanwhile.
            RanksMissing: nothing has been written until then.
        """
        pause_s = PAUSE_S
        while (content := self.seen(key)) is None:
            refusal = self.seen(REFUSAL)
            if refusal is not None:
                self._hear()
                raise StartRefused(refusal.decode())
            if time.monotonic() > until:
                raise RanksMissing(SILENT)
            time.sleep(pause_s)
            pause_s = min(MOST_PAUSE_S, 1.5 * pause_s)
        if key == REFUSAL:
            self._hear()
        return content

    def refuse(self, line: str) -> None:
        """Tells all ranks why the start is refused, and stays until each other node has read it; rank 0 alone."""
        self.store.set(REFUSAL, line)
        until = time.monotonic() + LINGER_S
        while self.store.add(HEARD, 0) < self.nodes - 1 and time.monotonic() < until:
            time.sleep(PAUSE_S)

    def _hear(self) -> None:
        if self.leads and self.node > 0:
            self.store.add(HEARD, 1)
