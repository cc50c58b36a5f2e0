"""``python -m tests.fuzz.strangers``: what a stranger may hand a user, and what comes of it.

Pictures, archives, settings of run folders, peers of the nodes' meeting, and sizes. Each is used, is a bad example, or
is refused in one line with exit status 2; whatever it is, no process is started and no module of the stranger's is
imported.
"""

import argparse
import io
import json
import os
import random
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from PIL import Image

import netsim.__main__
import netsim.foundation.arrays
import trainer.__main__
from moe.routing_trace import RoutingTrace
from netsim.foundation.picture_file import BadPicture, read_picture
from tests.fuzz import sound_files
from tests.fuzz.mutations import damaged
from tests.fuzz.oddities import odd_word
from tests.fuzz.reader import Reader, reading
from tests.fuzz.run import LIMIT_S
from tests.fuzz.trial import Verdict, judge
from trainer.config.file import load_run
from trainer.distributed.process.rendezvous import this_node
from trainer.distributed.process.rendezvous_host import Host, hosted, listener

ROOT = Path(__file__).parents[2]
SELF = "127.0.0.1"
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")
TRAPS = ("stranger", "antigravity", "idlelib.idle", "stranger.inner", "this")
"""Modules that a stranger names: its own, and some of Python's that do something when they are imported."""
MEMORY = 10**6
"""Bytes that archives may unpack to."""

Outcome = str
"""What came of an input: "read", "bad example", "refused", or a fault."""

_seen: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in STARTS:
        _seen.append(f"{event} {arguments[0]}")


sys.addaudithook(_watch)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Lists the processes that are started and the traps that are imported."""
    global _watching
    _seen.clear()
    for name in TRAPS:
        sys.modules.pop(name, None)
    _watching = True
    try:
        yield _seen
    finally:
        _watching = False
        _seen.extend(f"import {name}" for name in TRAPS if name in sys.modules)


def _pictures(rng: random.Random, folder: Path) -> Outcome:
    """A picture by its name: of a format that is not read, damaged, of too many pixels, or no picture at all."""
    path = folder / f"x.{rng.choice(['png', 'jpg', 'webp', 'tif', 'gif', 'bmp', 'ppm'])}"
    path.write_bytes(_picture(rng))
    try:
        read_picture(path, rng.choice([1, 3]), 8, 8)
    except BadPicture as error:
        return "bad example" if "\n" not in str(error) else "a fault: more than one line"
    return "read"


def _picture(rng: random.Random) -> bytes:
    match rng.randrange(5):
        case 0:
            eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n%%EOF\n"
            return rng.choice(
                [eps, b"\xc5\xd0\xd3\xc6" + eps, b"%PDF-1.4\n", b"II\x1a\x00\x00\x00HEAPCCDR", b"FWS\x05"]
            )
        case 1:
            sides = rng.choice([(60000, 60000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 5), (20000, 20000)])
            head = struct.pack(">IIBBBBB", *sides, rng.choice([1, 8, 16]), rng.choice([0, 2, 3, 6]), 0, 0, 0)
            return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, (b"IHDR", b"IDAT", b"IEND"), (head, b"x", b"")))
        case 2:
            text = b"k\0\0" + zlib.compress(bytes(rng.choice([10, 10**7, 10**8])))
            sound = _saved("PNG")
            return sound[:33] + _chunk(b"zTXt", text) + sound[33:]
        case _:
            return _damaged(_saved(rng.choice(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "ICO", "TGA"])), rng)


def _saved(name: str) -> bytes:
    buffer, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=name)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _damaged(content: bytes, rng: random.Random) -> bytes:
    now = damaged(content, "bytes", rng)
    return now if isinstance(now, bytes) else b""


def _archives(rng: random.Random, folder: Path) -> Outcome:
    """A routing trace that is damaged, pickled, or unpacks to more than there is memory."""
    path = folder / "routing.npz"
    sound_files.routing().write(path)
    match rng.randrange(4):
        case 0:
            np.savez_compressed(
                path, header=np.zeros(rng.randrange(MEMORY // 8, MEMORY)), expert_ids=[1], source_rank=[1]
            )
        case 1:
            np.savez(path, header=np.array([{"a": 1}], dtype=object), expert_ids=[1], source_rank=[1])
        case _:
            now = damaged(path.read_bytes(), "npz", rng)
            path.write_bytes(now if isinstance(now, bytes) else b"")
    return _status(reading(RoutingTrace.read), path)


def _settings(rng: random.Random, folder: Path) -> Outcome:
    """The configuration of a run folder, one of whose parts is a class of the stranger's."""
    (folder / "stranger.py").write_text("open('imported', 'w').close()\n", encoding="utf-8")
    document = yaml.safe_load(sound_files.TOY) | {"flow": {}}
    part = {"class": f"{rng.choice(TRAPS)}:{rng.choice(['Mine', 'x', 'Popen', odd_word(rng)])}", "kind": "a"}
    if rng.random() < 0.7:
        del part["kind"]
    place = rng.choice(["data", "model", "task", *(f"flow.{name}" for name in ("coupling", "time", "path", "source"))])
    section, _, name = place.partition(".")
    document[section] = part if not name else {**document[section], name: part}
    if rng.random() < 0.3:
        document["sample"] = {"num": 4, rng.choice(["sampler", "x"]): part, "controls": [part]}
    (folder / "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    outcome = _status(reading(lambda path: load_run(path.parent)), folder / "config.yaml")
    return "a fault: imported" if (folder / "imported").exists() else outcome


def _sizes(rng: random.Random, folder: Path) -> Outcome:
    """A number beyond what any machine has."""
    (folder / "toy.yaml").write_text(sound_files.TOY, encoding="utf-8")
    huge = rng.choice([10**6, 10**9 + 1, 10**12, 2**62, 10**30]) + rng.randrange(100)
    more = max(huge, 10**10)
    scenario = str(ROOT / "configs/scenarios/all_to_all_64.yaml")
    dit = ("check", "toy.yaml", "data={kind: digits}")
    program, field, *words = rng.choice(
        [
            ("trainer", "model.num_layers", "check", "toy.yaml", f"model.num_layers={huge}"),
            ("trainer", "model.num_layers", *dit, f"model={{kind: dit, num_layers: {huge}}}"),
            ("trainer", "moe.num_experts", *dit, "model={kind: dit}", f"moe={{num_experts: {huge}, expert_hidden: 8}}"),
            ("trainer", "model.hidden", "check", "toy.yaml", f"model.hidden={2 * more}"),
            ("trainer", "optim.steps", "check", "toy.yaml", f"optim.steps={more}"),
            ("trainer", "optim.global_batch", "check", "toy.yaml", f"optim.global_batch={more}"),
            ("trainer", "sample.sampler.steps", "check", "toy.yaml", f"sample.sampler={{kind: euler, steps: {huge}}}"),
            ("trainer", "--gap-ns", "trace", "toy.yaml", "--world-size", "2", "--out", "t", f"--gap-ns={10**6 * more}"),
            ("trainer", "--num", "sample", "run", "--out", "x.png", f"--num={more}"),
            ("netsim", "topology.ranks_per_host", "compare", scenario, f"topology.ranks_per_host={huge}", "--out", "o"),
            ("netsim", "topology", "compare", scenario, f"topology.hosts_per_leaf={huge}", "--out", "o"),
        ]
    )
    main = {"trainer": trainer.__main__.main, "netsim": netsim.__main__.main}[program]
    verdict = _verdict(lambda _: main(words), folder / "toy.yaml")
    named = field.rpartition(".")[2] in verdict.said
    return _outcome(verdict) if verdict.status == 2 and named else f"a fault: {words} gives {verdict}"


def _status(read: Callable[[Path], int], file: Path) -> Outcome:
    return _outcome(_verdict(read, file))


def _verdict(read: Callable[[Path], int], file: Path) -> Verdict:
    return judge(Reader("stranger", {}, lambda: None, read), file, LIMIT_S)


def _outcome(verdict: Verdict) -> Outcome:
    if verdict.fault:
        return f"a fault: {verdict.fault} {verdict.said[-200:]}"
    return "refused" if verdict.status else "read"


def _peers(rng: random.Random, host: Host) -> Outcome:
    """Lines to node 0 of a run, which answers, or hangs up, and still takes the nodes of the run."""
    member = asdict(this_node(1, 2, 1, "run"))
    said = [json.dumps({**member, **changes}) for changes in ({}, {"run_id": "x"}, {"node": [1]}, {"node": 5})]
    said += ["[" * 4000, '{"a":' * 700, "9" * 4000, "x" * 9000, '{"leaves": [1]}', '{"pong": 1}', odd_word(rng), ""]
    lines = b"".join(
        _damaged(rng.choice(said).encode("utf-8", "replace"), rng) + b"\n" for _ in range(rng.randrange(1, 5))
    )
    address = host.listening.getsockname()
    with socket.create_connection(address) as stranger:
        stranger.settimeout(LIMIT_S)
        with suppress(OSError):  # it is refused before it has sent all
            stranger.sendall(lines)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    with socket.create_connection(address) as node:
        node.settimeout(LIMIT_S)
        node.sendall(json.dumps({**member, "run_id": "other"}).encode() + b"\n")
        answer = node.makefile("rb").readline()
    return "refused" if b"--run-id" in answer else f"a fault: node 0 answers {answer!r} after {lines[:80]!r}"


KINDS: dict[str, Callable[[random.Random, Path], Outcome]] = {
    "pictures": _pictures,
    "archives": _archives,
    "settings": _settings,
    "sizes": _sizes,
}


def run(cases: int, seed: int) -> dict[str, Counter[Outcome]]:
    """Runs inputs of every kind, each of which follows from the seed and its number alone.

    Args:
        cases: of all kinds together.
        seed: of all draws.

    Returns:
        How those of each kind ended.
    """
    ends: dict[str, Counter[Outcome]] = {name: Counter() for name in (*KINDS, "peers")}
    memory = netsim.foundation.arrays._memory_bytes
    netsim.foundation.arrays._memory_bytes = lambda: MEMORY
    with listener(SELF, 0) as store, listener(SELF, 0) as free:
        port = free.getsockname()[1]
        free.close()
        host = hosted(this_node(0, 2, 1, "run"), SELF, port, store)
        try:
            for number in range(cases):
                name = list(ends)[number % len(ends)]
                rng = random.Random(f"{seed} {number}")
                with TemporaryDirectory() as folder, _inside(Path(folder)), watched() as seen:
                    outcome = _peers(rng, host) if name == "peers" else KINDS[name](rng, Path(folder))
                ends[name][f"a fault: {seen[0]}" if seen else outcome] += 1
        finally:
            host.close()
            netsim.foundation.arrays._memory_bytes = memory
    return ends


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """A working directory, from which modules are imported as well."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> int:
    """Prints how the inputs ended; 1 if one ended as none may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.strangers", description="Inputs of a stranger's.")
    parser.add_argument("--cases", type=int, default=500, help="of all kinds together (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    options = parser.parse_args()
    started = time.monotonic()
    ends = run(options.cases, options.seed)
    for name, outcomes in ends.items():
        print(f"{name:10} " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    print(f"{options.cases} inputs in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return int(any(outcome.startswith("a fault") for outcomes in ends.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
