"""The scenario file: what is read, what is refused and how, and that the schema says the same."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from netsim import simulate
from netsim.__main__ import main
from netsim.foundation.refusal import Refusal
from netsim.prepare import prepare
from netsim.scenario import Scenario, read_scenario
from netsim.topology.protocol import paths as paths_between

SCHEMA = json.loads(Path("configs/schemas/scenario.schema.json").read_text())
GOLDEN = Path("tests/files/scenario.yaml")
SCENARIOS = [*sorted(Path("configs/scenarios").glob("*.yaml")), GOLDEN]
SMALL = """\
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 2}
workload: {kind: collective, op: all_to_all, bytes_per_rank: 16KB}
transports: [ecmp, ethereal]
seeds: [0]
"""


def compare(text: str, folder: Path, *overrides: str) -> tuple[int, Path]:
    """`compare` on a scenario of this text."""
    path = folder / "scenario.yaml"
    path.write_text(text)
    return main(["compare", str(path), *overrides, "--out", str(folder / "out"), "--jobs", "1"]), path


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenarios_of_the_project_are_read_and_satisfy_the_schema(path):
    read = read_scenario(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), SCHEMA)
    jsonschema.validate(read.resolved(), SCHEMA)
    assert read_scenario(read.resolved()) == read


def test_the_schema_is_the_readers_own():
    """After a change, `make schemas` writes it again."""
    assert Scenario.schema() == SCHEMA


WRONG: dict[str, tuple[str, str, str]] = {
    "unknown key": ("color=red", "color: is not a known key ('red')", "remove it"),
    "unknown key below": ("topology.leafs=3", "topology.leafs: is not a known key (3)", "remove it"),
    "other version": ("format=flowfabric.scenario/2", "format: ", "flowfabric.scenario/1"),
    "bare number for a rate": ("topology.host_rate=100", "topology.host_rate: a rate needs a unit (100)", "100Gbps"),
    "bare number for a size": ("packet.payload=4000", "packet.payload: a size needs a unit (4000)", "4000B"),
    "unknown unit": ("topology.link_delay=5min", "topology.link_delay: a time needs a unit ('5min')", "500ns"),
    "part of a byte": ("packet.payload=0.5B", "packet.payload: a size is not a whole number of B ('0.5B')", "4000B"),
    "a number beyond 64 bits": (
        f"topology.spines={2**64}",
        "topology.spines: the number has more than 64 bits",
        "small",
    ),
    "more than a quantity may be": ("packet.payload=1e30GB", "packet.payload: a size is too large", "at most"),
    "an exponent beyond all bounds": (
        "topology.link_delay=1e999999999s",
        "topology.link_delay: a time is too",
        "at most",
    ),
    "a tag that does not fit": ("seeds=!!bool x", "seeds: the value is not valid YAML", "key=value"),
    "a key twice in a value": ("topology={k: 4, k: 8}", "topology: the value is not valid YAML", "key=value"),
    "empty packet": ("packet.payload=0B", "packet.payload: ", "greater than 0"),
    "no leaf": ("topology.leaves=0", "topology.leaves: has a wrong value (0)", "greater than 0"),
    "half a leaf": ("topology.leaves=1.5", "topology.leaves: has a wrong value (1.5)", "integer"),
    "no rate": ("topology.fabric_rate=0bps", "topology.fabric_rate: ", "greater than 0"),
    "odd fat tree": ("topology={kind: fat_tree, k: 5}", "topology.k: has a wrong value (5)", "multiple of 2"),
    "graph that is not there": ("topology={kind: graph, path: nowhere.json}", "nowhere.json: file: cannot be", "give"),
    "finite queue and nobody repeats": (
        "topology.queue=800KB",
        "file: topology.queue drops packets that are not sent again",
        "set recovery.kind",
    ),
    "queue without room": ("topology.queue=0B", "topology.queue: a queue without room", "unlimited"),
    "failure of nothing": (
        "topology.failures=[{at: 0us}]",
        "topology.failures.0: a failure is of a link or of a switch",
        "name exactly one",
    ),
    "failure of what is not there": (
        "topology.failures=[{link: leaf0-spine9}]",
        "topology.failures.0: 'leaf0-spine9' is not in the fabric",
        "name a link such as",
    ),
    "failure that ends before it begins": (
        "topology.failures=[{switch: spine0, at: 2us, until: 1us, rate: 1Gbps}]",
        "topology.failures.0: a failure must end after it begins",
        "later until",
    ),
    "failure that speeds up": (
        "topology.failures=[{switch: spine0, rate: 1Tbps}]",
        "topology.failures.0.rate: 1Tbps is more than 100Gbps",
        "at most",
    ),
    "fabric too large": ("topology.hosts_per_leaf=1000000", "topology: these are 6,000,008 links", "smaller fabric"),
    "fat tree too large": ("topology={kind: fat_tree, k: 512}", "topology: these are ", "smaller fabric"),
    "all-to-all too large": (
        "topology.hosts_per_leaf=4000",
        "algorithms.all_to_all: direct among 8,000 ranks takes more than 64,000,000 messages",
        "fewer ranks",
    ),
    "all spines down": (
        "topology.failures=[{switch: spine0}, {switch: spine1}]",
        "topology: no path leads from host0 to host2",
        "add links",
    ),
    "late failure and nobody repeats": (
        "topology.failures=[{switch: spine0, at: 2us}]",
        "file: topology.failures.0 loses packets that are not sent again",
        "set recovery.kind",
    ),
    "rates for other spines": (
        "topology.fabric_rate=[100Gbps]",
        "topology: fabric_rate lists 1 rates for 2 spines",
        "one rate for each",
    ),
    "flows that are not there": ("workload={kind: flows, path: f.csv}", "f.csv: file: cannot be", "give"),
    "unknown workload": ("workload={kind: storm}", "workload.kind: ", "collective, trace"),
    "unknown collective": ("workload.op=gossip", "workload.op: ", "'all_reduce'"),
    "nothing to send": ("workload.bytes_per_rank=0B", "workload.bytes_per_rank: ", "greater than 0"),
    "both workload and jobs": (
        "jobs=[{workload: {kind: collective, op: all_reduce, bytes_per_rank: 1KB}, ranks: [0, 1]}]",
        "file: there must be either workload or jobs",
        "write exactly one",
    ),
    "neither workload nor jobs": ("workload=null", "file: there must be either workload or jobs", "exactly one"),
    "unknown transport": ("transports=[ecmp, teleport]", "transports.1", "ecmp, "),
    "drill without queues": ("transports=[{kind: drill, d: 0}]", "transports.0.d: has a wrong value (0)", "greater"),
    "class that is not there": (
        "transports=[{class: 'no_such_module:Latin'}]",
        "transports.0: no_such_module cannot be imported",
        "run from the folder that contains it",
    ),
    "class that is not a transport": (
        "transports=[{class: 'json:JSONDecoder'}]",
        "transports.0: JSONDecoder of json is not a transport",
        "extends netsim.transport.Transport",
    ),
    "transport twice": ("transports=[ecmp, ecmp]", "transports: 'ecmp' occurs twice", "give it a label"),
    "label with a comma": ("transports=[{kind: ecmp, label: 'a,b'}]", "transports.0.label: ", "pattern"),
    "no transport": ("transports=[]", "transports: ", "at least 1"),
    "no seed": ("seeds=[]", "seeds: ", "at least 1"),
    "watched rank alone": ("watch={flows: [3]}", "watch.flows.0: 3 is not a pair of ranks", "such as [0, 5]"),
    "watched flows without answers": (
        "watch={flows: [[0, 1]]}",
        "file: watch.flows are recorded when acknowledgements arrive",
        "set congestion.kind",
    ),
    "seed twice": ("seeds=[1, 1]", "seeds: an entry occurs twice", "remove one"),
    "negative seed": ("seeds=[-1]", "seeds.0: has a wrong value (-1)", "greater than or equal to 0"),
    "congestion control": ("congestion.kind=bbr", "congestion", "dctcp, "),
    "negative gain": ("congestion={kind: dctcp, gain: -1}", "congestion.gain: has a wrong value (-1)", "greater"),
    "recovery": ("recovery.kind=hope", "recovery", "go_back_n, "),
    "flow control": ("flow_control={kind: pfc, xoff: 1}", "flow_control.xoff: is not a known key (1)", "remove it"),
    "flow control that resumes late": (
        "flow_control={kind: pfc, pause_above: 1KB, resume_at: 2KB}",
        "flow_control: resume_at is not below pause_above",
        "lower it",
    ),
    "trimming without queues": (
        "flow_control.kind=trim",
        "file: flow_control trim needs a queue and repeats",
        "set topology",
    ),
    "engine": ("engine=quantum", "engine: has a wrong value ('quantum')", "'auto', 'simpy'"),
    "algorithm": ("algorithms.all_reduce=star", "algorithms.all_reduce: has a wrong value ('star')", "'ring', 'tree'"),
    "rank order with a gap": ("rank_order=[0, 2]", "rank_order: lacks rank 1", "once"),
    "rank order with a rank twice": ("rank_order=[0, 0]", "rank_order: an entry occurs twice", "remove one"),
    "job with a rank twice": (
        "jobs=[{workload: {kind: collective, op: all_reduce, bytes_per_rank: 1KB}, ranks: [1, 1]}]",
        "jobs.0.ranks: an entry occurs twice",
        "remove one",
    ),
    "job on ranks that are not there": (
        "jobs=[{workload: {kind: collective, op: all_reduce, bytes_per_rank: 1KB}, ranks: [1, 4]}]",
        "jobs.0: rank 4 has no host (4 ranks fit)",
        "take a larger topology",
    ),
    "rank order too long": ("rank_order=[0, 1, 2, 3, 4]", "rank_order: lists 5 ranks, 4 fit", "shorten"),
    "trace that is not there": (
        "workload={kind: trace, path: nowhere.jsonl}",
        "nowhere.jsonl: file: cannot be",
        "give",
    ),
    "not a setting": ("seeds", "seeds: is not key=value", "write key=value"),
    "override below a number": ("topology.leaves.x=1", "topology.leaves.x: nothing can be below 2", "existing"),
    "override beyond a list": ("transports.7=ecmp", "transports.7: no entry 7 in a list of 2", "count from 0"),
    "override that is not YAML": ("seeds=[0", "seeds: the value is not valid YAML", "write key=value"),
}


@pytest.mark.parametrize("name", WRONG)
def test_says_in_one_line_what_is_wrong(name, tmp_path, capsys):
    override, problem, remedy = WRONG[name]
    only = ["workload=null"] if name.startswith("job ") else []
    status, path = compare(SMALL, tmp_path, override, *only)
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert any(
        error.startswith(f"netsim compare: {file}: ")
        for file in (path, "command line", "nowhere.jsonl", "nowhere.json", "f.csv")
    )
    assert problem in error
    assert remedy in error.split("; ", 1)[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "file: is not a mapping of keys to values"),
        ("- 1\n", "file: is not a mapping of keys to values"),
        ("seeds: [0\n", "is not YAML"),
        ("\x00", "is not YAML"),
        ("format: flowfabric.scenario/1\n", "topology: is missing (also missing: transports, seeds); add it"),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_refuses_files_that_are_no_scenarios(text, problem, tmp_path, capsys):
    status, path = compare(text, tmp_path)
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert str(path) in error
    assert problem in error


def test_a_missing_file_and_a_binary_one(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "none.yaml: file: cannot be read (No such file or directory); " in capsys.readouterr().err
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert main(["compare", str(binary), "--out", str(tmp_path / "out")]) == 2
    assert "binary.yaml: file: is not text; " in capsys.readouterr().err


def test_overrides_reach_sections_that_are_absent_and_entries_of_lists():
    content = yaml.safe_load(SMALL)
    read = read_scenario(content, ["packet.payload=1KiB", "transports.1=spray_random", "nic.destinations=rotated"])
    assert read.packet.payload == 1024
    assert [transport.name for transport in read.transports] == ["ecmp", "spray_random"]
    assert read.nic.destinations == "rotated"
    assert content == yaml.safe_load(SMALL)


def test_python_gets_the_same_error():
    content: dict[str, Any] = yaml.safe_load(SMALL) | {"seeds": [0.5]}
    with pytest.raises(ValueError, match=r"scenario: seeds\.0: ") as raised:
        simulate(content)
    assert isinstance(raised.value, Refusal)
    assert raised.value.field == "seeds.0"


def test_ranks_sit_where_the_grammar_says():
    read = read_scenario(GOLDEN)
    assert prepare(read, "golden").scene.hosts == [3, 3, 2, 2, 1, 1, 0, 0]
    plain = read_scenario(yaml.safe_load(SMALL), ["topology.ranks_per_host=2"])
    topology = prepare(plain, "small").scene.topology
    assert prepare(plain, "small").scene.hosts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [topology.leaf(host) for host in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(("leaves", "spines", "per_leaf"), [(1, 1, 1), (2, 3, 4), (5, 2, 1)])
def test_paths_are_chains_of_links_from_host_to_host(leaves, spines, per_leaf):
    overrides = [f"topology.leaves={leaves}", f"topology.spines={spines}", f"topology.hosts_per_leaf={per_leaf}"]
    topology = prepare(read_scenario(yaml.safe_load(SMALL), overrides), "small").scene.topology
    assert len({link.name for link in topology.links}) == len(topology.links)
    assert len(topology.links) == 3 * topology.hosts + 2 * leaves * spines
    for src in range(topology.hosts):
        for dst in range(topology.hosts):
            paths = paths_between(topology, src, dst)
            if src == dst:
                assert [topology.links[link].name for link in paths[0]] == [f"host{src}-inside"]
                continue
            assert len(paths) == (1 if topology.leaf(src) == topology.leaf(dst) else spines)
            assert len(set(paths)) == len(paths)
            for path in paths:
                ends = [topology.links[link].name.split("-") for link in path]
                assert ends[0][0] == f"host{src}"
                assert ends[-1][1] == f"host{dst}"
                assert all(here[1] == there[0] for here, there in pairwise(ends))
