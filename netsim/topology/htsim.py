"""A fat tree as htsim describes it: two or three tiers of switches, by the number of their ports."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from netsim.foundation.lines import read_lines, whole_number
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from netsim.foundation.units import format_rate, format_size, format_time

_HEADER = ("nodes", "tiers", "podsize")
_REQUIRED = ("downlink_speed_gbps", "radix_down", "downlink_latency_ns")
_UPWARD = ("radix_up", "queue_up")
_DEFAULTS = {"switch_latency_ns": 0, "oversubscribed": 1, "bundle": 1, "queue_down": 0, "queue_up": 0, "radix_up": 0}
_POSITIVE = ("nodes", "tiers", "podsize", "downlink_speed_gbps", "radix_down", "radix_up", "oversubscribed", "bundle")


class Tier(NamedTuple):
    """A tier of switches and the links below it; rates and delays are those of a link down, each direction.

    `bundle` is the number of parallel links to one switch of the tier below. A queue is None where the file leaves it
    to htsim's command line. Oversubscription is the rate of all links down over that of all links up.
    """

    radix_down: int
    radix_up: int
    bundle: int
    rate_bps: int
    link_delay_ps: int
    switch_delay_ps: int
    queue_down_bytes: int | None
    queue_up_bytes: int | None
    oversubscription: int


class HtsimConfig(Section, extra="allow"):
    """Section ``topology`` of kind ``htsim``. The file gives the fabric; further keys of the section override it.

    Args:
        path: A topology file of htsim, relative to the working directory.
    """

    kind: Literal["htsim"]
    path: str


class FatTreeShape(NamedTuple):
    """The fabric that a topology file of htsim describes.

    Host h sits on leaf h // tiers[0].radix_down, leaf l in pod l // leaves_per_pod, and all leaves of a pod have
    `bundle` links to each of its aggregations. The aggregation at position p of its pod has them to the cores p, p +
    aggregations_per_pod, p + 2 aggregations_per_pod, ... With two tiers, one pod has all, its aggregations are the
    spines, and there are no cores.
    """

    path: Path
    hosts: int
    pods: int
    leaves_per_pod: int
    aggregations_per_pod: int
    cores: int
    tiers: tuple[Tier, ...]


def read_topology(path: Path) -> FatTreeShape:
    """Reads and checks a topology as htsim's ``FatTreeTopology::load`` and ``set_custom_params`` do.

    Links of unequal rate between the tiers are accepted, where htsim asks for equal ones below the highest tier.
    """
    header, sections = _sections(path)
    for name in _HEADER:
        if name not in header:
            raise Refusal(path, name, "is missing", f"write the line {name.capitalize()} before the first Tier")
    if header["tiers"] not in (2, 3):
        raise Refusal(path, "tiers", f"is {header['tiers']}", "write 2 or 3")
    tiers = []
    for number in range(header["tiers"]):
        if number not in sections:
            raise Refusal(path, f"tier {number}", "is missing", f"add the line Tier {number} and what belongs to it")
        tiers.append(_tier(path, number, sections[number], highest=number == header["tiers"] - 1))
    for number in sections:
        if number >= header["tiers"]:
            raise Refusal(path, f"tier {number}", f"is not among {header['tiers']} tiers", "remove it, or raise Tiers")
    return _shape(path, header["nodes"], header["podsize"], tuple(tiers))


def _sections(path: Path) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
    """The values before the first tier, and the values of each tier, by their names in lower case."""
    header: dict[str, int] = {}
    sections: dict[int, dict[str, int]] = {}
    section = header
    for number, line in enumerate(read_lines(path, "a topology file of htsim"), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, place = words[0].lower(), f"line {number}: {words[0]:.40}"
        if name not in (*_HEADER, "tier", *_REQUIRED, *_DEFAULTS):
            raise Refusal(path, place, "is not a known key", "correct its name or remove it")
        if len(words) != 2:
            raise Refusal(path, place, f"has {len(words) - 1} values", "write one number behind it")
        value = whole_number(path, place, words[1], least=1 if name in _POSITIVE else 0)
        if name == "tier":
            if value in sections:
                raise Refusal(path, place, f"tier {value} occurs twice", "remove one")
            section = sections[value] = {}
            continue
        if (name in _HEADER) != (section is header):
            raise Refusal(path, place, "is out of place", "write Nodes, Tiers, Podsize, then Tier 0 with its values")
        if name in section:
            raise Refusal(path, place, "occurs twice", "remove one")
        section[name] = value
    return header, sections


def _tier(path: Path, number: int, values: Mapping[str, int], *, highest: bool) -> Tier:
    for name in (*_REQUIRED, *(() if highest else ("radix_up",))):
        if name not in values:
            raise Refusal(path, f"tier {number}: {name}", "is missing", f"add {name} to the tier")
    for name in _UPWARD:
        if highest and name in values:
            raise Refusal(path, f"tier {number}: {name}", "does not belong to the highest tier", "remove it")
    value = {**_DEFAULTS, **values}
    return Tier(
        radix_down=value["radix_down"],
        radix_up=value["radix_up"],
        bundle=value["bundle"],
        rate_bps=value["downlink_speed_gbps"] * 10**9,
        link_delay_ps=value["downlink_latency_ns"] * 1000,
        switch_delay_ps=value["switch_latency_ns"] * 1000,
        queue_down_bytes=value["queue_down"] or None,
        queue_up_bytes=value["queue_up"] or None,
        oversubscription=value["oversubscribed"],
    )


def _shape(path: Path, hosts: int, hosts_per_pod: int, tiers: tuple[Tier, ...]) -> FatTreeShape:
    """Counts switches from ports, tier by tier, and refuses numbers that do not divide."""

    def quotient(whole: int, part: int, field: str, what: str) -> int:
        if whole % part:
            raise Refusal(path, field, f"{what}: {whole} is not a multiple of {part}", "correct one of the numbers")
        return whole // part

    def check_down(number: int, switches: int) -> None:
        needed = switches * tiers[number].bundle
        if tiers[number].radix_down != needed:
            problem = (
                f"is {tiers[number].radix_down}; {switches} switches or pods with {tiers[number].bundle} links each"
            )
            raise Refusal(
                path, f"tier {number}: radix_down", f"{problem} are below", f"write {needed}, or correct them"
            )

    if tiers[0].bundle != 1:
        raise Refusal(path, "tier 0: bundle", f"is {tiers[0].bundle}: a host has one link", "write 1")
    pods = quotient(hosts, hosts_per_pod, "podsize", "hosts do not fill pods")
    if len(tiers) == 2 and pods != 1:
        raise Refusal(path, "podsize", f"makes {pods} pods, which two tiers do not connect", f"write {hosts}")
    leaves = quotient(hosts_per_pod, tiers[0].radix_down, "tier 0: radix_down", "the hosts of a pod do not fill leaves")
    check_down(1, leaves)
    aggregations = quotient(
        tiers[0].radix_up, tiers[1].bundle, "tier 1: bundle", "ports up of a leaf do not divide into bundles"
    )
    cores = 0
    if len(tiers) == 3:
        check_down(2, pods)
        bundles = quotient(
            tiers[1].radix_up, tiers[2].bundle, "tier 2: bundle", "ports up of tier 1 do not divide into bundles"
        )
        cores = aggregations * bundles
    for number, (below, above) in enumerate(pairwise(tiers)):
        down, up = below.radix_down * below.rate_bps, below.radix_up * above.rate_bps
        if down != up * below.oversubscription:
            problem = f"is {below.oversubscription}, but {format_rate(down)} lead down and {format_rate(up)} up"
            raise Refusal(path, f"tier {number}: oversubscribed", problem, "correct it, or the ports or speeds")
    return FatTreeShape(path, hosts, pods, leaves, aggregations, cores, tiers)


def section(shape: FatTreeShape) -> dict[str, object]:
    """The section ``topology`` of a scenario: leaf_spine for two tiers, fat_tree for three.

    Refuses what the section cannot express: delays or queues that differ by tier, switch latency. Cores are numbered by
    their aggregations, which changes names and nothing else.
    """
    for number, tier in enumerate(shape.tiers):
        if tier.switch_delay_ps:
            problem = f"is {format_time(tier.switch_delay_ps)}"
            raise Refusal(shape.path, f"tier {number}: switch_latency_ns", problem, "add it to downlink_latency_ns")
        if tier.link_delay_ps != shape.tiers[0].link_delay_ps:
            problem = (
                f"is {format_time(tier.link_delay_ps)}, not {format_time(shape.tiers[0].link_delay_ps)} as in tier 0"
            )
            raise Refusal(shape.path, f"tier {number}: downlink_latency_ns", problem, "write the same in all tiers")
    rooms = {tier.queue_down_bytes for tier in shape.tiers} | {tier.queue_up_bytes for tier in shape.tiers[:-1]}
    if len(rooms) > 1:
        raise Refusal(shape.path, "queue_down", "queues differ, or some have no size", "write the same in all tiers")
    room = rooms.pop()
    rates = [format_rate(tier.rate_bps) for tier in shape.tiers]
    common: dict[str, object] = {
        "host_rate": rates[0],
        "link_delay": format_time(shape.tiers[0].link_delay_ps),
        "queue": "unlimited" if room is None else format_size(room),
    }
    if len(shape.tiers) == 2:
        return common | {
            "kind": "leaf_spine",
            "leaves": shape.leaves_per_pod,
            "spines": shape.aggregations_per_pod,
            "hosts_per_leaf": shape.tiers[0].radix_down,
            "parallel": shape.tiers[1].bundle,
            "fabric_rate": rates[1],
        }
    return common | {
        "kind": "fat_tree",
        "pods": shape.pods,
        "edges_per_pod": shape.leaves_per_pod,
        "aggregations_per_pod": shape.aggregations_per_pod,
        "cores": shape.cores,
        "hosts_per_edge": shape.tiers[0].radix_down,
        "edge_parallel": shape.tiers[1].bundle,
        "core_parallel": shape.tiers[2].bundle,
        "edge_rate": rates[1],
        "core_rate": rates[2],
    }


def replaced(value: object) -> object:
    """Replaces a section ``{kind: htsim, path: FILE}`` by the content of the file; further keys override it."""
    if not isinstance(value, Mapping) or value.get("kind") != "htsim":
        return value
    path = value.get("path")
    if not isinstance(path, str):
        raise ValueError("a topology of kind htsim needs a path; write path and the name of a .topo file")
    return section(read_topology(Path(path))) | {
        key: given for key, given in value.items() if key not in ("kind", "path")
    }
