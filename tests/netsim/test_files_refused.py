"""Files of flows, of htsim, GOAL, SimCCL and AICB that are wrong: one line with file, place and what is wrong."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from netsim.foundation.refusal import Refusal
from netsim.topology.htsim import read_topology, section
from tests.each import each, rows
from tests.netsim.foreign import FILES, damaged, laid_out, opened, refused_or_sound

FLOWS = r"""
= src,dst,bytes,start_ns\n | file: lists no flows
= src,dst,bytes\n0,1,4\n | line 1: column start_ns occurs 0 times
= src,src,dst,bytes,start_ns\n | line 1: column src occurs 2 times
= src,dst,bytes,start_ns,colour\n | line 1: has an unknown column ('colour')
= 0,1,4000,0\n | line 1: column src occurs 0 times
0,1,40000,0 => 0,1,4000 | line 2: has 3 cells instead of 4
3,1,8000,2500.125 => 0,1,4000,0,9 | line 4: has 5 cells instead of 4
0,1,40000 => -1,1,4000 | line 2: src: is not a whole number ('-1')
0,1,40000 => 0,one,4000 | line 2: dst: is not a whole number ('one')
0,1,40000 => 1,1,4000 | line 2: dst: is the sender itself (1)
0,1,40000 => 0,9,4000 | line 2: dst: is not a rank (9, of 4)
40000 => 0 | line 2: bytes: is not a whole number ('0')
40000 => 1.5 | line 2: bytes: is not a whole number ('1.5')
40000 => 99999999999999999999 | line 2: bytes: is not a whole number
40000,0 => 40000,nan | line 2: start_ns: is not a time ('nan')
40000,0 => 40000,-1 | line 2: start_ns: is not a time ('-1')
40000,0 => 40000,0.0001 | line 2: start_ns: is not a time ('0.0001')
40000,0 => 40000,9999999999999999 | line 2: start_ns: is not a time
40000,0 => 40000, | line 2: start_ns: is not a time ('')
"""
MATRIX = r"""
= # nothing\n | Nodes: is missing
= Nodes 4\n | file: lists no connections
Nodes 4 => # | Nodes: is missing or 0; write the line Nodes
cut 2->1 | Connections: announces 4, the file has 1
cut _trigger 1\n2->1 | line 5: has an unknown word ('recv_done')
cut  1\n2->1 | line 5: recv_done_trigger: has no value
Connections 4 => Nodes 4 | line 3: is not a header line
Nodes 4 => Nodes four | line 2: Nodes: is not a whole number ('four')
3->0 => -3->0 | line 8: src: is not a whole number ('-3')
3->0 => 3->4 | line 8: dst: is not a node (4, of 4)
3->0 => 3->3 | line 8: dst: is the sender itself (3)
size 8000  =>  | line 7: size: is missing
size 8000 => size 0 | line 7: size: is 0: the flow would never end
size 8000 => size nan | line 7: size: is not a whole number ('nan')
start 1000000 => start 0.5 | line 6: start: is not a whole number
start 1000000 => start 1e40 | line 6: start: is not a whole number
trigger 2 size => trigger 2 start 0 size | line 8: there are both
 trigger 2 size =>  size | line 8: there is neither start nor trigger
prio => colour | line 7: has an unknown word ('colour')
3->0 => 3-0 | line 8: starts with an unknown word ('3-0')
id 4 => id 3 | line 8: id: occurs twice (3)
id 4 => id 0 | line 8: id: is 0
id 4 => id 4 id 4 | line 8: id: occurs twice
send_done_trigger 2 => send_done_trigger 9 | line 7: send_done_trigger: no
id 2 oneshot => id 1 oneshot | line 10: id: occurs twice (1)
 oneshot =>  | line 10: is of no kind
oneshot => oneshot multishot | line 10: is oneshot and multishot
id 2 oneshot => oneshot | line 10: id: is missing
 count 2 =>  | line 9: count: is missing or 0
count 2 => count 3 | line 9: trigger 1 (barrier) must be fired 3 times
barrier count 2 => oneshot | line 9: trigger 1 (oneshot) must be fired 1
start 0 size => trigger 2 size | line 5: trigger: triggers wait for each other
+ failure switch_type AGG switch_id 0 link_id 1\n | line 11: fails link 1 up of AGG switch 0
+ failure switch_type AGG switch_id 0\n | line 11: is not a failure
+ failure switch_type HOST switch_id 0 link_id 1\n | line 11: switch_type: is not a tier of switches ('HOST')
+ failure switch_type AGG switch_id 0 link_id x\n | line 11: link_id: is not a whole number ('x')
Triggers 2 => Triggers 3 | Triggers: announces 3, the file has 2
Connections 4\n =>  | Connections: announces 0, the file has 4
= Nodes 2\nConnections 1\n0->1 id 1 msg 0 start 0 size 4 | line 3: msg: is 0
= Nodes 2\nConnections 1\n0->1 msg start 0 size 4 | line 3: msg: belongs to no connection
= Nodes 2\nConnections 1\n0->1 id 1 msg msg start 0 size 4 | line 3: msg: occurs twice
= Nodes 2\nConnections 2\n0->1 id 1 msg 2 start 0 size 4\n0->1 id 1 msg 2 start 0 size 4 | line 4: msg: 2 occurs twice
= Nodes 2\nConnections 2\n0->1 id 1 msg start 0 size 4\n0->1 id 1 start 0 size 4 | line 4: id: occurs twice (1)
= Nodes 2\nConnections 2\n0->1 id 1 msg start 0 size 4\n1->0 id 1 msg start 0 size 4
| line 4: id: 1 is already that of 0->1
"""
TOPOLOGY = r"""
cut Radix_Down | tier 0: radix_down: is missing
Nodes 16\n =>  | nodes: is missing
Nodes 16 => Nodes many | line 2: Nodes: is not a whole number ('many')
Nodes 16 => Nodes 0 | line 2: Nodes: is not a whole number ('0')
Tiers 2 => Tiers 1 | tiers: is 1
Tiers 2 => Tiers 3 | tier 1: radix_up: is missing
+ Tier 2\nRadix_Down 4\n | tier 2: is not among 2 tiers
Tier 1 => Tier 0 | line 14: Tier: tier 0 occurs twice
Bundle => Bundel | line 18: Bundel: is not a known key
Bundle 2 => Bundle 2\nBundle 2 | line 19: Bundle: occurs twice
Bundle 2 => Bundle | line 18: Bundle: has 0 values
+ Podsize 16\n | line 20: Podsize: is out of place
Radix_Up 4 => Radix_Up -4 | line 9: Radix_Up: is not a whole number ('-4')
+ Radix_Up 4\n | tier 1: radix_up: does not belong to the highest tier
Downlink_speed_Gbps 100\n =>  | tier 0: downlink_speed_gbps: is missing
Podsize 16 => Podsize 8 | podsize: makes 2 pods
Podsize 16 => Podsize 5 | podsize: hosts do not fill pods
Radix_Down 4 => Radix_Down 5 | tier 0: radix_down: the hosts of a pod
Radix_Down 8 => Radix_Down 4 | tier 1: radix_down: is 4
Bundle 2\n =>  | tier 1: radix_down: is 8
Radix_Up 4 => Radix_Up 3 | tier 1: bundle: ports up of a leaf
Radix_Up 4 => Radix_Up 2 | tier 0: oversubscribed: is 1, but
Radix_Up 4 => Radix_Up 4\nBundle 2 | tier 0: bundle: is 2
Radix_Up 4 => Radix_Up 4\nSwitch_Latency_ns 9 | tier 0: switch_latency_ns
ns 500 => ns 400 | tier 1: downlink_latency_ns: is 500ns, not 400ns
Up 800000 => Up 900000 | queue_down: queues differ
"""
GOAL = r"""
+ | file: lists no operations
= calc 5 | line 1: is outside of a rank ('calc 5')
= num_ranks 0 | line 1: num_ranks: is 0
= num_ranks 5000000 | line 1: num_ranks: is too large (5000000)
+ num_ranks 2\n | line 2: num_ranks: occurs twice
= rank 0 {\n} | line 1: rank: stands before num_ranks
+ rank 2 {\n} | line 2: rank: is not a rank (2, of 2)
+ rank 0 {\n}\nrank 0 {\n} | line 4: rank: occurs twice (0)
+ rank 0 {\nrank 1 {\n} | line 3: has a { that opens no rank
+ rank 0 {\n}\n} | line 4: has a } that closes no rank
+ rank 0 {\ncalc 5\n | line 4: rank 0, opened in line 2, is not closed
+ /* a | line 2: begins a comment that never ends
+ rank 0 {\ncompute 5\n} | line 3: is no operation ('compute 5')
+ rank 0 {\na:\n} | line 3: is no operation ('')
+ rank 0 {\n1a: calc 5\n} | line 3: is not a label ('1a')
+ rank 0 {\na: calc 5\na: calc 6\n} | line 4: label: occurs twice in rank 0 ('a')
+ rank 0 {\na: calc 5\na requires b\n} | line 4: names no operation of rank 0 ('b')
+ rank 0 {\na: calc 5\n}\nrank 1 {\nb: calc 5\nb requires a\n} | line 7: names no operation of rank 1 ('a')
+ rank 0 {\ncalc\n} | line 3: calc: has no duration
+ rank 0 {\ncalc -5\n} | line 3: calc: is not a whole number ('-5')
+ rank 0 {\ncalc 4611686018427388\n} | line 3: calc: is too large
+ rank 0 {\ncalc 4611686018427386\ncalc 4611686018427386\n} | file: all calc together are too large
+ rank 0 {\nsend 5 to 1\n} | line 3: send: is cut off or malformed
+ rank 0 {\nsend 5b from 1\n} | line 3: send: is cut off or malformed
+ rank 0 {\nsend 5b to 0\n} | line 3: to: is the rank itself (0)
+ rank 0 {\nsend 5b to 2\n} | line 3: to: is not a rank (2, of 2)
+ rank 0 {\nrecv 5b from -1\n} | line 3: from: is any rank (-1)
+ rank 0 {\nrecv 5b from 1 tag -1\n} | line 3: tag: is any tag (-1)
+ rank 0 {\nrecv 5b from 1 tag\n} | line 3: tag: has no value
+ rank 0 {\nrecv 5b from 1 tag 1 tag 2\n} | line 3: tag: occurs twice
+ rank 0 {\ncalc 5 gpu 1\n} | line 3: has an unknown word ('gpu')
+ rank 0 {\nsend 5b to 1 tag 3\n} | line 3: send: 5 B with tag 3 of rank 0: rank 1 never receives it
+ rank 0 {\nrecv 5b from 1 tag 3\n} | line 3: recv: 5 B with tag 3 of rank 0: rank 1 sends
+ rank 0 {\nsend 5b to 1\n}\nrank 1 {\nrecv 6b from 0\n} | line 6: recv bytes: 6 received of 5 sent in line 3
+ rank 0 {\na: calc 5\nb: calc 6\na requires b\nb irequires a\n} | line 3: calc: rank 0 never gets through
+ rank 0 {\na: recv 5b from 1;b: send 5b to 1;b requires a }\nrank 1 {a: recv 5b from 0; b: send 5b to 0; b requires a }
| line 3: recv: rank 0 never gets through
"""
SIMCCL = r"""
flow_size, =>  | line 1: column flow_size occurs 0 times
cut ,8000,0,2,RING,,2 | line 2: has 9 cells instead of 15
cut DP | file: lists no flows
8000 => 8k | line 2: flow_size: is not a whole number ('8k')
0,0,0,1,8000 => 0,0,2,2,8000 | line 2: dest: is the sender itself (2)
0,0,0,1,8000 => 0,0,0,1000000000,8000 | line 2: dest: is not a rank (1000000000)
0,0,0,1,8000 => 0,0,0,8,8000 | line 2: dest: is not a rank (8, of 8)
0,5,0,1 => 0,0,0,1 | line 3: flow_id: 0 occurs twice in a collective
RING,2,2 => RING,7,2 | line 3: parent_flow_ids: names flow 7, which is not
RING,2,2 => RING,1|2,2 | line 3: parent_flow_ids: is not a whole number ('1|2')
RING,,1 => RING,5,1 | line 3: parent_flow_ids: flows wait for each other in a circle
RING => NVLS | line 2: conn_type: reduces inside a switch
8000 => 4611686018427387903 | flow_size: is too large, all flows together
"""
AICB = r"""
= MICRO\n1\nlayer | line 1: begins with no known kind of workload ('MICRO')
model_parallel_NPU_group: 2 =>  | line 1: model_parallel_NPU_group: is missing
ep: 1 => ep: 0 | line 1: ep: is not a whole number ('0')
checkpoints: 0 => checkpoints: 0 pp_comm: | line 1: has a key without its number ('pp_comm:')
_gpus => _gpu | line 1: has an unknown key ('all_gpu'); write all_gpus
checkpoints: 0 => checkpoints: 0 pp: 2 | line 1: pp: occurs twice
checkpoints: 0 => checkpoints: 2 0 1 | line 1: checkpoints: asks to compute layers again
gpus: 4 => gpus: 5000000 | line 1: all_gpus: is too large (5000000)
gpus: 4 => gpus: 64 | line 1: all_gpus: there are 64
ep: 1 => ep: 3 | line 1: 4 ranks are no multiple of tensor 2 x
cut \n1\n | line 2: is missing
\n1\n => \nthree\n | line 2: number of layers: is not a whole number ('three')
\n1\n => \n2\n | line 2: says 2 layers, and 1 follow
cut  NONE | line 3: has 6 columns instead of 12
 1 ALLG =>  1.5 ALLG | line 3: forward time: is not a whole number ('1.5')
8000 => -8 | line 3: forward size: is not a whole number ('-8')
8000 100 => 8000 x | line 3: process time: is not a whole number ('x')
ALLREDUCE => ALLREDUCEALLTOALL | line 3: weight gradient: names no known collective ('ALLREDUCEALLTOALL')
| write NONE, or one of ALLREDUCE
GATHER => GATHER_TP | line 3: forward: names no known collective
 1 N =>  2305843009213693952 N | file: all times together are too long
8000 => 1152921504606846976 | file: all sizes together are too large
"""

WORKLOAD = """\
HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 2 ep: 1 pp: 1 vpp: 2 ga: 1 all_gpus: 4 checkpoints: 0
1
layer -1 1 ALLGATHER 8000 1 NONE 0 1 ALLREDUCE 8000 100
"""


class Kind(NamedTuple):
    """A kind of files.

    Attributes:
        sound: text of a file that is not refused, or would not be if it went on.
        wrong: edits of the text, and what the line says of each.
        ranks: how many there are.
    """

    sound: str
    wrong: str
    ranks: int


KINDS = {
    "flows": Kind((FILES / "flows.csv").read_text(), FLOWS, 4),
    "matrix": Kind((FILES / "htsim.cm").read_text(), MATRIX, 4),
    "topology": Kind((FILES / "htsim.topo").read_text(), TOPOLOGY, 0),
    "goal": Kind("num_ranks 2\n", GOAL, 2),
    "simccl": Kind((FILES / "simccl.csv").read_text(), SIMCCL, 8),
    "aicb": Kind(WORKLOAD, AICB, 8),
}


def edited(text: str, edit: str) -> str:
    """A text after `old => new`, `+ more`, `cut before` or `= another`."""
    edit = edit.replace("\\n", "\n")
    if edit.startswith("= "):
        return edit[2:]
    if edit.startswith("+"):
        return text + edit[2:]
    if edit.startswith("cut "):
        return text[: text.index(edit[4:])]
    old, new = edit.split(" => ")
    assert old in text
    return text.replace(old, new, 1)


def read(kind: str, path: Path) -> None:
    if kind == "topology":
        section(read_topology(path))
    else:
        laid_out(opened(kind, path), KINDS[kind].ranks)


def check_refused(kind: str, path: Path, *told: str) -> None:
    with pytest.raises(Refusal) as error:
        read(kind, path)
    line = str(error.value)
    assert line.startswith(f"{path}: {told[0]}")
    assert all(part in line for part in told)
    assert "\n" not in line


@each("kind, row", [(kind, row) for kind, (_, wrong, _) in KINDS.items() for row in rows(wrong)])
def test_says_in_one_line_what_is_wrong(kind: str, row: list[str], tmp_path: Path):
    edit, *told = row
    path = tmp_path / "file"
    path.write_text(edited(KINDS[kind].sound, edit), encoding="utf-8")
    check_refused(kind, path, *told)


@each("kind", KINDS)
@each("content, told", [(None, "cannot be read"), (b"", "is empty"), (b"\xff\xfe\x00\x01", "is not text")])
def test_files_that_are_absent_empty_or_binary(kind: str, content: bytes | None, told: str, tmp_path: Path):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    check_refused(kind, path, f"file: {told}")


@each(
    "kind, name",
    [
        ("flows", "flows.csv"),
        ("matrix", "htsim.cm"),
        ("goal", "schedule.goal"),
        ("simccl", "simccl.csv"),
        ("aicb", "aicb.txt"),
    ],
)
def test_damaged_files_are_refused_or_still_sound(kind: str, name: str, tmp_path: Path):
    path, refused = tmp_path / "file", []
    for content in damaged((FILES / name).read_bytes(), 300):
        path.write_bytes(content)
        refused.append(refused_or_sound(partial(opened, kind, path), 8 if kind == "aicb" else 64))
    assert 60 < sum(refused) < 300, "both happen"
