"""Readers of netsim: scenarios, sweeps, traffic, fabrics and traces. What is short is simulated too."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from netsim.__main__ import main
from netsim.simulation.compare import run_one
from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario
from netsim.sweep.sweep_file import read_sweep
from tests.fuzz import sound_files
from tests.fuzz.mutations import Format
from tests.fuzz.reader import Reader, all_of, copied, reading, words, written
from tests.netsim.kineto_profiles import expert_profile, step_in_two_schemas

MOST_PACKETS = 3000
"""Of a workload that is simulated."""
MOST_TIMEOUTS = 30_000
"""Of all packets together, if each were sent again for as long as the network needs at least."""
MOST_RUNS = 2
SMALL = """\
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 2, queue: 100KB, link_delay: 500ns}
packet: {payload: 4KB}
workload: {kind: collective, op: all_to_all, bytes_per_rank: 16KB}
transports: [ecmp, {kind: flowlet, label: a}, {kind: reps}, {kind: drill, d: 2, m: 1}]
congestion: {kind: dctcp}
recovery: {kind: selective, timeout: 1ms}
flow_control: {kind: trim}
acknowledgement: {size: 64B}
seeds: [0]
"""
FAILING = """\
format: flowfabric.scenario/1
topology:
  kind: fat_tree
  k: 4
  failures: [{switch: core0, at: 5us, until: 1ms}, {link: edge0-aggregation1, rate: 10Gbps}]
workload: {kind: collective, op: all_reduce, bytes_per_rank: 40KB}
algorithms: {all_reduce: halving_doubling}
transports: [ethereal, ideal, mprdma-4]
congestion: {kind: swift}
recovery: {kind: go_back_n, timeout: 100us}
flow_control: {kind: none}
nic: {scheduling: sequential}
seeds: [1]
"""
MODEL = """\
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 1, hosts_per_leaf: 4}
workload: {kind: model, layers: 2, hidden: 16, tokens: 8, vocabulary: 9, microbatches: 2, experts: 4, top_k: 2,
           division: {data: 4, expert: 2, pipeline: 2}, sharded: full, device: h100}
transports: [ideal]
seeds: [0]
"""
DETOURS = """\
format: flowfabric.scenario/1
topology: {kind: dragonfly, switches_per_group: 2, hosts_per_switch: 1, global_links: 1, max_detours: 2, queue: 40KB}
workload: {kind: matrix, path: htsim.cm, acknowledged_after: 1us}
transports: [ugal, {kind: valiant, label: v}]
recovery: {kind: selective}
seeds: [0]
"""
TORUS = """\
format: flowfabric.scenario/1
topology: {kind: torus, dims: [2, 3], hosts_per_switch: 1, max_paths: 3,
           failures: [{link: switch0-1-switch0-2, at: 5us, until: 40us}]}
workload: {kind: goal, path: schedule.goal, send_ends: started}
transports: [{kind: ugal, bias: 1us}, spray_random]
recovery: {kind: selective}
seeds: [0]
"""
OVERRIDES = """\
topology.spines=4
seeds=[0,1]
transports.0=drb
topology.queue=1MB
packet={payload: 1KB, header: 64B}
congestion.kind=swift
workload.op=all_reduce
"""
SWEEP = """\
format: flowfabric.sweep/1
scenario: scenario.yaml
grid:
  topology.spines: [1, 2]
  packet: {small: {payload: 1KB}, large: {payload: 4KB}}
cells: [{seeds: [0]}, {seeds: [1], nic.scheduling: sequential}]
"""


def _fabric(topology: str, workload: str) -> str:
    return (
        "format: flowfabric.scenario/1\n"
        f"topology: {topology}\nworkload: {workload}\ntransports: [ecmp, ideal]\n"
        "recovery: {kind: selective, timeout: 1ms}\nseeds: [0]\n"
    )


SPINES = "{kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 4}"
ALL_TO_ALL = "{kind: collective, op: all_to_all, bytes_per_rank: 4KB}"
SCENARIOS = {
    "flows.csv": _fabric(SPINES, "{kind: flows, path: flows.csv}"),
    "htsim.cm": _fabric(SPINES, "{kind: matrix, path: htsim.cm}"),
    "schedule.goal": _fabric(SPINES, "{kind: goal, path: schedule.goal}"),
    "simccl.csv": _fabric(SPINES, "{kind: simccl, path: simccl.csv}"),
    "aicb.txt": _fabric(SPINES, "{kind: aicb, path: aicb.txt}"),
    "htsim.topo": _fabric("{kind: htsim, path: htsim.topo}", ALL_TO_ALL),
    "fabric.json": _fabric("{kind: graph, path: fabric.json}", ALL_TO_ALL),
    "collectives.jsonl": _fabric(SPINES, "{kind: trace, path: collectives.jsonl}"),
    "chakra": _fabric(SPINES, "{kind: chakra, path: chakra}"),
    "measured.csv": _fabric(SPINES, "{kind: model, layers: 1, hidden: 8, tokens: 8, device: measured.csv}"),
}


def _simulate(scenario: Path, overrides: list[str] | None = None) -> None:
    """What compare does, as far as it is short."""
    read = read_scenario(scenario, overrides or [])
    prepared = prepare(read, str(scenario))
    sizes = prepared.scene.tasks.columns().bytes
    packets = int(np.sum(-(-sizes.astype(float) // read.packet.payload))) if len(sizes) else 0
    bound_ps = 0 if prepared.bound is None else prepared.bound.ps
    over_ps = bound_ps + prepared.scene.routes.times[-1]
    recovery = read.recovery
    timeouts = 0 if recovery.kind == "none" else over_ps / (recovery.timeout or recovery.shortest_timeout)
    if packets > MOST_PACKETS or packets * timeouts > MOST_TIMEOUTS:
        return
    for transport in read.transports[:MOST_RUNS]:
        run_one(prepared, transport, read.seeds[0]).to_dict(prepared.scene.topology.links)


def _through(name: str) -> Callable[[Path], int]:
    return reading(lambda _: _simulate(Path(f"{name}.yaml")))


def _write_file(name: str) -> Callable[[], None]:
    def write() -> None:
        Path(f"{name}.yaml").write_text(SCENARIOS[name], encoding="utf-8")
        copied(f"tests/files/{name}")()

    return write


def _write_chakra(*names: str) -> Callable[[], None]:
    def write() -> None:
        Path("chakra").mkdir()
        Path("chakra.yaml").write_text(SCENARIOS["chakra"], encoding="utf-8")
        copied(*((f"tests/files/chakra/{name}", f"chakra/{name}") for name in names))()
        for rank in range(0 if names else 2):
            Path(f"chakra/x.{rank}.json").write_text(sound_files.CHAKRA, encoding="utf-8")

    return write


def _write_kineto() -> None:
    Path("kineto").mkdir()
    copied(*((f"tests/files/kineto/rank{rank}.json", f"kineto/rank{rank}.json") for rank in range(2)))()


def _write_profiles() -> None:
    step_in_two_schemas(annotated=True).write(Path("older.json"))
    expert_profile().write(Path("experts.json"))
    expert_profile(2).write(Path("pair.json"))
    sound_files.routing().write("routing.npz")


def _import(file: Path, *options: str) -> int:
    sizes = ["--tokens", "64", "--hidden", "128", "--experts", "32", "--top-k", "2"] if file.stem != "older" else []
    return main(["import", "kineto", str(file), "--out", "imported.jsonl", *sizes, *options])


def readers() -> Iterator[Reader]:
    """All of them."""
    own = {"small": SMALL, "failing": FAILING, "detours": DETOURS, "torus": TORUS, "model": MODEL}
    yield Reader(
        "scenario",
        dict.fromkeys((*(f"{name}.yaml" for name in own), "scenario.yaml"), "yaml"),
        all_of(
            written(**{f"{name}__yaml": text for name, text in own.items()}),
            copied(*(f"tests/files/{name}" for name in ("scenario.yaml", "htsim.cm", "schedule.goal"))),
        ),
        reading(_simulate),
    )
    yield Reader(
        "scenario overrides",
        {"overrides": "words"},
        written(scenario__yaml=SMALL, overrides=OVERRIDES),
        reading(lambda file: _simulate(Path("scenario.yaml"), words(file))),
    )
    yield Reader("sweep", {"sweep.yaml": "yaml"}, written(scenario__yaml=SMALL, sweep__yaml=SWEEP), reading(read_sweep))
    yield Reader("flows", {"flows.csv": "words"}, _write_file("flows.csv"), _through("flows.csv"))
    yield Reader("matrix of htsim", {"htsim.cm": "words"}, _write_file("htsim.cm"), _through("htsim.cm"))
    yield Reader(
        "schedule in GOAL", {"schedule.goal": "words"}, _write_file("schedule.goal"), _through("schedule.goal")
    )
    yield Reader("flows of SimCCL", {"simccl.csv": "words"}, _write_file("simccl.csv"), _through("simccl.csv"))
    yield Reader("workload of AICB", {"aicb.txt": "words"}, _write_file("aicb.txt"), _through("aicb.txt"))
    yield Reader("measured device", {"measured.csv": "words"}, _write_file("measured.csv"), _through("measured.csv"))
    yield Reader("topology of htsim", {"htsim.topo": "words"}, _write_file("htsim.topo"), _through("htsim.topo"))
    yield Reader("fabric as a graph", {"fabric.json": "json"}, _write_file("fabric.json"), _through("fabric.json"))
    trace: dict[str, Format] = {"collectives.jsonl": "jsonl"}
    yield Reader("collective trace (netsim)", trace, _write_file("collectives.jsonl"), _through("collectives.jsonl"))
    yield Reader(
        "collective trace to export",
        trace,
        copied("tests/files/collectives.jsonl"),
        lambda file: main(["export", str(file), "--to", "chakra", "exported"]),
    )
    yield Reader(
        "profile of Kineto",
        {"kineto/rank0.json": "json"},
        _write_kineto,
        lambda _: main(["import", "kineto", "kineto", "--out", "imported.jsonl"]),
    )
    yield Reader("older profile of one rank", {"older.json": "json"}, _write_profiles, _import)
    yield Reader("profile of DeepEP", {"experts.json": "json"}, _write_profiles, _import)
    yield Reader(
        "routing of a profile",
        {"routing.npz": "npz"},
        _write_profiles,
        lambda file: _import(Path("pair.json"), "--experts", "4", "--routing", str(file)),
    )
    yield Reader(
        "measured collectives",
        {"all_reduce.txt": "words"},
        copied("tests/files/all_reduce.txt"),
        lambda file: main(["calibrate", str(file), "--out", "made.yaml"]),
    )
    yield Reader(
        "calibration",
        {"a100.yaml": "yaml"},
        copied("tests/files/all_reduce.txt", "configs/calibrations/a100.yaml"),
        lambda file: main(["calibrate", "all_reduce.txt", "--check", str(file)]),
    )
    yield Reader(
        "Chakra trace",
        {"chakra/trace.0.et": "bytes", "chakra/comm_groups.json": "json"},
        _write_chakra("comm_groups.json", "trace.0.et", "trace.1.et"),
        _through("chakra"),
    )
    yield Reader("Chakra trace in JSON", {"chakra/x.0.json": "json"}, _write_chakra(), _through("chakra"))
