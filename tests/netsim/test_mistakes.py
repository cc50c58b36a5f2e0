"""Mistakes in scenarios, limits, recovery, fabrics, matrices, flows and models: one line each, nothing left."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from netsim.__main__ import main
from tests.each import each, rows
from tests.netsim.scenes import SCENARIO

SETTINGS = """
limits.simulated=10 | limits.simulated | needs a unit (10) | write none
limits.wall=never | limits.wall | needs a unit ('never') | write none
limits.wall=0s | limits.wall | reached at once | none, or a duration
limits.simulated=0.5ps | limits.simulated | no | whole
limits.simulated=-3us | limits.simulated | needs a unit ('-3us')
limits.simulated=1e30s | limits.simulated | too large
limits.wall=5min | limits.wall | needs a unit ('5min') | ns, us, ms, s
limits.fruitless=0 | limits.fruitless | greater than or equal to 1 | (0)
limits.fruitless=2.5 | limits.fruitless | integer | (2.5)
limits.fruitless=none | limits.fruitless | integer | ('none')
limits.fruitless=true | limits.fruitless: is true | write a number
limits.simulatd=1s | limits.simulatd | not a known key | write simulated
limits=5s | limits: is not a section ('5s')
fast_forward=1 | fast_forward: is 1, neither true nor false | write true or false
fast_forward='yes' | fast_forward: is 'yes', neither true nor false
fast_forward=null | fast_forward: is None, neither true nor false
watch={links: 1} | watch.links: is 1, neither true nor false
topology.rails=0 | topology.rails: is 0, neither true nor false
transports=[{kind: ethereal, randomise: 1}] | transports.0.randomise: is 1, neither true nor false
topology={kind: torus, dims: [2, 2], adapters_per_host: 2} | topology.adapters_per_host
classes=[{name: a, weight: 0}] | classes.0.weight | greater than | (0)
classes=[{name: a, weight: 0.5}] | classes.0.weight | integer | (0.5)
classes=[{name: a, weight: 2}, b] | classes: b has no weight | give it a weight, or move it to the front
classes=[a, {name: a, weight: 2}] | classes: the class a occurs twice | remove one
classes=[3] | classes.0: it is no class (3) | {name: bulk, weight: 3}
classes=[{weight: 2}] | classes.0.name | is missing
classes=[{name: a, wieght: 2}] | classes.0.wieght | write weight
classes=[{name: a, weight: 2}] & workload.class=b | workload.class b is not among classes | one of a
topology.adapters_per_host=2 & topology.ranks_per_host=2 & topology.rails=true & topology.leaves=3
| topology | 3 leaves do not make pods of 2 rails | give a multiple of 2
topology.adapters_per_host=2 & topology.ranks_per_host=3 | topology | 3 ranks of a host do not share 2 adapters
topology.adapters_per_host=2 & topology.ranks_per_host=2 & topology.failures=[{switch: host0.switch}]
| topology.failures.0 | 'host0.switch' is not in the fabric
topology.failures=[{switch: host0}] | topology.failures.0 | 'host0' is not in the fabric
topology.failures=[{switch: core}] | topology.failures.0 | 'core' is not in the fabric | name a switch: leaf0, spine0
topology.failures=[{link: leaf0-spine0, rate: 1}] | topology.failures.0.rate | a rate needs a unit
topology.ranks_per_host=2 & watch={flows: [[0, 1]]} | watch.flows.0: ranks 0 and 1 sit on one host
| name ranks of two hosts
recovery.timeout=atuo | recovery.timeout | needs a unit ('atuo') | or write auto
recovery.timeout=0us | recovery.timeout | runs out at once | auto, or a duration
recovery.timeout=100 | recovery.timeout | needs a unit (100) | write auto
recovery.timeout=null | recovery.timeout | needs a unit | write auto
recovery.longest_timeout=0s | recovery.longest_timeout | greater than 0
recovery.longest_timeout=auto | recovery.longest_timeout | needs a unit
recovery.shortest_timeout=0s | recovery.shortest_timeout | greater than 0
recovery.max_timeout=1s | recovery.max_timeout | not a known key | write timeout
recovery={kind: go_back_n, reordering: 3} | recovery.reordering | not a known key
recovery.reordering=-1 | recovery.reordering | (-1)
recovery.kind=tcp | recovery.kind | 'tcp' | none, go_back_n, selective
recovery.kind=selectve | recovery.kind | use selective
recovery.kind=none | topology.queue drops packets | recovery.kind to selective
topology.kind=htsi | topology.kind | 'htsi' | use htsim
topology.kind=ring | topology.kind | is not one of leaf_spine | htsim
congestion.kind=3 | congestion.kind | is not one of none, window
workload.kind=mpi | workload.kind | is not one of collective
flow_control.kind=credit | flow_control.kind | is not one of none, trim, pfc
topology=leaf_spine | topology: is not a section ('leaf_spine')
topology.leaves=0 | topology.leaves | greater than
topology.queue=1KB | topology.queue has no room for a packet of 4000 B | raise it
topology.failures=[{at: 1us}] | failures.0 | name exactly one
topology.failures=[{link: leaf0-spine0, switch: spine0}] | failures.0 | name exactly one
topology.failures=[{switch: spine0, at: 5us, until: 3us}] | failures.0 | end after it begins
topology.failures=[{switch: spine9, at: 1us}] | topology.failures.0 | 'spine9' is not in the fabric | spine
topology.failures=[{switch: spine0, at: 1us, rate: 1Tbps}] | failures.0.rate | more than 100Gbps
topology.failures=[{switch: spine0, at: 1us, noticed_after: soon}] | failures.0.noticed_after | needs a unit
topology.failures=[{switch: spine0}, {switch: spine1}] | topology | no path leads from host0 to host2
rank_order=[0, 1, 2, 3, 4] | rank_order | lists 5 ranks, 4 fit
rank_order=[0, 1, 1] | rank_order | occurs twice
engine=exact | engine: exact cannot simulate ecmp | write engine: auto
engine=evnt | engine | use event
seeds=[] | seeds | has no entries | use 1 or more
seeds=[-1] | seeds.0 | (-1)
workload={kind: model, hidden: 8, tokens: 8} | workload.layers | is missing
workload={kind: model, layers: 1, hidden: 8, tokens: 8, device: {table: d.csv, teraflops: 1}}
| workload.device.teraflops | the table says already
workload={kind: flows, path: none.csv} | none.csv | No such file
--jobs & 0 | --jobs | must be at least 1 (0)
limits | limits: is not key=value | write key=value
limits={wall: 1s | limits | not valid YAML
color=red | color: is not a known key ('red') | remove it
topology.leafs=3 | topology.leafs: is not a known key (3) | write leaves
format=flowfabric.scenario/2 | format: | flowfabric.scenario/1
topology.host_rate=100 | topology.host_rate: a rate needs a unit (100) | 100Gbps
packet.payload=4000 | packet.payload: a size needs a unit (4000) | 4000B
topology.link_delay=5min | topology.link_delay: a time needs a unit ('5min') | 500ns
packet.payload=0.5B | packet.payload: a size is not a whole number of B ('0.5B') | 4000B
topology.spines=18446744073709551616 | topology.spines: the number has more than 64 bits | small
packet.payload=1e30GB | packet.payload: a size is too large | at most
topology.link_delay=1e999999999s | topology.link_delay: a time is too | at most
seeds=!!bool x | seeds: the value is not valid YAML | key=value
topology={k: 4, k: 8} | topology: the value is not valid YAML | key=value
packet.payload=0B | packet.payload: | greater than 0
topology.leaves=1.5 | topology.leaves: must be an integer (1.5) | use a whole number
topology.fabric_rate=0bps | topology.fabric_rate: | greater than 0
topology={kind: fat_tree, k: 5} | topology.k: must be a multiple of 2 (5) | use a multiple of 2
topology={kind: graph, path: nowhere.json} | nowhere.json: file: cannot be | give
topology.queue=0B | topology.queue: a queue without room | unlimited
topology.failures=[{link: leaf0-spine9}] | topology.failures.0: 'leaf0-spine9' is not in the fabric
| name a link such as
topology.hosts_per_leaf=1000000 | topology: these are 6,000,008 links | smaller fabric
topology={kind: fat_tree, k: 512} | topology: these are | smaller fabric
topology.hosts_per_leaf=4000 | algorithms.all_to_all: direct among 8,000 ranks takes more than 64,000,000 messages
| fewer ranks
topology.failures=[{switch: spine0, at: 2us}] & topology.queue=unlimited & recovery.kind=none
| document: topology.failures.0 loses packets that are not sent again | set recovery.kind
topology.fabric_rate=[100Gbps] | topology: fabric_rate lists 1 rates for 2 spines | one rate for each
workload.op=gossip | workload.op: | 'all_reduce'
workload.bytes_per_rank=0B | workload.bytes_per_rank: | greater than 0
jobs=[{workload: {kind: collective, op: all_reduce, bytes_per_rank: 1KB}, ranks: [0, 1]}]
| document: there must be either workload or jobs | write exactly one
workload=null | document: there must be either workload or jobs | exactly one
transports=[ecmp, teleport] | transports.1 | ecmp,
transports=[{kind: drill, d: 0}] | transports.0.d: must be greater | (0) | use
transports=[{class: 'no_such_module:Latin'}] | transports.0: no_such_module cannot be imported
| run from the folder that contains it
transports=[{class: 'json:JSONDecoder'}] | transports.0: JSONDecoder of json is not a transport
| extends netsim.transport.Transport
transports=[{class: 'json:dumps'}] | transports.0: dumps of json is not a transport | extends netsim.transport.Transport
transports=[ecmp, ecmp] | transports: 'ecmp' occurs twice | give it a label
transports=[{kind: ecmp, label: 'a,b'}] | transports.0.label: | pattern
transports=[] | transports: | 1 or more
watch={flows: [3]} | watch.flows.0: 3 is not a pair of ranks | such as [0, 5]
watch={flows: [[0, 1]]} & congestion.kind=none & topology.queue=unlimited & recovery.kind=none
| document: watch.flows are recorded when acknowledgements arrive | set congestion.kind
seeds=[1, 1] | seeds: an entry occurs twice | remove one
congestion={kind: dctcp, gain: -1} | congestion.gain: must be greater | (-1) | use
flow_control={kind: pfc, xoff: 1} | flow_control.xoff: is not a known key (1) | remove it
flow_control={kind: pfc, pause_above: 1KB, resume_at: 2KB} | flow_control: resume_at is not below pause_above | lower it
flow_control.kind=trim & topology.queue=unlimited | document: flow_control trim needs a queue and repeats | set topology
topology={kind: preset} | topology: a topology of kind preset needs a name | write name: dgx_h100_32
topology={kind: preset, name: 3} | needs a name
topology={kind: preset, name: dgx_h100} | or the name of one in configs/topologies: dgx_h100_32, dgx_h100_128
topology={kind: preset, name: dgx_h100_32, spine: 3} | topology.spine: is not a known key (3) | write spines
topology={kind: torus} | topology.dims: is missing
topology={kind: torus, dims: []} | topology.dims: has no entries
topology={kind: torus, dims: [4, 1]} | topology.dims.1: must be | (1) | use 2 or more
topology={kind: torus, dims: [300, 4]} | topology: two switches are up to 152 links apart
topology={kind: torus, dims: [4096, 4096]} | topology: these are
transports=[valiant] | transports.0: valiant takes detours, and a leaf_spine has none | kind dragonfly or torus
engine=quantum | engine: must be 'auto', 'simpy' | ('quantum')
algorithms.all_reduce=star | algorithms.all_reduce: must be 'ring', 'tree' | ('star')
rank_order=[0, 2] | rank_order: lacks rank 1 | once
jobs=[{workload: {kind: collective, op: all_reduce, bytes_per_rank: 1KB}, ranks: [1, 1]}] & workload=null
| jobs.0.ranks: an entry occurs twice | remove one
jobs=[{workload: {kind: collective, op: all_reduce, bytes_per_rank: 1KB}, ranks: [1, 4]}] & workload=null
| jobs.0: rank 4 has no host (4 ranks fit) | take a larger topology
workload={kind: trace, path: nowhere.jsonl} | nowhere.jsonl: file: cannot be | give
seeds | seeds: is not key=value | write key=value
topology.leaves.x=1 | topology.leaves.x: nothing can be below 2 | existing
transports.7=ecmp | transports.7: no entry 7 in a list of 1 | count from 0
seeds=[0 | seeds: the value is not valid YAML | write key=value
"""
"""Settings behind a good scenario, and what the line says, in this order."""

FAT_TREES = """
rails: true | rails need several adapters a host
adapters_per_host: 3, rails: true | 4 edges_per_pod do not make pods of 3
adapters_per_host: 3 | do not fill the 4 ports | give hosts_per_edge
adapters_per_host: 2, ranks_per_host: 3 | 3 ranks of a host do not share
adapters_per_host: 2, gpu_link_rate: null | need links between GPUs
adapters_per_host: 0 | topology.adapters_per_host | greater than 0 | (0)
adapters_per_host: two | topology.adapters_per_host | integer | ('two')
adapters_per_host: 2, gpu_link_rate: 400 | topology.gpu_link_rate | needs a unit
rails: 1 | topology.rails: is 1, neither true nor false
"""
"""Keys of a fat tree with 4 ports of an edge for hosts."""

DRAGONFLIES = """
flow_control.kind=pfc | flow_control pfc can pause links of a dragonfly in a circle
topology.groups=4 | topology: 4 groups have no link each to each other | take at most 3
topology.groups=1 | topology.groups: must be | (1) | use 2 or more
topology.switches_per_group=2000 & topology.global_links=9 | topology: these are
topology.failures=[{link: group0switch1-group1switch0}] | topology.failures.0: | is not in the fabric
topology.failures=[{link: group0switch0-group1switch1}] | topology: no path leads from host0 to host2
"""
"""Settings on a small dragonfly."""

COLLECTIVES = """
op: all_reduce, bytes_per_rank: 1KB, splits: {kind: zipf, exponent: 1} | workload.splits | all_reduce has no splits
op: all_to_all, splits: {kind: zipf, exponent: 1} | workload.bytes_per_rank | is missing
op: broadcast | workload.bytes_per_rank | is missing
op: all_to_all, bytes_per_rank: 1KB, splits: {kind: matrix, path: a.csv} | workload.bytes_per_rank
| the matrix of splits says already how much moves
op: all_to_all, bytes_per_rank: 1KB, splits: {kind: pareto} | workload.splits.kind | is not one of
op: all_to_all, bytes_per_rank: 1KB, splits: {kind: zipf, exponent: -1} | workload.splits.exponent | (-1)
op: all_to_all, bytes_per_rank: 1KB, splits: {kind: zipf, exponent: 1, seed: 0.5} | workload.splits.seed | 0.5
op: all_to_all, bytes_per_rank: 1KB, splits: {kind: zipf, exponent: 1, top: 1} | workload.splits.top | not a known key
"""
"""Keys of a collective."""

MODELS = """
layers=0.5 | workload.layers | integer | (0.5)
layers=0 | workload.layers | greater than or equal to 1 | (0)
hiden=8 | workload.hiden | not a known key | write hidden
network=unet | workload.network | ('unet')
division.pipeline=3 | layers 4 | division.pipeline 3 | pipeline: 2
sequence=48 | tokens 64 | sequence 48 | write sequence: 32
experts=6 & division.expert=4 | experts 6 | write division.expert: 3
experts=6 & division.expert=3 | division.data 4 | division.expert: 2
division.expert=2 | no experts | write experts
experts=4 & top_k=5 | top_k 5 exceeds experts 4 | write 4 at most
top_k=2 | top_k is 2 | no experts | write experts, or remove top_k
shared_expert=8 | shared_expert | beside no experts
experts=4 & division.tensor=2 | division.tensor | write 1
division.tensor=3 | hidden 64 | write division.tensor: 2
heads=5 | hidden 64 | heads 5 | write heads: 4
kv_heads=2 | heads is missing beside kv_heads | add it
heads=8 & kv_heads=3 | heads 8 | kv_heads 3 | write kv_heads: 2
weight_bytes=3 | workload.weight_bytes | (3)
division.data=8 | workload | rank 7 has no host | larger topology
microbatches=4096 & layers=4096 | too many collectives | lower layers
overlap=1 | workload.overlap: is 1, neither true nor false
device=h1000 | workload.device | ('h1000') | use h100
device=none.csv | none.csv | No such file | give a table of measurements in CSV
"""
"""Keys of a model on four ranks."""

ROWS = """
gem,1x1x1,half,1 | line 2: kind | ('gem') | write gemm
gemm,1x1x1,half | line 2 | has 3 cells instead of 4
gemm,64x64,half,1 | line 2: sizes | MxNxK ('64x64')
gemm,64x0x64,half,1 | line 2: sizes | whole number ('0')
gemm,2199023255552x1x1,half,1 | line 2: sizes | too large
gemm,1x1x1,half,0 | line 2: time_us | is not a time ('0')
gemm,1x1x1,half,nan | line 2: time_us | ('nan') | or more
gemm,1x1x1,half,1e-300 | line 2: time_us | ('1e-300')
gemm,1x1x1,half,-1 | line 2: time_us | ('-1')
gemm,1x1x1,half,3us | line 2: time_us | ('3us') | 221.3
gemm,1x1x1,half,1 | gemm has 1 rows | takes 9 | measure more
"""
"""The only row of a table of measurements."""

TIMES = "kind,sizes,dtype,time_us\n"
NINE = "".join(f"gemm,{size}x64x64,half,{size}\n" for size in range(1, 10))
TABLES = [
    ("", "is empty"),
    ("kind\0", "is not text"),
    ("kind,sizes,dtype\n", "line 1", "time_us occurs 0 times", "such as gemm,"),
    ("kind,sizes,dtype,time_us,time_us\n", "line 1", "time_us occurs 2 times"),
    (TIMES + TIMES, "line 2: kind", "is not known ('kind')"),
    *((f"{TIMES}{row}\n", *told) for row, *told in rows(ROWS)),
    (TIMES + "gemm,1x1x1,half,1\n" * 9, "gemm has 9 rows", "two sizes"),
    (TIMES + NINE.replace("gemm", "attention").replace("x64x64", "x1x64x64"), "gemm is mis"),
    (TIMES + "memory,64,,1\n" * 9, "has no products"),
    (TIMES + NINE + NINE.replace("half", "float"), "float, half", "workload.device.dtype"),
]
"""Tables of measurements, and what the line says."""

MODEL = "workload={kind: model, layers: 1, hidden: 8, tokens: 8, device: {table: file"
FLOWS = "src,dst,bytes,start_ns\n"
TALK = "workload={kind: flows, path: file} & watch={flows: "
FILES = [
    *((MODEL + "}}", text, "file: ", *told) for text, *told in TABLES),
    (MODEL + ", dtype: int8}}", TIMES + NINE, "file: ", "dtype", "no products of type int8", "write one of half"),
    (
        TALK + "[[0, 2], [0, 3]]}",
        FLOWS + "1,2,4000,0\n0,2,4000,0\n0,1,4000,0\n",
        "watch.flows.1: rank 0 sends nothing to rank 3",
        "name pairs that do, such as [0, 2], [0, 1], [1, 2]",
    ),
    (
        "topology.ranks_per_host=2 & " + TALK + "[[0, 2]]}",
        FLOWS + "0,1,4000,0\n",
        "watch.flows.0: rank 0 sends nothing to rank 2",
        "remove watch.flows",
    ),
    ("workload={kind: flows, path: file}", FLOWS + "0,1,100,-5\n", "file: ", "line 2", "start_ns"),
    ("workload={kind: matrix, path: file}", "Nodes 4\nConnections 1\n0->1 start 0\n", "file: ", "line 3", "size"),
    ("topology={kind: graph, path: file}", '{"nodes": [], "links": []}', "file: ", "nodes", "no entries", "1 or more"),
]
"""Settings, the text of the file that they name, and what the line says."""

SMALL_DRAGONFLY = "topology={kind: dragonfly, switches_per_group: 2, hosts_per_switch: 1, global_links: 1}"
SHAPE = "workload={kind: model, layers: 4, hidden: 64, tokens: 64, division: {data: 4}}"
MISTAKES: list[tuple[Sequence[str], str | None, Sequence[str]]] = [
    *((words.split(" & "), None, told) for words, *told in rows(SETTINGS)),
    *(([f"topology={{kind: fat_tree, k: 8, {keys}}}"], None, told) for keys, *told in rows(FAT_TREES)),
    *(([SMALL_DRAGONFLY, *words.split(" & ")], None, told) for words, *told in rows(DRAGONFLIES)),
    *(([f"workload={{kind: collective, {keys}}}"], None, told) for keys, *told in rows(COLLECTIVES)),
    (
        [f"topology={{kind: preset, name: {Path.cwd()}/configs/tables/nccl_ndr.yaml}}"],
        None,
        ["kind: is missing: it holds"],
    ),
    *(([SHAPE, *(f"workload.{key}" for key in keys.split(" & "))], None, told) for keys, *told in rows(MODELS)),
    *((words.split(" & "), text, told) for words, text, *told in FILES),
]


@each("words, text, told", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: Sequence[str],
    text: str | None,
    told: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    if text is not None:
        (tmp_path / "file").write_text(text, encoding="utf-8")
    given = {*tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    code = main(["compare", "s.yaml", *words, "--out", "o"])
    said = capsys.readouterr()
    assert code == 2
    assert re.fullmatch("netsim compare: .+: .*; .+\n", said.err), said.err
    assert re.search(".*".join(map(re.escape, told)), said.err), said.err
    assert said.out == ""
    assert {*tmp_path.iterdir()} == given
