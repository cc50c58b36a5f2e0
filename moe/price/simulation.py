"""Simulated times of two traces on one fabric, by netsim in a process of its own: the two packages share files only."""

import ctypes
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe.placement.topology import LinkRates
from moe.report.context import read_simulations
from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_BITS_PER_S = {"kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12}
_PER_SECOND = {"ps": 1e12, "ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True)
class Simulated:
    """Two traces on one fabric.

    Attributes:
        times_ms: For each transport the completion of both traces, ms, mean over the seeds.
        gaps: Whose gaps of computation the second trace had, in netsim's words.
        rates: Rates of a rank's links on the fabric, None where it is not made of hosts with one link each.
    """

    times_ms: dict[str, tuple[float, float]]
    gaps: str
    rates: LinkRates | None


def simulate_pair(before: Path, after: Path, scenario: Path, out: Path) -> Simulated:
    """Run `python -m netsim compare` on both traces.

    Args:
        before: A collective trace.
        after: Another.
        scenario: The fabric; its own workload is replaced.
        out: Folder for what netsim writes.

    Raises:
        ValueError: netsim refuses its input; the message is netsim's.
        RuntimeError: netsim fails.
    """
    try:
        said = simulate(before, scenario, out, "--against", str(after))
    except ValueError as error:
        raise ValueError(f"scenario: {error}") from error
    pairs = zip(*(read_simulations(folder / "results.json") for folder in (out, out / "against")), strict=True)
    times = {first.transport: (first.completion_ms, second.completion_ms) for first, second in pairs}
    gaps = next((line for line in said.splitlines() if "gaps of computation" in line), "")
    document = parse_json((out / "results.json").read_text(encoding="utf-8"))
    return Simulated(times, gaps, rates_of(out / "results.json", document["scenario"]["topology"]))


def simulate(trace: Path, scenario: Path, out: Path, *options: str) -> str:
    """Run `python -m netsim compare` on a trace.

    Args:
        trace: A collective trace.
        scenario: The fabric; its own workload is replaced.
        out: Folder for what netsim writes.
        options: More words of its command line.

    Returns:
        What it printed.

    Raises:
        ValueError: netsim refuses its input; the message is netsim's.
        RuntimeError: netsim fails.
    """
    quoted = "'" + str(trace).replace("'", "''") + "'"
    arguments = [str(scenario), f"workload={{kind: trace, path: {quoted}}}", "--out", str(out), *options]
    command = [sys.executable, "-m", "netsim", "compare", *arguments]
    bound = _end_with_parent if sys.platform == "linux" else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=bound)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["netsim ended without a message"]
        said = lines[-1].removeprefix("netsim compare: ")
        raise ValueError(said) if done.returncode == 2 else RuntimeError(f"netsim compare failed: {said}")
    return done.stdout


def _end_with_parent() -> None:
    """Lets Linux kill this process as soon as its parent is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def rates_of(path: Path, topology: dict[str, Any]) -> LinkRates | None:
    """Rates of a rank's links on a fabric of hosts.

    Args:
        path: Where the topology stands, for messages.
        topology: The section of a scenario with its defaults written out.

    Returns:
        To its node as inside a host, to other nodes its share of the host's link, and two links of delay; None for
        fabrics of other kinds.
    """
    if not {"host_rate", "intra_host_rate", "link_delay"} <= topology.keys():
        return None
    try:
        host, inside = (_number(topology[key], _BITS_PER_S) for key in ("host_rate", "intra_host_rate"))
        return LinkRates(inside, host / topology.get("ranks_per_host", 1), 2 * _number(topology["link_delay"], _PER_S))
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(path, "scenario.topology", f"contains no rates ({error})", "simulate it again") from error


_PER_S = {unit: 1 / per_second for unit, per_second in _PER_SECOND.items()}


def _number(text: str, units: dict[str, float]) -> float:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return float(digits) * units[text[len(digits) :]]
