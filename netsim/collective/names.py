"""Names of the algorithms of each collective, and of what chooses among them; the first one is the default."""

from typing import Literal

Choice = Literal["auto", "nccl", "table"]
"""auto: the least estimate on this fabric; nccl: NCCL's choice; table: that of a file."""

AllReduce = Literal["ring", "tree", "double_tree", "recursive_doubling", "halving_doubling", "direct", "hierarchical"]
AllGather = Literal["ring", "direct", "halving_doubling", "hierarchical"]
ReduceScatter = Literal["ring", "direct", "halving_doubling", "hierarchical"]
AllToAll = Literal["direct", "two_phase", "hierarchical", "pxn"]
Broadcast = Literal["tree", "ring", "direct"]
