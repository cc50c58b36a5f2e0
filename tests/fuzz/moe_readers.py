"""Readers of moe: routing traces, placements, cost matrices, collective traces, results and files of other tools."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from moe.__main__ import main
from moe.collective_trace import read
from moe.interchange.documents import read_texts
from moe.interchange.exflow import write_csv, write_npy
from tests.fuzz import sound_files
from tests.fuzz.reader import Reader, all_of, copied, reading, written

GROUP = ("--nodes", "1", "--ranks-per-node", "2")


def _place(trace: str, *options: str) -> int:
    """The verb without its pictures, which show no file and take half a second."""
    with patch("moe.report.report.placement_report", lambda *_: ""):
        return main(["place", trace, *GROUP, "--out", "placed.json", *options])


def _write() -> None:
    """A routing trace, a placement that fits it, costs, and the same for ExFlow."""
    sound_files.routing().write("routing.npz")
    sound_files.placement().write("placement.json")
    np.save("costs.npy", np.array([[0.0, 1.0], [2.0, 0.0]]))
    write_npy(sound_files.routing(), "routing.npy")
    write_csv(sound_files.placement(), "placement.csv")


def _write_scores() -> None:
    """Two layers of ESFT's scores, of the same tokens."""
    Path("scores").mkdir(exist_ok=True)
    for layer in (1, 2):
        Path(f"scores/expert_weights_{layer}.txt").write_text(sound_files.scores(), encoding="ascii")


def readers() -> Iterator[Reader]:
    """All of them."""
    yield from _readers_of_our_files()
    yield from _readers_of_other_tools()


def _readers_of_our_files() -> Iterator[Reader]:
    yield Reader("routing trace", {"routing.npz": "npz"}, _write, lambda _: _place("routing.npz"))
    yield Reader(
        "routing of ExFlow", {"routing.npy": "npy"}, _write, lambda _: _place("routing.npy", "--num-experts", "4")
    )
    yield Reader(
        "cost matrix",
        {"costs.npy": "npy"},
        _write,
        lambda _: _place("routing.npz", "--cost", "costs.npy", "--objective", "home"),
    )
    yield Reader(
        "placement in use",
        {"placement.json": "json"},
        _write,
        lambda _: _place("routing.npz", "--current", "placement.json", "--expert-parameters", "10"),
    )
    yield Reader(
        "results for a placement",
        {"results.json": "json"},
        all_of(_write, copied("tests/files/results.json")),
        lambda _: _place("routing.npz", "--results", "results.json"),
    )
    yield Reader(
        "placement to export",
        {"placement.json": "json"},
        _write,
        lambda _: main(["export", "placement.json", "--to", "exflow-csv", "out.csv"]),
    )
    yield Reader(
        "collective trace (moe)",
        {"collectives.jsonl": "jsonl"},
        copied("tests/files/collectives.jsonl"),
        reading(lambda file: list(read(file))),
    )


def _readers_of_other_tools() -> Iterator[Reader]:
    yield Reader(
        "placement of ExFlow",
        {"placement.csv": "words"},
        _write,
        lambda _: main(["import", "placement.csv", "--num-experts", "4", *GROUP, "--out", "imported.json"]),
    )
    yield Reader(
        "placement of SGLang",
        {"map.json": "json"},
        written(map__json=sound_files.PHYSICAL_MAP),
        lambda _: main(["import", "map.json", "--from", "sglang", *GROUP, "--out", "imported.json"]),
    )
    yield Reader(
        "scores of ESFT",
        {"scores/expert_weights_1.txt": "words", "scores/expert_weights_2.txt": "words"},
        _write_scores,
        lambda _: main(["import", "scores", "--from", "esft", "--top-k", "2", "--out", "imported.npz"]),
    )
    yield Reader(
        "router trace of Megatron-Core",
        {"trace.jsonl": "jsonl"},
        written(trace__jsonl=sound_files.router_trace()),
        lambda _: main(["import", "trace.jsonl", "--from", "megatron-router-trace", "--out", "imported.npz"]),
    )
    yield Reader(
        "counts of SGLang",
        {"counts.json": "json"},
        written(counts__json=sound_files.LOGICAL_COUNT),
        lambda _: main(["import", "counts.json", "--from", "sglang-distribution", *GROUP, "--out", "imported.json"]),
    )
    yield Reader(
        "tokens of SGLang",
        {"dump.pt": "bytes"},
        lambda: sound_files.token_dump(Path("dump.pt")),
        lambda _: main(["import", "dump.pt", "--from", "sglang-distribution", "--out", "imported.npz"]),
    )
    yield Reader(
        "texts to record",
        {"texts.jsonl": "jsonl"},
        written(texts__jsonl='{"text": "one"}\n{"text": "two"}\n'),
        reading(read_texts),
    )
