"""Rendezvous of the nodes of a run before torchrun: node 0 checks who comes, and says who is absent or has left.

One line of JSON is one message. A node says once what it is; from then on it answers pings, and says with which code it
leaves. A node keeps its number as long as its connection; after that, another start may take the number.
"""

import errno
import json
import selectors
import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json

LONGEST_LINE = 4096
"""Bytes of a message; who sends more is cut off."""
SILENCE_S = 10.0
"""Time for a new connection to name its node; then it is closed."""
MOST_STRANGERS = 256
"""Most open connections that have not named their node yet; further ones are closed and have to connect again."""
PONG_S = 3.0
"""Time for a node to answer a ping before its number is given to another."""
PROBES = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""A machine that has lost its power is noticed after 20 s."""
ENDS_ALL = frozenset({2, 75, 130, 140, 143})
"""Codes of a node that mean the end of all: wrong input, stopped."""
_REMEDY = "start every node with docker/launch.sh of one version"


class Refused(Exception):  # noqa: N818  the input is refused
    """This node cannot be part of the run; the text says which option is wrong and how to mend it."""


@dataclass(frozen=True)
class Member:
    """A node's message about itself."""

    node: int
    nodes: int
    ranks_per_node: int
    run_id: str
    host: str
    pid: int


_MEMBER = TypeAdapter(Member)


@dataclass
class _Guest:
    """A connection to a node; `member` is None until the node introduces itself, which must be before `until`."""

    connection: socket.socket
    until: float
    member: Member | None = None
    unread: bytes = b""


@dataclass
class _Rival:
    """A connection that claims the number of a present node; that node keeps it if it answers before `until`."""

    guest: _Guest
    member: Member
    until: float


@dataclass
class Host:
    """Node 0's side: a thread that serves the others on one address until it is closed.

    `store_port` is of the store through which the agents of torchrun find each other.
    """

    own: Member
    store_port: int
    listening: socket.socket
    _present: dict[int, _Guest] = field(default_factory=dict)
    _changed: bool = False
    _strangers: list[_Guest] = field(default_factory=list)
    _rivals: list[_Rival] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _over: threading.Event = field(default_factory=threading.Event)
    _closed: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begins to serve."""
        self._selector.register(self.listening, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="rendezvous", daemon=True)
        self._thread.start()

    def linger(self, patience_s: float) -> None:
        """Accepts no more nodes, and waits at most `patience_s` until all connections are closed."""
        self._over.set()
        until = time.monotonic() + patience_s
        while self._present and time.monotonic() < until:
            time.sleep(0.05)

    def close(self) -> None:
        """Stops serving and closes all connections."""
        self._closed.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # pyright: ignore[reportAttributeAccessIssue]  all of them are sockets
        self._selector.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(0.2):
                if key.data is None:
                    self._welcome()
                else:
                    self._hear(key.data)
            now = time.monotonic()
            for stranger in [stranger for stranger in self._strangers if now >= stranger.until]:
                self._refuse(stranger, f"message: none has come within {SILENCE_S:g} s; {_REMEDY}")
            for rival in [rival for rival in self._rivals if now >= rival.until]:
                self._rivals.remove(rival)
                old = self._present.get(rival.member.node)
                if old is not None:
                    self._lose(old)
                self._admit(rival.guest, rival.member)
            while self._changed:  # who cannot be reached any more is lost, and the others are informed again
                self._changed = False
                self._report()

    def _welcome(self) -> None:
        try:
            connection, _ = self.listening.accept()
        except OSError:  # it is gone again, or this process has no more files to open
            self._closed.wait(0.1)
            return
        if self._over.is_set() or len(self._strangers) >= MOST_STRANGERS:  # who comes now belongs to the next start
            connection.close()
            return
        guest = _Guest(connection, time.monotonic() + SILENCE_S)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, guest)
        self._strangers.append(guest)
        try:
            keep_alive(connection)
        except OSError:
            self._lose(guest)

    def _hear(self, guest: _Guest) -> None:
        try:
            heard = guest.connection.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:
            self._lose(guest)
            return
        *lines, guest.unread = (guest.unread + heard).split(b"\n")
        for line in lines:
            if guest.connection.fileno() == -1:  # refused for an earlier line
                return
            try:
                self._answer(guest, line)
            except Exception:  # whatever a program that is no node leads to
                self._refuse(guest, f"message: is not one that a node sends; {_REMEDY}")
        if len(guest.unread) > LONGEST_LINE:
            self._refuse(guest, f"message: is longer than {LONGEST_LINE} bytes; {_REMEDY}")

    def _answer(self, guest: _Guest, line: bytes) -> None:
        message = from_json(line)
        if guest.member is None:
            if any(rival.guest is guest for rival in self._rivals):
                raise ValueError("has said which node it is, and has to wait for the answer")
            self._meet(guest, _MEMBER.validate_json(line, strict=True))
        elif "leaves" in message:
            if message["leaves"] in ENDS_ALL:
                why = "".join(letter for letter in str(message["line"]) if letter.isprintable())
                said = {"node": guest.member.node, "code": int(message["leaves"]), "line": why}
                for other in list(self._present.values()):
                    if other is not guest:
                        self._send(other, {"left": said})
            self._send(guest, {"goodbye": True})
        elif "pong" in message:
            for rival in [rival for rival in self._rivals if rival.member.node == guest.member.node]:
                self._rivals.remove(rival)
                self._refuse(
                    rival.guest,
                    f"--node-rank: node {guest.member.node} is here already (process {guest.member.pid} on "
                    f"{guest.member.host}); give each node a number of its own, and start it once",
                )

    def _meet(self, guest: _Guest, member: Member) -> None:
        for name in ("run_id", "nodes", "ranks_per_node"):
            theirs, own = getattr(member, name), getattr(self.own, name)
            if theirs != own:
                option = f"--{name.replace('_', '-')}"
                self._refuse(guest, f"{option}: {theirs} here, but {own} on node 0; give all nodes the same")
                return
        if member.node not in range(self.own.nodes):
            self._refuse(guest, f"--node-rank: {member.node} is not one of 0 to {self.own.nodes - 1}; correct it")
            return
        self._known(guest)
        old = self._present.get(member.node)
        if old is None:
            self._admit(guest, member)
        else:
            self._rivals.append(_Rival(guest, member, time.monotonic() + PONG_S))
            self._send(old, {"ping": True})

    def _admit(self, guest: _Guest, member: Member) -> None:
        guest.member = member
        self._present[member.node] = guest
        self._changed = True

    def _known(self, guest: _Guest) -> None:
        """Stops waiting for a connection to introduce itself."""
        self._strangers = [stranger for stranger in self._strangers if stranger is not guest]

    def _refuse(self, guest: _Guest, line: str) -> None:
        self._send(guest, {"refused": line})
        self._lose(guest)

    def _lose(self, guest: _Guest) -> None:
        if guest.connection.fileno() == -1:
            return
        self._selector.unregister(guest.connection)
        guest.connection.close()
        self._known(guest)
        self._rivals = [rival for rival in self._rivals if rival.guest is not guest]
        if guest.member is not None and self._present.get(guest.member.node) is guest:
            del self._present[guest.member.node]
            self._changed = True

    def _report(self) -> None:
        """Sends all nodes the numbers of the absent nodes and the port of the store."""
        absent = sorted(set(range(self.own.nodes)) - self._present.keys())
        for guest in list(self._present.values()):
            self._send(guest, {"absent": absent, "store_port": self.store_port})

    def _send(self, guest: _Guest, message: dict[str, Any]) -> None:
        try:
            guest.connection.send(json.dumps(message).encode() + b"\n")
        except OSError:
            self._lose(guest)


def hosted(own: Member, master: str, port: int, store: socket.socket) -> Host:
    """Begins to serve the nodes of a run, on one address of this machine; `store` listens for the agents' store.

    Raises:
        Refused: the address or the port is not available.
    """
    try:
        listening = listener(master, port)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise Refused(
                f"--master: {master} is not an address of this machine, and node 0 must be at it; give the address of "
                "node 0 to all nodes, or another --node-rank to this one"
            ) from None
        if error.errno == errno.EADDRINUSE:
            raise Refused(_occupied(own, master, port)) from None
        raise Refused(
            f"--master-port: {port} on {master} cannot be used ({error.strerror}); give all nodes another"
        ) from None
    host = Host(own, store.getsockname()[1], listening)
    host.start()
    return host


def listener(address: str, port: int) -> socket.socket:
    """A socket that others can connect to, at one address and at no other; port 0 is any free one. Raises OSError."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening


def keep_alive(connection: socket.socket) -> None:
    """Makes the system notice that the other end has vanished."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in PROBES:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _occupied(own: Member, master: str, port: int) -> str:
    """Returns why a port cannot be used, by asking the program that has it whether it is a run like this one."""
    taken = f"--master-port: {port} on {master} is in use by another program; give all nodes another"
    try:
        with socket.create_connection((master, port), timeout=2.0) as connection:
            connection.settimeout(PONG_S + 2.0)
            connection.sendall(json.dumps(asdict(own)).encode() + b"\n")
            answer = from_json(connection.makefile("rb").readline(LONGEST_LINE))
            refused = str(answer["refused"])
    except (OSError, ValueError, KeyError, TypeError):
        return taken
    if refused.startswith("--run-id"):
        return f"--master-port: {port} on {master} is in use by another run; give all nodes of this one another"
    return refused
