"""A leaf-spine fabric of network namespaces: every switch and host is one, every cable a pair of virtual Ethernet ends.

Each end sends through a token bucket of the fabric's rate with a first-in first-out queue, as each link of netsim does.
TCP is Reno where nobody asks for another.
For a host's main address a leaf hashes over its spines (policy 1), for alias number s it goes through spine s: so a
sender chooses the path of every packet by the address it sends to. Of TCP the hash is the number that the sender's
kernel drew for the connection, not its 5-tuple, so a connection and its acknowledgements hash apart.

    host i of leaf l        10.l.i.10, alias of spine s 10.l.i.(100 + s)
    leaf l to spine s       192.168.(l * spines + s).1 and .2
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

_NAMES = re.compile(r"ff(\d+)_\d+_[lsh]\d+")
_NUMBERS = count()
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
_MOST_SPINES, _MOST_HOSTS, _MOST_LINKS = 100, 200, 250


class Fabric(NamedTuple):
    """A fabric that exists, and its shape.

    Args:
        prefix: What the names of its namespaces begin with.
        leaves: Number of leaves.
        spines: Number of spines.
        hosts_per_leaf: Hosts below a leaf; host h sits on leaf h // hosts_per_leaf.
        rate_mbit: Rate of every link in each direction, 10^6 bit/s of Ethernet frames without preamble and gap.
    """

    prefix: str
    leaves: int
    spines: int
    hosts_per_leaf: int
    rate_mbit: float

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        return self.leaves * self.hosts_per_leaf

    def leaf(self, number: int) -> str:
        """Namespace of a leaf."""
        return f"{self.prefix}l{number}"

    def spine(self, number: int) -> str:
        """Namespace of a spine."""
        return f"{self.prefix}s{number}"

    def host(self, number: int) -> str:
        """Namespace of a host."""
        return f"{self.prefix}h{number}"

    def address(self, host: int, spine: int | None = None) -> str:
        """Where a host is reached: through the spine of that number, or whichever the hash picks."""
        leaf, place = divmod(host, self.hosts_per_leaf)
        return f"10.{leaf}.{place}.{10 if spine is None else 100 + spine}"

    def sent_bytes(self, leaf: int, spine: int) -> int:
        """Bytes of frames that a leaf has sent to a spine since the fabric was made."""
        shown = _run("ip", "-n", self.leaf(leaf), "-s", "-j", "link", "show", f"u{spine}")
        return json.loads(shown)[0]["stats64"]["tx"]["bytes"]

    def cut(self, host: int) -> None:
        """Pulls a host's cable out of its leaf; connections through it stay open and send in vain."""
        self._set_port(host, "down")

    def mend(self, host: int) -> None:
        """Puts the cable back."""
        self._set_port(host, "up")

    def _set_port(self, host: int, state: str) -> None:
        leaf, place = divmod(host, self.hosts_per_leaf)
        _run("ip", "-n", self.leaf(leaf), "link", "set", f"d{place}", state)

    def start(self, host: int, command: Sequence[str], **options: object) -> subprocess.Popen[str]:
        """Starts a command on a host.

        Args:
            host: Number of the host.
            command: Program and arguments.
            options: Further arguments of `subprocess.Popen`.
        """
        within = ["ip", "netns", "exec", self.host(host), *command]
        return subprocess.Popen(within, text=True, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]


def obstacle() -> str | None:
    """Why no fabric can be made here, None if one can."""
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        return f"{' and '.join(missing)} not found; install iproute2"
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if not (effective >> _CAP_NET_ADMIN & effective >> _CAP_SYS_ADMIN & 1):
        return "network namespaces need root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    return None


@contextmanager
def fabric(
    leaves: int,
    spines: int,
    hosts_per_leaf: int,
    rate_mbit: float,
    *,
    burst_bytes: int = 4000,
    queue_bytes: int = 64_000_000,
) -> Iterator[Fabric]:
    """Makes a fabric and removes it, whatever ends the block: its end, an exception, SIGINT or SIGTERM.

    Fabrics that a killed process has left are removed first.

    Args:
        leaves: Number of leaves, at least 1.
        spines: Number of spines, 1..100.
        hosts_per_leaf: Hosts below a leaf, 1..200.
        rate_mbit: Rate of every link in each direction, 10^6 bit/s.
        burst_bytes: Size of the token buckets, at least two frames: what a link sends at once after it was idle, and
            how late its timer may be without loss of rate.
        queue_bytes: Room in front of every link.

    Raises:
        OSError: `ip` or `tc` refused; the message is theirs.
    """
    assert spines <= _MOST_SPINES
    assert hosts_per_leaf <= _MOST_HOSTS
    assert leaves * spines <= _MOST_LINKS
    remove_leftovers()
    made = Fabric(f"ff{os.getpid()}_{next(_NUMBERS)}_", leaves, spines, hosts_per_leaf, rate_mbit)
    with ExitStack() as undo:
        undo.enter_context(sigterm_unwinds())
        undo.callback(_remove, made.prefix)
        _build(made, f"rate {rate_mbit}mbit burst {burst_bytes} limit {queue_bytes}")
        yield made


def remove_leftovers() -> None:
    """Removes the fabrics of processes that are no more."""
    for name in _existing():
        match = _NAMES.fullmatch(name)
        if match and not Path("/proc", match[1]).exists():
            _remove_namespace(name)


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends the program like an exception, so that what it made is removed."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    earlier = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _remove(prefix: str) -> None:
    """Removes a fabric; signals wait until that is done."""
    waiting = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        for name in _existing():
            if name.startswith(prefix):
                _remove_namespace(name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, waiting)


def _existing() -> list[str]:
    """Names of all namespaces."""
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line]


def _remove_namespace(name: str) -> None:
    """Ends what runs in a namespace and removes it with its links."""
    for pid in _run("ip", "netns", "pids", name).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _run("ip", "netns", "delete", name)


def _build(made: Fabric, bucket: str) -> None:
    leaves, spines, hosts = range(made.leaves), range(made.spines), range(made.hosts)
    switches = [made.leaf(number) for number in leaves] + [made.spine(number) for number in spines]
    names = switches + [made.host(number) for number in hosts]
    _batch("ip", None, [f"netns add {name}" for name in names])
    parameters = {"fib_multipath_hash_policy": "1", "tcp_no_metrics_save": "1", "tcp_congestion_control": "reno"}
    parameters |= {"conf/all/rp_filter": "0", "conf/default/rp_filter": "0"}
    for name in names:
        _set(name, parameters | {"ip_forward": "1" if name in switches else "0"})
    cables = [(made.host(h), "e0", made.leaf(h // made.hosts_per_leaf), f"d{h % made.hosts_per_leaf}") for h in hosts]
    cables += [(made.leaf(leaf), f"u{spine}", made.spine(spine), f"d{leaf}") for leaf in leaves for spine in spines]
    _batch(
        "ip",
        None,
        [f"link add {end} netns {at} type veth peer {far_end} netns {far}" for at, end, far, far_end in cables],
    )
    for name in names:
        ends = [end for at, end, far, far_end in cables for at, end in ((at, end), (far, far_end)) if at == name]
        _batch("ip", name, [*_addresses(made, name), *(f"link set {end} up" for end in ("lo", *ends))])
        _batch("ip", name, _routes(made, name))
        _batch("tc", name, [f"qdisc add dev {end} root tbf {bucket}" for end in ends])


def _addresses(made: Fabric, name: str) -> Iterator[str]:
    """Addresses of a namespace."""
    kind, number = name.removeprefix(made.prefix)[0], int(name.removeprefix(made.prefix)[1:])
    match kind:
        case "h":
            for spine in (None, *range(made.spines)):
                yield f"addr add {made.address(number, spine)}/24 dev e0"
        case "l":
            yield from (f"addr add 10.{number}.{place}.1/24 dev d{place}" for place in range(made.hosts_per_leaf))
            yield from (f"addr add {_cable(made, number, spine)}.1/30 dev u{spine}" for spine in range(made.spines))
        case "s":
            yield from (f"addr add {_cable(made, leaf, number)}.2/30 dev d{leaf}" for leaf in range(made.leaves))


def _routes(made: Fabric, name: str) -> Iterator[str]:
    """Routes of a namespace to what it has no link to."""
    kind, number = name.removeprefix(made.prefix)[0], int(name.removeprefix(made.prefix)[1:])
    match kind:
        case "h":
            leaf, place = divmod(number, made.hosts_per_leaf)
            yield f"route add default via 10.{leaf}.{place}.1 src {made.address(number)}"
        case "l":
            to_spine = [f"via {_cable(made, number, spine)}.2" for spine in range(made.spines)]
            for leaf in range(made.leaves):
                if leaf != number:
                    yield f"route add 10.{leaf}.0.0/16 " + " ".join(f"nexthop {via}" for via in to_spine)
                    for host in range(leaf * made.hosts_per_leaf, (leaf + 1) * made.hosts_per_leaf):
                        for spine, via in enumerate(to_spine):
                            yield f"route add {made.address(host, spine)}/32 {via}"
        case "s":
            yield from (f"route add 10.{leaf}.0.0/16 via {_cable(made, leaf, number)}.1" for leaf in range(made.leaves))


def _cable(made: Fabric, leaf: int, spine: int) -> str:
    return f"192.168.{leaf * made.spines + spine}"


def _set(name: str, parameters: Mapping[str, str]) -> None:
    """Sets IPv4 parameters of a namespace."""
    lines = [f"echo {value} > /proc/sys/net/ipv4/{key}" for key, value in parameters.items()]
    _run("ip", "netns", "exec", name, "sh", "-ec", "\n".join(lines))


def _batch(program: str, name: str | None, lines: Iterable[str]) -> None:
    """Hands lines to `ip` or `tc`, inside a namespace if one is named."""
    within = [] if name is None else ["-n", name]
    _run(program, *within, "-batch", "-", text="\n".join(lines) + "\n")


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
