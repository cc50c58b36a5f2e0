"""Topologies by name: those that come with the package, keys that override them, and what names none."""

from pathlib import Path

import pytest
import yaml

from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.topology.mapping import capacity
from tests.each import each
from tests.netsim.documents import collective_of, scenario_on

pytestmark = pytest.mark.usefixtures("blank_pictures")

TIERED = {
    "dgx_a100_20": 160, "dgx_b200_32": 256, "dgx_h100_32": 256, "dgx_h100_128": 1024, "l40s_16": 128,
    "fat_tree_1024": 1024,
}  # fmt: skip
PRESETS = {**TIERED, "dragonfly_1056": 1056, "torus_512": 512}


def scenario(topology: dict[str, object]) -> dict[str, object]:
    return scenario_on(topology, collective_of("send", "4KB"))


def test_every_topology_in_yaml_is_known_here():
    assert {path.stem for path in Path("configs/topologies").glob("*.yaml")} == set(PRESETS)


@each("name", PRESETS)
def test_presets_have_room_for_their_ranks(name):
    assert capacity(read_scenario(scenario({"kind": "preset", "name": name})).topology.build()) == PRESETS[name]


@each("name", TIERED)
def test_presets_of_tiers_have_no_oversubscription(name):
    topology = read_scenario(scenario({"kind": "preset", "name": name})).topology.build()
    into, out = {}, {}
    switches = {name for tier in topology.tiers for name in tier}
    for link in topology.links:
        if link.dst.startswith(("leaf", "edge")) and link.src not in switches:
            into[link.dst] = into.get(link.dst, 0) + link.rate_bps
        elif link.src.startswith(("leaf", "edge")) and link.dst in switches:
            out[link.src] = out.get(link.src, 0) + link.rate_bps
    assert into == out
    assert into


def test_other_keys_override_the_file_and_the_result_can_be_read_back():
    read = read_scenario(
        scenario({"kind": "preset", "name": "dgx_h100_32", "spines": 2, "queue": "1MB"})
        | {"recovery": {"kind": "selective"}}
    )
    assert isinstance(read.topology, LeafSpineConfig)
    assert (read.topology.spines, read.topology.leaves) == (2, 8)
    assert read_scenario(read.resolved()) == read


def test_a_file_of_ones_own_is_a_topology(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"kind": "leaf_spine", "leaves": 1, "spines": 1, "hosts_per_leaf": 2}))
    prepared = prepare(read_scenario(scenario({"kind": "preset", "name": str(file)})), "scenario")
    assert prepared.scene.topology.hosts == 2
