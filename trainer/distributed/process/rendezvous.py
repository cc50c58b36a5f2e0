"""A node's side of the rendezvous of nodes."""

import json
import os
import select
import socket
import sys
import time
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic_core import from_json

from trainer.distributed.process.rendezvous_host import LONGEST_LINE, Member, Refused, keep_alive

LONGEST_ANSWER = 1 << 20
"""Bytes of a message of node 0, which lists absent nodes."""
PAUSE_S = 0.5
"""Interval between attempts to reach node 0."""
REMIND_S = 30.0
"""Interval between messages that name the nodes for which this node waits."""
PATIENCE_S = 600.0
"""Time for all nodes to arrive, the same as in torchrun's own rendezvous."""


class Left(NamedTuple):
    """A node that has left, and with it the run: its exit code, and why."""

    node: int
    code: int
    line: str


class NotMet(Exception):  # noqa: N818  nobody is to blame
    """Not all nodes have come; the text says which."""


class Rendezvous:
    """This node's side of the rendezvous; once any node has left, the run has ended."""

    def __init__(self, own: Member, master: str, port: int, remind_s: float = REMIND_S) -> None:
        """Does not connect yet; `master` and `port` are the address of the host, node 0."""
        self.absent: list[int] = [0]
        self.left: Left | None = None
        self.store_port = 0
        self._own, self._master, self._port, self._remind_s = own, master, port, remind_s
        self._connection: socket.socket | None = None
        self._unread, self._goodbye, self._reminded = b"", False, time.monotonic()

    def meet(self, patience_s: float = PATIENCE_S) -> None:
        """Waits until all nodes are there.

        Raises:
            Refused: node 0 does not take this node.
            NotMet: not all have come in `patience_s`.
        """
        until = time.monotonic() + patience_s
        while self.absent and self.left is None:
            if time.monotonic() > until:
                raise NotMet(f"node {self._own.node} has waited {patience_s:g} s in vain for {self._missing()}")
            if self._connection is None:
                self._connect()
            self.hear(PAUSE_S)
            self.remind()

    def hear(self, wait_s: float) -> None:
        """Reads what node 0 sends within `wait_s`; raises Refused if it does not take this node."""
        if self._connection is None:
            time.sleep(wait_s)
            return
        ready, _, _ = select.select([self._connection], [], [], wait_s)
        if not ready:
            return
        try:
            heard = self._connection.recv(LONGEST_LINE)
        except OSError:
            heard = b""
        if not heard:
            self.hang_up()
            self.absent = [0]
            time.sleep(min(wait_s, PAUSE_S))
            return
        *lines, self._unread = (self._unread + heard).split(b"\n")
        try:
            for line in lines:
                self._take(from_json(line))
            if len(self._unread) > LONGEST_ANSWER:
                raise ValueError("is too long")
        except (ValueError, TypeError) as error:
            self.hang_up()
            raise Refused(
                f"--master-port: what answers at {self._master}:{self._port} is not node 0 of a run; give the port of "
                "its launch.sh"
            ) from error

    def remind(self) -> None:
        """Prints which nodes are missing, if any, unless the last reminder is recent."""
        if not self.absent:
            self._reminded = time.monotonic()
        elif time.monotonic() >= self._reminded + self._remind_s:
            self._reminded = time.monotonic()
            print(f"launch.sh: node {self._own.node} waits for {self._missing()}", file=sys.stderr, flush=True)

    def leave(self, code: int, line: str) -> None:
        """Tells the others how this node has ended."""
        if self._connection is None:
            return
        self._send({"leaves": code, "line": line[: LONGEST_LINE // 2]})
        until = time.monotonic() + 2.0
        while self._connection is not None and not self._goodbye and time.monotonic() < until:
            self.hear(0.1)
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the connection without a message."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._unread = None, b""

    def _connect(self) -> None:
        try:
            connection = socket.create_connection((self._master, self._port), timeout=5.0)
        except OSError:
            return
        if connection.getsockname() == connection.getpeername():  # the system may connect a free port to itself
            connection.close()
            return
        keep_alive(connection)
        self._connection = connection
        self._send(asdict(self._own))

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"refused": str(line)}:
                self.hang_up()
                raise Refused(line)
            case {"ping": _}:
                self._send({"pong": True})
            case {"absent": list(absent), "store_port": int(port)} if all(isinstance(node, int) for node in absent):
                self.absent, self.store_port = absent, port
            case {"left": {"node": int(node), "code": int(code), "line": str(line)}}:
                self.left = self.left or Left(node, code, line)
            case {"goodbye": _}:
                self._goodbye = True
            case _:
                raise ValueError("is no message of node 0")

    def _send(self, message: dict[str, Any]) -> None:
        assert self._connection is not None
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.hang_up()

    def _missing(self) -> str:
        nodes = f"{'node' if len(self.absent) == 1 else 'nodes'} {_listed(self.absent)} of {self._own.nodes}"
        return nodes if self._connection is not None else f"{nodes}, at {self._master}:{self._port}"


def this_node(node: int, nodes: int, ranks_per_node: int, run_id: str) -> Member:
    """Returns this node's message: its number, run id, host name, process id, numbers of nodes and ranks."""
    return Member(node, nodes, ranks_per_node, run_id, socket.gethostname(), os.getpid())


def _listed(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last
