"""Traffic on a fabric of namespaces: TCP streams or planned UDP packets, all of which start at one instant.

Each host runs this module as a program of its own. It reads orders as lines of JSON from its standard input and
answers each with a line: what to do, to connect, and the common start on the machine's monotonic clock.
"""

import json
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE
from threading import Thread
from typing import Any, NamedTuple

from tests.multinode.namespaces import Fabric

TCP_PAYLOAD, TCP_HEADERS = 1448, 66
UDP_PAYLOAD, UDP_HEADERS = 1472, 42
"""Payload and headers of a full Ethernet frame of 1,514 bytes, TCP with timestamps; bytes."""

_PORT, _DISCARD_PORT = 5000, 9
_RECEIVE_BUFFER_BYTES = 256 * 2**20
_SECONDS_TO_START = 0.3
_SECONDS_WITHOUT_PACKET = 1.0
_SECONDS_AT_MOST = 60.0
_SO_RCVBUFFORCE = 33
_TCP_INFO_TOTAL_RETRANS = struct.Struct("=100xI")


class Stream(NamedTuple):
    """A TCP connection that carries bytes one way.

    Args:
        src: Host that sends.
        dst: Host that receives.
        bytes: Payload.
        spine: Spine it passes, None for the hash's choice or within a leaf.
        acknowledgements: Spine that its acknowledgements pass, None likewise.
    """

    src: int
    dst: int
    bytes: int
    spine: int | None = None
    acknowledgements: int | None = None


class Target(NamedTuple):
    """Where a packet goes: a host, through a spine; None within a leaf."""

    dst: int
    spine: int | None = None


class Measurement(NamedTuple):
    """What a run was.

    Args:
        completion_s: From the common start until a receiver got the last byte, seconds.
        late_s: Delay of the last sender's start behind the common one, seconds.
        lost: Packets that did not arrive (UDP) or were sent again (TCP).
    """

    completion_s: float
    late_s: float
    lost: int


def run_tcp(fabric: Fabric, streams: Sequence[Stream], congestion_control: str = "cubic") -> Measurement:
    """Sends all streams at once.

    Args:
        fabric: Where.
        streams: What.
        congestion_control: Algorithm of the senders.
    """
    orders = [
        {
            "protocol": "tcp",
            "congestion_control": congestion_control,
            "receive": sum(stream.dst == host for stream in streams),
            "send": [
                (fabric.address(s.src, s.acknowledgements), fabric.address(s.dst, s.spine), s.bytes)
                for s in streams
                if s.src == host
            ],
        }
        for host in range(fabric.hosts)
    ]
    return _run(fabric, orders)


def run_udp(fabric: Fabric, packets: Sequence[Sequence[Target]]) -> Measurement:
    """Sends full packets, each host its own in order and as fast as its link takes them.

    Args:
        fabric: Where.
        packets: For each host its packets.
    """
    orders = [
        {
            "protocol": "udp",
            "receive": sum(target.dst == host for targets in packets for target in targets),
            "send": [fabric.address(*target) for target in packets[host]],
        }
        for host in range(fabric.hosts)
    ]
    return _run(fabric, orders)


def _run(fabric: Fabric, orders: Sequence[dict[str, Any]]) -> Measurement:
    program = [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.multinode.traffic"]
    root = Path(__file__).parents[2]
    with ExitStack() as stack:
        workers = []
        for host in range(fabric.hosts):
            worker = stack.enter_context(fabric.start(host, program, stdin=PIPE, stdout=PIPE, cwd=root))
            stack.callback(worker.kill)
            workers.append(worker)

        def tell(lines: Sequence[object]) -> list[Any]:
            for worker, line in zip(workers, lines, strict=True):
                print(json.dumps(line), file=worker.stdin, flush=True)
            answers = [worker.stdout.readline() for worker in workers]
            if not all(answers):
                raise RuntimeError(f"the program on host {answers.index('')} has ended; its own message is above")
            return [json.loads(answer) for answer in answers]

        tell(orders)
        tell(["connect"] * len(workers))
        start = time.monotonic() + _SECONDS_TO_START
        answers = tell([start] * len(workers))
    return Measurement(
        completion_s=max(answer["last"] for answer in answers) - start,
        late_s=max(answer["began"] for answer in answers) - start,
        lost=sum(answer["lost"] for answer in answers),
    )


class _TcpHost:
    """A host's streams."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._listening = socket.create_server(("0.0.0.0", _PORT), backlog=256)
        self._last = self._began = 0.0
        self._lost = 0

    def connect(self) -> None:
        """Connects to all receivers, whose programs are listening by now, and is connected to by all senders."""
        self._outgoing = [(self._connected(src, dst), size) for src, dst, size in self._order["send"]]
        self._incoming = [self._listening.accept()[0] for _ in range(self._order["receive"])]

    def run(self, start: float) -> dict[str, float]:
        """Sends and receives everything."""
        threads = [Thread(target=self._receive, args=(incoming,)) for incoming in self._incoming]
        threads += [Thread(target=self._send, args=(*outgoing, start)) for outgoing in self._outgoing]
        _run_all(threads)
        return {"last": self._last, "began": self._began, "lost": self._lost}

    def _connected(self, src: str, dst: str) -> socket.socket:
        outgoing = socket.socket()
        name = self._order["congestion_control"].encode()
        outgoing.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
        outgoing.bind((src, 0))
        outgoing.connect((dst, _PORT))
        return outgoing

    def _send(self, outgoing: socket.socket, size: int, start: float) -> None:
        payload = bytes(size)
        time.sleep(max(0.0, start - time.monotonic()))
        self._began = max(self._began, time.monotonic())
        with closing(outgoing):
            outgoing.sendall(payload)
            outgoing.shutdown(socket.SHUT_WR)
            outgoing.recv(1)
            info = outgoing.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_TOTAL_RETRANS.size)
        self._lost += _TCP_INFO_TOTAL_RETRANS.unpack(info)[0]

    def _receive(self, incoming: socket.socket) -> None:
        into = bytearray(2**16)
        with closing(incoming):
            while incoming.recv_into(into):
                pass
            self._last = max(self._last, time.monotonic())


class _UdpHost:
    """A host's packets."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self._socket.bind(("0.0.0.0", _PORT))
        self._last = self._began = 0.0
        self._missing = order["receive"]

    def connect(self) -> None:
        """Lets every link on the way learn its neighbour, so that no packet has to wait for that."""
        with socket.socket(type=socket.SOCK_DGRAM) as outgoing:
            for address in set(self._order["send"]):
                outgoing.sendto(b"", (address, _DISCARD_PORT))

    def run(self, start: float) -> dict[str, float]:
        """Sends and receives everything, or gives up when nothing arrives any more."""
        _run_all([Thread(target=self._receive, args=(start,)), Thread(target=self._send, args=(start,))])
        return {"last": self._last, "began": self._began, "lost": self._missing}

    def _send(self, start: float) -> None:
        payload = bytes(UDP_PAYLOAD)
        targets = [(address, _PORT) for address in self._order["send"]]
        with socket.socket(type=socket.SOCK_DGRAM) as outgoing:
            time.sleep(max(0.0, start - time.monotonic()))
            self._began = time.monotonic()
            for target in targets:
                outgoing.sendto(payload, target)

    def _receive(self, start: float) -> None:
        into = bytearray(UDP_PAYLOAD)
        self._socket.settimeout(max(0.0, start - time.monotonic()) + _SECONDS_WITHOUT_PACKET)
        try:
            while self._missing:
                self._socket.recv_into(into)
                self._missing -= 1
                self._last = time.monotonic()
        except TimeoutError:
            return


def _run_all(threads: Sequence[Thread]) -> None:
    for thread in threads:
        thread.daemon = True
        thread.start()
    for thread in threads:
        thread.join(_SECONDS_AT_MOST)


def _serve() -> None:
    """Follows the orders."""

    def order() -> Any:
        return json.loads(sys.stdin.readline())

    def answer(value: object) -> None:
        print(json.dumps(value), flush=True)

    first = order()
    host = {"tcp": _TcpHost, "udp": _UdpHost}[first["protocol"]](first)
    answer("listening")
    order()
    host.connect()
    answer("connected")
    answer(host.run(order()))


if __name__ == "__main__":
    _serve()
