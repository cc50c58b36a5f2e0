"""Mistakes in scenarios, limits, recovery, fabrics, matrices, flows, traces and sweeps: one line each, nothing left."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import netsim.__main__

ROOT = Path(__file__).parents[2]
SCENARIO = """\
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 2, queue: 100KB}
workload: {kind: collective, op: all_to_all, bytes_per_rank: 8KB}
transports: [ecmp]
congestion: {kind: dctcp}
recovery: {kind: selective}
seeds: [0]
"""
HEAD = '{"format": "flowfabric.collectives/1"'
FLOWS = "src,dst,bytes,start_ns\n"
MATRIX = "Nodes 4\nConnections 1\n"
TIMES = "kind,sizes,dtype,time_us\n"
NINE = "".join(f"gemm,{size}x64x64,half,{size}\n" for size in range(1, 10))


class Mistake(NamedTuple):
    """A mistake.

    Attributes:
        words: arguments of compare behind a good scenario.
        told: what the line says, in this order.
        files: what is in the working folder besides the scenario.
    """

    words: tuple[str, ...]
    told: tuple[str, ...]
    files: Mapping[str, str | bytes] = {}


def key(word: str, *told: str) -> Mistake:
    """A wrong key or value."""
    return Mistake((word,), told)


def flows(text: str, *told: str) -> Mistake:
    """A wrong list of flows."""
    return Mistake(("workload={kind: flows, path: f.csv}",), ("f.csv: ", *told), {"f.csv": text})


def matrix(text: str, *told: str) -> Mistake:
    """A wrong connection matrix."""
    return Mistake(("workload={kind: matrix, path: m.cm}",), ("m.cm: ", *told), {"m.cm": text})


def trace(text: str | bytes, *told: str) -> Mistake:
    """A wrong collective trace."""
    return Mistake(("workload={kind: trace, path: t.jsonl}",), ("t.jsonl: ", *told), {"t.jsonl": text})


def graph(text: str, *told: str) -> Mistake:
    """A wrong graph of a fabric."""
    return Mistake(("topology={kind: graph, path: g.json}",), ("g.json: ", *told), {"g.json": text})


def model(keys: str, *told: str) -> Mistake:
    """Wrong keys of a model on four ranks."""
    shape = "kind: model, layers: 4, hidden: 64, tokens: 64, division: {data: 4}"
    return Mistake((f"workload={{{shape}}}", *(f"workload.{one}" for one in keys.split())), told)


def device(text: str, *told: str, keys: str = "") -> Mistake:
    """A wrong table of measurements."""
    words = f"workload={{kind: model, layers: 1, hidden: 8, tokens: 8, device: {{table: d.csv{keys}}}}}"
    return Mistake((words,), ("d.csv: ", *told), {"d.csv": text})


def tree(keys: str, *told: str) -> Mistake:
    """Wrong keys of a fat tree with 4 ports of an edge for hosts."""
    return Mistake((f"topology={{kind: fat_tree, k: 8, {keys}}}",), told)


MISTAKES = {
    # Limits.
    "a limit without a unit": key("limits.simulated=10", "limits.simulated", "needs a unit (10)", "write none"),
    "a limit that is never": key("limits.wall=never", "limits.wall", "needs a unit ('never')", "write none"),
    "a limit of nothing": key("limits.wall=0s", "limits.wall", "reached at once", "none, or a duration"),
    "a limit of less than a picosecond": key("limits.simulated=0.5ps", "limits.simulated", "no", "whole"),
    "a limit in the past": key("limits.simulated=-3us", "limits.simulated", "needs a unit ('-3us')"),
    "a limit without end": key("limits.simulated=1e30s", "limits.simulated", "too large"),
    "a limit in minutes": key("limits.wall=5min", "limits.wall", "needs a unit ('5min')", "ns, us, ms, s"),
    "no timeouts allowed": key("limits.fruitless=0", "limits.fruitless", "(0)", "greater than or equal to 1"),
    "half a timeout": key("limits.fruitless=2.5", "limits.fruitless", "(2.5)", "integer"),
    "timeouts in words": key("limits.fruitless=none", "limits.fruitless", "('none')", "integer"),
    "true for timeouts": key("limits.fruitless=true", "limits: fruitless is true", "write a number"),
    "a misspelt limit": key("limits.simulatd=1s", "limits.simulatd", "not a known key", "write simulated"),
    "one number for all limits": key("limits=5s", "limits", "has a wrong value ('5s')"),
    # Booleans.
    "one for true": key("fast_forward=1", "fast_forward is 1, neither true nor false", "write true or false"),
    "a word for true": key("fast_forward='yes'", "fast_forward is 'yes', neither true nor false"),
    "nothing for true": key("fast_forward=null", "fast_forward is None, neither true nor false"),
    "one for true in a section": key("watch={links: 1}", "watch: links is 1, neither true nor false"),
    "zero for false of a fabric": key("topology.rails=0", "topology: rails is 0, neither true nor false"),
    "one for true of a transport": key(
        "transports=[{kind: ethereal, randomise: 1}]", "transports.0: randomise is 1, neither true nor false"
    ),
    # Hosts of several adapters.
    "rails of one adapter on a fat tree": tree("rails: true", "rails need several adapters a host"),
    "rails that edges do not fit": tree("adapters_per_host: 3, rails: true", "4 edges_per_pod do not make pods of 3"),
    "adapters that ports do not fit": tree("adapters_per_host: 3", "do not fill the 4 ports", "give hosts_per_edge"),
    "ranks that adapters do not fit": tree("adapters_per_host: 2, ranks_per_host: 3", "3 ranks of a host do not share"),
    "adapters without links of GPUs": tree("adapters_per_host: 2, gpu_link_rate: null", "need links between GPUs"),
    "no adapter": tree("adapters_per_host: 0", "topology.adapters_per_host", "(0)", "greater than 0"),
    "adapters in words": tree("adapters_per_host: two", "topology.adapters_per_host", "('two')", "integer"),
    "GPUs without a unit": tree("adapters_per_host: 2, gpu_link_rate: 400", "topology.gpu_link_rate", "needs a unit"),
    "one for rails of a fat tree": tree("rails: 1", "topology: rails is 1, neither true nor false"),
    "adapters of a torus": key(
        "topology={kind: torus, dims: [2, 2], adapters_per_host: 2}", "topology.adapters_per_host"
    ),
    # Classes.
    "a class of no weight": key("classes=[{name: a, weight: 0}]", "classes.0.weight", "(0)", "greater than"),
    "half a weight": key("classes=[{name: a, weight: 0.5}]", "classes.0.weight", "(0.5)", "integer"),
    "a class without weight behind others": key(
        "classes=[{name: a, weight: 2}, b]", "classes: b has no weight", "give it a weight, or move it to the front"
    ),
    "a class twice": key("classes=[a, {name: a, weight: 2}]", "classes: the class a occurs twice", "remove one"),
    "a number for a class": key("classes=[3]", "classes.0: it is no class (3)", "{name: bulk, weight: 3}"),
    "a weight without a name": key("classes=[{weight: 2}]", "classes.0.name", "is missing"),
    "a misspelt weight": key("classes=[{name: a, wieght: 2}]", "classes.0.wieght", "write weight"),
    "a class of an unknown name": Mistake(
        ("classes=[{name: a, weight: 2}]", "workload.class=b"), ("workload.class b is not among classes", "one of a")
    ),
    # Watching.
    "a pair that never talks": Mistake(
        ("workload={kind: flows, path: f.csv}", "watch={flows: [[0, 2], [0, 3]]}"),
        ("watch.flows.1: rank 0 sends nothing to rank 3", "name pairs that do, such as [0, 2], [0, 1], [1, 2]"),
        {"f.csv": FLOWS + "1,2,4000,0\n0,2,4000,0\n0,1,4000,0\n"},
    ),
    "a workload in which hosts do not talk": Mistake(
        ("topology.ranks_per_host=2", "workload={kind: flows, path: f.csv}", "watch={flows: [[0, 2]]}"),
        ("watch.flows.0: rank 0 sends nothing to rank 2", "remove watch.flows"),
        {"f.csv": FLOWS + "0,1,4000,0\n"},
    ),
    "a pair on one host": Mistake(
        ("topology.ranks_per_host=2", "watch={flows: [[0, 1]]}"),
        ("watch.flows.0: ranks 0 and 1 sit on one host", "name ranks of two hosts"),
    ),
    # Recovery.
    "a misspelt auto": key("recovery.timeout=atuo", "recovery.timeout", "needs a unit ('atuo')", "or write auto"),
    "a timeout of nothing": key("recovery.timeout=0us", "recovery.timeout", "runs out at once", "auto, or a duration"),
    "a bare number for a timeout": key("recovery.timeout=100", "recovery.timeout", "needs a unit (100)", "write auto"),
    "no timeout": key("recovery.timeout=null", "recovery.timeout", "needs a unit", "write auto"),
    "a longest timeout of nothing": key("recovery.longest_timeout=0s", "recovery.longest_timeout", "greater than 0"),
    "a longest timeout of auto": key("recovery.longest_timeout=auto", "recovery.longest_timeout", "needs a unit"),
    "a shortest timeout of nothing": key("recovery.shortest_timeout=0s", "recovery.shortest_timeout", "greater than 0"),
    "a key of another name": key("recovery.max_timeout=1s", "recovery.max_timeout", "not a known key", "write timeout"),
    "reordering of a go-back-N": key(
        "recovery={kind: go_back_n, reordering: 3}", "recovery.reordering", "not a known key"
    ),
    "packets that overtake by less than none": key("recovery.reordering=-1", "recovery.reordering", "(-1)"),
    "an unknown recovery": key("recovery.kind=tcp", "recovery.kind", "('tcp')", "none, go_back_n, selective"),
    "a misspelt recovery": key("recovery.kind=selectve", "recovery.kind", "use selective"),
    "drops without repeats": key("recovery.kind=none", "topology.queue drops packets", "recovery.kind to selective"),
    # Kinds.
    "a misspelt kind of another simulator": key("topology.kind=htsi", "topology.kind", "('htsi')", "use htsim"),
    "an unknown fabric": key("topology.kind=ring", "topology.kind", "use one of leaf_spine", "htsim"),
    "a number for a kind": key("congestion.kind=3", "congestion.kind", "use one of none, window"),
    "an unknown workload": key("workload.kind=mpi", "workload.kind", "use one of collective"),
    "an unknown flow control": key("flow_control.kind=credit", "flow_control.kind", "use one of none, trim, pfc"),
    "a fabric that is a word": key("topology=leaf_spine", "topology", "wrong value ('leaf_spine')"),
    # Fabric and failures.
    "no leaves": key("topology.leaves=0", "topology.leaves", "greater than"),
    "a queue for no packet": key("topology.queue=1KB", "topology.queue has no room for a packet of 4000 B", "raise it"),
    "a failure of nothing": key("topology.failures=[{at: 1us}]", "failures.0", "name exactly one"),
    "a failure of two things": key(
        "topology.failures=[{link: leaf0-spine0, switch: spine0}]", "failures.0", "name exactly one"
    ),
    "a failure that ends first": key(
        "topology.failures=[{switch: spine0, at: 5us, until: 3us}]", "failures.0", "end after it begins"
    ),
    "a failure of an unknown switch": key(
        "topology.failures=[{switch: spine9, at: 1us}]", "topology.failures.0", "'spine9' is not in the fabric", "spine"
    ),
    "a failure that speeds up": key(
        "topology.failures=[{switch: spine0, at: 1us, rate: 1Tbps}]", "failures.0.rate", "more than 100Gbps"
    ),
    "a failure noticed too soon": key(
        "topology.failures=[{switch: spine0, at: 1us, noticed_after: soon}]", "failures.0.noticed_after", "needs a unit"
    ),
    "a host without a path": key(
        "topology.failures=[{switch: spine0}, {switch: spine1}]", "topology", "no path leads from host0 to host2"
    ),
    "ranks that do not fit": key("rank_order=[0, 1, 2, 3, 4]", "rank_order", "lists 5 ranks, 4 fit"),
    "a rank twice": key("rank_order=[0, 1, 1]", "rank_order", "occurs twice"),
    "an engine that cannot": key("engine=exact", "engine: exact cannot simulate ecmp", "write engine: auto"),
    "a misspelt engine": key("engine=evnt", "engine", "use event"),
    "no seeds": key("seeds=[]", "seeds", "has no entries", "give at least 1"),
    "a negative seed": key("seeds=[-1]", "seeds.0", "(-1)"),
    # Files of other formats.
    "flows without a header": flows("0,1,100,0\n", "line 1", "src", "write src,dst,bytes,start_ns"),
    "flows of nothing": flows(FLOWS + "0,1,0,0\n", "line 2", "bytes"),
    "flows to no rank": flows(FLOWS + "0,9,100,0\n", "line 2", "9"),
    "flows in words": flows(FLOWS + "zero,1,100,0\n", "line 2", "src"),
    "flows with a cell too few": flows(FLOWS + "0,1,100\n", "line 2"),
    "flows before the start": flows(FLOWS + "0,1,100,-5\n", "line 2", "start_ns"),
    "a matrix without nodes": matrix(
        "Connections 1\n0->1 start 0 size 100\n", "Nodes: is missing or 0", "write the line Nodes"
    ),
    "a matrix with an arrow of another kind": matrix(MATRIX + "0=>1 start 0 size 100\n", "line 3"),
    "a matrix without a size": matrix(MATRIX + "0->1 start 0\n", "line 3", "size"),
    "a matrix with a misspelt word": matrix(MATRIX + "0->1 strat 0 size 100\n", "line 3", "strat"),
    "a matrix of more nodes": matrix("Nodes 4\nConnections 1\n0->7 start 0 size 100\n", "line 3", "7"),
    "a matrix with connections too few": matrix("Nodes 4\nConnections 2\n0->1 start 0 size 100\n", "2"),
    "a matrix that waits for nobody": matrix(MATRIX + "0->1 id 1 trigger 3 size 100\n", "3"),
    "an empty trace": trace("", "empty"),
    "a trace that is no JSON": trace("hello\n", "line 1", "JSON"),
    "a trace of another format": trace('{"format": "mine/1"}\n', "line 1", "format"),
    "a trace cut off": trace(HEAD + "\n", "line 1"),
    "a trace in binary": trace(bytes(range(256)), "is not text", "collective trace in JSON lines"),
    "a graph that is no JSON": graph("{", "JSON"),
    "a graph without anything": graph('{"nodes": [], "links": []}', "nodes", "no entries", "at least 1"),
    "a graph without hosts": graph('{"nodes": [{"id": "a", "kind": "switch"}], "links": []}', "there is no host"),
    "a graph with an end that is no node": graph(
        '{"nodes": [{"id": "a", "kind": "switch"}, {"id": "h", "kind": "host"}], "links": [{"source": "a", '
        '"target": "b", "rate": "1Gbps", "delay": "1us"}]}',
        "links.0",
        "b",
    ),
    # Models.
    "a model without layers": key("workload={kind: model, hidden: 8, tokens: 8}", "workload.layers", "is missing"),
    "half a layer": model("layers=0.5", "workload.layers", "(0.5)", "integer"),
    "no layers": model("layers=0", "workload.layers", "(0)", "greater than or equal to 1"),
    "a misspelt width": model("hiden=8", "workload.hiden", "not a known key", "write hidden"),
    "a network of another kind": model("network=unet", "workload.network", "('unet')"),
    "stages that layers do not fill": model("division.pipeline=3", "layers 4", "division.pipeline 3", "pipeline: 2"),
    "a sequence that tokens do not fill": model("sequence=48", "tokens 64", "sequence 48", "write sequence: 32"),
    "experts that ranks do not share": model("experts=6 division.expert=4", "experts 6", "write division.expert: 3"),
    "ranks that groups do not fill": model("experts=6 division.expert=3", "division.data 4", "division.expert: 2"),
    "ranks that share no experts": model("division.expert=2", "no experts", "write experts"),
    "more choices than experts": model("experts=4 top_k=5", "top_k 5 exceeds experts 4", "write 4 at most"),
    "choices without experts": model("top_k=2", "top_k is 2", "no experts", "write experts, or remove top_k"),
    "a shared expert beside none": model("shared_expert=8", "shared_expert", "beside no experts"),
    "tensor ranks that send tokens twice": model("experts=4 division.tensor=2", "division.tensor", "write 1"),
    "a width that tensor ranks do not divide": model("division.tensor=3", "hidden 64", "write division.tensor: 2"),
    "heads that do not divide the width": model("heads=5", "hidden 64", "heads 5", "write heads: 4"),
    "heads of keys alone": model("kv_heads=2", "heads is missing beside kv_heads", "add it"),
    "heads of keys that share nothing": model("heads=8 kv_heads=3", "heads 8", "kv_heads 3", "write kv_heads: 2"),
    "elements of three bytes": model("weight_bytes=3", "workload.weight_bytes", "(3)"),
    "more ranks than a fabric": model("division.data=8", "workload", "rank 7 has no host", "larger topology"),
    "more collectives than fit": model("microbatches=4096 layers=4096", "too many collectives", "lower layers"),
    "one for true of a model": model("overlap=1", "workload: overlap is 1, neither true nor false"),
    # Devices.
    "a device of no name": model("device=h1000", "workload.device", "('h1000')", "use h100"),
    "peaks beside a table": key(
        "workload={kind: model, layers: 1, hidden: 8, tokens: 8, device: {table: d.csv, teraflops: 1}}",
        "workload.device.teraflops",
        "the table says already",
    ),
    "no table": model("device=none.csv", "none.csv", "No such file", "give a table of measurements in CSV"),
    "an empty table": device("", "is empty"),
    "a table in binary": device("kind\0", "is not text"),
    "a table without times": device("kind,sizes,dtype\n", "line 1", "time_us occurs 0 times", "such as gemm,"),
    "a table with two times": device("kind,sizes,dtype,time_us,time_us\n", "line 1", "time_us occurs 2 times"),
    "a header in the midst": device(TIMES + TIMES, "line 2: kind", "is not known ('kind')"),
    "a kind that is misspelt": device(TIMES + "gem,1x1x1,half,1\n", "line 2: kind", "('gem')", "write gemm"),
    "a cell too few": device(TIMES + "gemm,1x1x1,half\n", "line 2", "has 3 cells instead of 4"),
    "two sizes of a product": device(TIMES + "gemm,64x64,half,1\n", "line 2: sizes", "MxNxK ('64x64')"),
    "a size of nothing": device(TIMES + "gemm,64x0x64,half,1\n", "line 2: sizes", "whole number ('0')"),
    "a size beyond all": device(TIMES + f"gemm,{2**41}x1x1,half,1\n", "line 2: sizes", "too large"),
    "a time of nothing": device(TIMES + "gemm,1x1x1,half,0\n", "line 2: time_us", "is not a time ('0')"),
    "a time that is none": device(TIMES + "gemm,1x1x1,half,nan\n", "line 2: time_us", "('nan')", "or more"),
    "a time of no picosecond": device(TIMES + "gemm,1x1x1,half,1e-300\n", "line 2: time_us", "('1e-300')"),
    "a time before": device(TIMES + "gemm,1x1x1,half,-1\n", "line 2: time_us", "('-1')"),
    "a time with its unit": device(TIMES + "gemm,1x1x1,half,3us\n", "line 2: time_us", "('3us')", "221.3"),
    "rows too few": device(TIMES + "gemm,1x1x1,half,1\n", "gemm has 1 rows", "takes 9", "measure more"),
    "rows of one size": device(TIMES + "gemm,1x1x1,half,1\n" * 9, "gemm has 9 rows", "two sizes"),
    "attention alone": device(TIMES + NINE.replace("gemm", "attention").replace("x64x64", "x1x64x64"), "gemm is mis"),
    "no products": device(TIMES + "memory,64,,1\n" * 9, "has no products"),
    "several types": device(TIMES + NINE + NINE.replace("half", "float"), "float, half", "workload.device.dtype"),
    "a type that was not measured": device(
        TIMES + NINE, "dtype", "no products of type int8", "write one of half", keys=", dtype: int8"
    ),
    "no file of flows": Mistake(("workload={kind: flows, path: none.csv}",), ("none.csv", "No such file")),
    "no processes": Mistake(("--jobs", "0"), ("--jobs", "must be at least 1 (0)")),
    "an override without a value": key("limits", "limits: is not key=value", "write key=value"),
    "an override that is no YAML": key("limits={wall: 1s", "limits", "not valid YAML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[name]
    files = {"s.yaml": SCENARIO, **mistake.files}
    for file, content in files.items():
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    code = netsim.__main__.main(["compare", "s.yaml", *mistake.words, "--out", "o"])
    said = capsys.readouterr()
    assert code == 2
    assert said.err.count("\n") == 1, said.err
    position = 0
    for part in mistake.told:
        assert part in said.err[position:], said.err
        position = said.err.index(part, position) + len(part)
    assert said.out == ""
    assert {path.name for path in tmp_path.iterdir()} == files.keys()
