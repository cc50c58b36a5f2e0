"""Readers of moe: routing traces, placements, cost matrices, collective traces, results and files of ExFlow."""

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np

from moe.__main__ import main
from moe.collective_trace import read
from moe.interchange.exflow import write_csv, write_npy
from tests.fuzz import sound_files
from tests.fuzz.reader import Reader, all_of, copied, reading

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


def readers() -> Iterator[Reader]:
    """All of them."""
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
        "placement of ExFlow",
        {"placement.csv": "words"},
        _write,
        lambda _: main(["import", "placement.csv", "--num-experts", "4", *GROUP, "--out", "imported.json"]),
    )
    yield Reader(
        "collective trace (moe)",
        {"collectives.jsonl": "jsonl"},
        copied("tests/files/collectives.jsonl"),
        reading(lambda file: list(read(file))),
    )
