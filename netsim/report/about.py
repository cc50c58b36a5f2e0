"""Words for the simulated scenario: workload, fabric and failures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from netsim.report.layout import hosts_in_words, row_name
from netsim.results import Results
from netsim.topology.protocol import Link, gpu_links, network_tiers
from netsim.units import format_rate, format_time


def workload(results: Results) -> str:
    """The workload, or all of them; the title of the page."""
    jobs = results.scenario.get("jobs", [])
    names = [_workload(job["workload"]) for job in jobs] or [_workload(results.scenario["workload"])]
    return " and ".join(dict.fromkeys(names))


def fabric(results: Results) -> str:
    """The fabric, its packets, and failures, queues and control, in one sentence."""
    topology, scenario = results.scene.topology, results.scenario
    tiers, gpus = network_tiers(topology), gpu_links(topology)
    switches = {name for tier in tiers for name in tier}
    between = [link for link in results.links if {link.src, link.dst} <= switches]
    edge = [results.links[topology.up(host)] for host in range(topology.hosts if gpus is None else gpus.first)]
    rates = f"{_rates(edge)} to hosts" + (f", {_rates(between)} between switches" if between else "")
    parts = [
        f"{hosts_in_words(topology)} on {_listed([row_name(tier) for tier in tiers])}",
        f"{rates}, {_range((link.delay_ps for link in edge + between), format_time)} a link",
        *([] if gpus is None else [f"{_rates([results.links[topology.up(gpus.first)]])} to each GPU inside hosts"]),
        f"packets of {scenario['packet']['payload']}",
        *_against(scenario),
        _counted(len(scenario["seeds"]), "seed") + _draws(scenario),
    ]
    return "; ".join(parts) + "."


def _workload(config: dict[str, Any]) -> str:
    if config["kind"] == "collective":
        amount = config.get("bytes_per_rank")
        return f"{config['op']} of {amount} a rank" if amount else f"{config['op']} with uneven splits"
    if config["kind"] == "background":
        return "background traffic"
    path = Path(config["path"])
    return f"Flows of {path.name}" if config["kind"] in ("flows", "matrix") else f"Replay of {path.name}"


def _against(scenario: dict[str, Any]) -> list[str]:
    """Failures, length of queues, congestion control, recovery and flow control, where the scenario has them."""
    failures = len(scenario["topology"].get("failures", ()))
    parts = [_counted(failures, "failure")] if failures else []
    queue = scenario["topology"].get("queue", "unlimited")
    parts += [] if queue == "unlimited" else [f"queues of {queue}"]
    kinds = ("congestion", "congestion control"), ("recovery", "recovery"), ("flow_control", "flow control")
    for key, name in kinds:
        kind = scenario[key]["kind"]
        parts += [] if kind == "none" else [f"{name} {kind}"]
    return parts


def _draws(scenario: dict[str, Any]) -> str:
    """Whose draws messages have, where that is not their own."""
    return ", equal collectives draw alike" if scenario["draws"] == "collective" else ""


def _rates(links: Sequence[Link]) -> str:
    return _range((link.rate_bps for link in links), format_rate)


def _range(values: Iterable[int], written: Any) -> str:
    distinct = sorted(set(values))
    ends = dict.fromkeys((distinct[0], distinct[-1]))
    return " to ".join(written(value) for value in ends)


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
