"""A kernel's network is what netsim says it is; the fabric of namespaces is what it should be, and leaves nothing."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multinode.cases import Sizes, cases, cores, measure
from tests.multinode.namespaces import Fabric, fabric, obstacle, remove_leftovers
from tests.multinode.traffic import UDP_HEADERS, UDP_PAYLOAD, Stream, Target, run_tcp, run_udp

ROOT = Path(__file__).parents[2]
WHY_NOT = obstacle()
SIZES = Sizes(rate_mbit=50, stream_bytes=2_000_000, pair_bytes=400_000)

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")


def namespaces_of(pid: int) -> list[str]:
    """Namespaces that a process has made and not removed."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.startswith(f"ff{pid}_")]


@pytest.fixture(scope="module")
def made() -> Iterator[Fabric]:
    with fabric(2, 2, 2, 1000) as made:
        yield made


@pytest.mark.parametrize("spine", [0, 1])
def test_the_address_chooses_the_spine(made, spine):
    before = [made.sent_bytes(0, number) for number in range(2)]
    packets = [[Target(2, spine)] * 300, [Target(3, spine)] * 300, [], []]
    assert run_udp(made, packets).lost == 0
    sent = [made.sent_bytes(0, number) - before[number] for number in range(2)]
    full = 600 * (UDP_PAYLOAD + UDP_HEADERS)
    assert full <= sent[spine] < 1.01 * full
    assert sent[1 - spine] < 0.01 * full


def test_the_hash_spreads_connections_over_all_spines(made):
    """One of 24 connections on a spine alone: less than one run in ten million."""
    before = [made.sent_bytes(0, number) for number in range(2)]
    run_tcp(made, [Stream(0, 2, 20_000)] * 24)
    sent = [made.sent_bytes(0, number) - before[number] for number in range(2)]
    assert min(sent) > 20_000
    assert sum(sent) > 24 * 20_000


def test_hosts_of_a_leaf_talk_without_a_spine(made):
    before = [made.sent_bytes(leaf, spine) for leaf in range(2) for spine in range(2)]
    assert run_udp(made, [[Target(1)] * 100, [Target(0)] * 100, [], []]).lost == 0
    after = [made.sent_bytes(leaf, spine) for leaf in range(2) for spine in range(2)]
    assert sum(after) - sum(before) < UDP_PAYLOAD


def test_an_exception_removes_the_fabric():
    before = namespaces_of(os.getpid())

    def fail() -> None:
        with fabric(1, 1, 2, 1000):
            assert len(namespaces_of(os.getpid())) == len(before) + 4
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert namespaces_of(os.getpid()) == before


def test_a_fabric_that_cannot_be_made_leaves_nothing():
    before = namespaces_of(os.getpid())
    with pytest.raises(OSError, match="tc"), fabric(1, 1, 1, 1000, burst_bytes=-1):
        pass
    assert namespaces_of(os.getpid()) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_removes_the_fabric(number):
    with _process_with_fabric() as process:
        assert len(namespaces_of(process.pid)) == 3
        process.send_signal(number)
        process.wait(20)
        assert namespaces_of(process.pid) == []


def test_what_a_killed_process_left_is_removed_by_the_next():
    with _process_with_fabric() as process:
        process.kill()
        process.wait(20)
        assert len(namespaces_of(process.pid)) == 3
        remove_leftovers()
        assert namespaces_of(process.pid) == []


def _process_with_fabric() -> subprocess.Popen[str]:
    """A process of its own that has made a fabric and waits."""
    program = """
        import signal, time
        from tests.multinode.namespaces import fabric
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        with fabric(1, 1, 1, 1000) as made:
            sleeper = made.start(0, ["sleep", "60"])
            print("made", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    return process


@pytest.mark.parametrize(
    "name", ["TCP in one direction, same spine", "TCP in one direction, hashed", "UDP all-to-all, sequential, latin"]
)
def test_netsim_predicts_the_kernel(name):
    """A part of `python -m tests.multinode.reality`; other processes may spoil a run, so it has three attempts."""
    case = next(case for case in cases(SIZES) if case.name == name)
    for _ in range(3):
        if os.getloadavg()[0] > cores():
            pytest.skip("the machine is loaded")
        figure = measure(case, SIZES, runs=1)
        if figure.kept:
            break
    assert figure.kept, figure
