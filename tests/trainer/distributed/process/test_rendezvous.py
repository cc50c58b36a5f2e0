"""The meeting of the nodes of a run: who is taken, who is refused, and who is told what."""

import itertools
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pytest

from trainer.distributed.process import rendezvous_host
from trainer.distributed.process.rendezvous import NotMet, Rendezvous, this_node
from trainer.distributed.process.rendezvous_host import Host, Member, Refused, hosted, listener

SELF = "127.0.0.1"


class Room:
    """A meeting on this machine, and the nodes that have come."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.store = nodes, listener(SELF, 0)
        self.reserved = socket.socket()  # bound, but it does not listen: no other process can take the port
        self.reserved.bind((SELF, 0))
        self.port: int = self.reserved.getsockname()[1]
        self.hosts: list[Host] = []
        self.come: list[Rendezvous] = []

    def open(self) -> None:
        self.reserved.close()
        self.hosts.append(hosted(self.member(0), SELF, self.port, self.store))

    def member(self, number: int, **other: Any) -> Member:
        return replace(this_node(number, self.nodes, 1, "run"), **other)

    def rendezvous(self, number: int, remind_s: float = 100.0, **other: Any) -> Rendezvous:
        self.come.append(Rendezvous(self.member(number, **other), SELF, self.port, remind_s))
        return self.come[-1]

    def meets(self, *nodes: int) -> list[Rendezvous]:
        """Nodes that come at the same time."""
        attending = [self.rendezvous(node) for node in nodes]
        threads = [threading.Thread(target=one.meet, args=(20.0,)) for one in attending]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return attending


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Room]]:
    monkeypatch.setattr(rendezvous_host, "PONG_S", 0.3)
    rooms: list[Room] = []

    def made(nodes: int) -> Room:
        rooms.append(Room(nodes))
        return rooms[-1]

    yield made
    for one in rooms:
        for rendezvous in one.come:
            rendezvous.hang_up()
        for host in one.hosts:
            host.close()
        one.reserved.close()
        one.store.close()


def test_all_nodes_meet_in_any_order_and_learn_the_store(room: Callable[[int], Room]) -> None:
    here = room(4)
    early = here.rendezvous(2)
    waiting = threading.Thread(target=early.meet, args=(20.0,))
    waiting.start()  # before node 0
    here.open()
    met = here.meets(3, 0, 1)
    waiting.join()
    assert {one.store_port for one in [*met, early]} == {here.store.getsockname()[1]}
    assert all(one.absent == [] for one in met)


def test_who_waits_says_for_whom(room: Callable[[int], Room], capsys: pytest.CaptureFixture[str]) -> None:
    here = room(4)
    alone = here.rendezvous(1, remind_s=0.2)
    with pytest.raises(NotMet, match=f"node 1 has waited 1 s in vain for node 0 of 4, at {SELF}:{here.port}"):
        alone.meet(1.0)
    here.open()
    zero = here.rendezvous(0)
    waiting = threading.Thread(target=in_vain, args=(zero,))
    waiting.start()
    with pytest.raises(NotMet, match=r"for nodes 2 and 3 of 4$"):
        alone.meet(1.5)
    waiting.join()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"launch.sh: node 1 waits for node 0 of 4, at {SELF}:{here.port}"
    assert lines[-1] == "launch.sh: node 1 waits for nodes 2 and 3 of 4"


def in_vain(rendezvous: Rendezvous) -> None:
    with suppress(NotMet):
        rendezvous.meet(1.5)


def test_a_number_is_given_once_while_its_node_answers(room: Callable[[int], Room]) -> None:
    here = room(2)
    here.open()
    zero, one = here.meets(0, 1)
    answering = threading.Thread(target=lambda: [one.hear(0.05) for _ in range(20)])
    answering.start()
    with pytest.raises(Refused, match=r"^--node-rank: node 1 is here already \(process \d+ on .*\); give each node"):
        here.rendezvous(1).meet(5.0)
    answering.join()
    assert zero.absent == one.absent == []


def test_a_node_that_has_died_without_a_word_is_replaced(room: Callable[[int], Room]) -> None:
    here = room(2)
    here.open()
    with socket.create_connection((SELF, here.port)) as dead:  # its machine has lost power: nothing answers any more
        dead.sendall(json.dumps(asdict(here.member(1))).encode() + b"\n")
        time.sleep(0.1)
        zero, one = here.meets(0, 1)
        zero.hear(0.5)
        assert one.absent == []


def test_a_node_that_was_killed_may_come_again_at_once(room: Callable[[int], Room]) -> None:
    here = room(2)
    here.open()
    zero, one = here.meets(0, 1)
    one.hang_up()
    zero.hear(2.0)
    assert zero.absent == [1]
    here.rendezvous(1).meet(5.0)
    zero.hear(2.0)
    assert zero.absent == []


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"nodes": 3}, "--nodes: 3 here, but 2 on node 0; give all nodes the same"),
        ({"ranks_per_node": 8}, "--ranks-per-node: 8 here, but 1 on node 0; give all nodes the same"),
        ({"run_id": "other"}, "--run-id: other here, but run on node 0; give all nodes the same"),
        ({"node": 2}, "--node-rank: 2 is not one of 0 to 1; correct it"),
    ],
)
def test_a_node_of_another_run_is_refused(room: Callable[[int], Room], other: dict[str, Any], line: str) -> None:
    here = room(2)
    here.open()
    with pytest.raises(Refused) as refused:
        here.rendezvous(1, **other).meet(5.0)
    assert str(refused.value) == line
    here.meets(0, 1)  # the right ones still meet


MEMBER = asdict(this_node(1, 2, 1, "run"))


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b"[" * 4000 + b"\n",
        b'{"a":' * 800 + b"\n",
        b"1" * 4000 + b"\n",
        b'{"node": 1}\n',
        b"x" * 20000,
        b"\n",
        b"\xff\xfe\n",
        b"null\n",
        json.dumps({**MEMBER, "node": [1]}).encode() + b"\n",
        json.dumps({**MEMBER, "run_id": {"a": 1}}).encode() + b"\n",
        json.dumps({**MEMBER, "node": 1e400}).encode() + b"\n",
        2 * (json.dumps({**MEMBER, "run_id": "other"}).encode() + b"\n") + json.dumps(MEMBER).encode() + b"\n",
        json.dumps(MEMBER).encode() + b"\n" + b"[" * 4000 + b"\n",
        json.dumps(MEMBER).encode() + b'\n{"leaves": [143]}\n',
        json.dumps(MEMBER).encode() + b'\n{"leaves": 143}\n',
    ],
    ids=itertools.count(),
)
def test_who_speaks_otherwise_is_refused_and_ends_nobody(room: Callable[[int], Room], sent: bytes) -> None:
    here = room(2)
    here.open()
    with socket.create_connection((SELF, here.port)) as stranger:
        stranger.settimeout(5.0)
        stranger.sendall(sent)
        with suppress(ConnectionResetError):  # of what it has sent and nobody reads
            answers = stranger.makefile("rb").readlines()
            assert "refused" in json.loads(answers[-1])
    here.meets(0, 1)


def test_a_silent_connection_is_refused(room: Callable[[int], Room], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous_host, "SILENCE_S", 0.3)
    here = room(2)
    here.open()
    with socket.create_connection((SELF, here.port)) as stranger:
        stranger.settimeout(5.0)
        stranger.sendall(b'{"node": ')
        (answer,) = stranger.makefile("rb").readlines()
    assert "none has come within 0.3 s" in json.loads(answer)["refused"]
    here.meets(0, 1)


def test_strangers_take_no_more_than_their_share(room: Callable[[int], Room], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous_host, "MOST_STRANGERS", 3)
    here = room(2)
    here.open()
    strangers = [socket.create_connection((SELF, here.port)) for _ in range(6)]
    strangers[-1].settimeout(5.0)
    assert strangers[-1].recv(1) == b""  # the fourth and later ones
    for stranger in strangers:
        stranger.close()
    here.meets(0, 1)


def test_many_nodes_that_are_gone_at_once_end_nobody(
    room: Callable[[int], Room], request: pytest.FixtureRequest
) -> None:
    gone, limit = 400, 1000
    request.addfinalizer(partial(sys.setrecursionlimit, sys.getrecursionlimit()))
    sys.setrecursionlimit(limit)  # a library may have raised it
    here = room(gone + 2)
    here.open()
    connections = []
    for number in range(2, gone + 2):
        connection = socket.create_connection((SELF, here.port), 20.0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(json.dumps(asdict(here.member(number))).encode() + b"\n")
        assert connection.recv(1)  # who is absent: it has been admitted
        connections.append(connection)
    for connection in connections:
        connection.close()
    assert 3 * gone > limit  # one call into the next would be too deep
    one = here.rendezvous(1)
    with pytest.raises(NotMet):
        one.meet(1.0)
    assert one.absent == [0, *range(2, gone + 2)]


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"[" * 4000 + b"\n", b'{"absent": ["x"], "store_port": 1}\n']
)
def test_a_node_that_reaches_another_program_says_so(said: bytes) -> None:
    with listener(SELF, 0) as other:
        port = other.getsockname()[1]
        threading.Thread(target=lambda: other.accept()[0].sendall(said)).start()
        with pytest.raises(Refused, match=rf"^--master-port: what answers at {SELF}:{port} is not node 0 of a run"):
            Rendezvous(this_node(1, 2, 1, "run"), SELF, port).meet(5.0)


def test_all_are_told_who_has_ended_the_run(room: Callable[[int], Room]) -> None:
    here = room(3)
    here.open()
    zero, one, two = here.meets(0, 1, 2)
    two.leave(143, "stopped by SIGTERM; nothing new was saved")
    for other in (zero, one):
        other.hear(0.5)
        assert other.left == (2, 143, "stopped by SIGTERM; nothing new was saved")


def test_who_comes_when_all_are_leaving_waits_for_the_next_start(room: Callable[[int], Room]) -> None:
    here = room(2)
    here.open()
    zero, one = here.meets(0, 1)
    one.leave(75, "saved")
    zero.leave(75, "saved")
    here.hosts[0].linger(1.0)
    with pytest.raises(NotMet, match="for node 0 of 2"):
        here.rendezvous(1).meet(0.6)
    here.hosts.pop().close()
    here.store = listener(SELF, 0)
    here.open()
    assert here.meets(1, 0)[0].store_port == here.store.getsockname()[1]


@pytest.mark.parametrize("code", [0, 1, 137])
def test_a_node_that_is_done_or_has_failed_ends_no_other(room: Callable[[int], Room], code: int) -> None:
    here = room(2)
    here.open()
    zero, one = here.meets(0, 1)
    one.leave(code, "")
    zero.hear(2.0)
    assert zero.left is None
    assert zero.absent == [1]


def test_node_0_must_be_at_the_master_address(room: Callable[[int], Room]) -> None:
    here = room(2)
    with pytest.raises(Refused, match=r"^--master: 192\.0\.2\.1 is not an address of this machine, and node 0 must"):
        hosted(here.member(0), "192.0.2.1", here.port, here.store)


def test_a_port_in_use_is_told_from_a_node_0_that_is_here_already(room: Callable[[int], Room]) -> None:
    here = room(2)
    with listener(SELF, 0) as other:
        port = other.getsockname()[1]
        answering = threading.Thread(target=lambda: other.accept()[0].sendall(b"220 mail\r\n"))
        answering.start()
        with pytest.raises(Refused, match=rf"^--master-port: {port} on {SELF} is in use by another program; give"):
            hosted(here.member(0), SELF, port, here.store)
        answering.join()
    here.open()
    answering = threading.Thread(target=here.rendezvous(0).meet, args=(20.0,))
    answering.start()
    time.sleep(0.3)
    with pytest.raises(Refused, match=r"^--node-rank: node 0 is here already"):
        here.open()
    with pytest.raises(Refused, match="in use by another run; give all nodes of this one another"):
        hosted(here.member(0, run_id="mine"), SELF, here.port, here.store)
    here.rendezvous(1).meet(5.0)
    answering.join()


def test_nothing_listens_beyond_the_address(room: Callable[[int], Room]) -> None:
    here = room(2)
    here.open()
    assert here.hosts[0].listening.getsockname()[0] == here.store.getsockname()[0] == SELF
