"""import: a placement of another tool."""

import argparse
from pathlib import Path

from moe.command.verb import Verb

_DESCRIPTION = """\
Reads a placement of ExFlow (CSV with the header Expert,Node, where Node is a rank
and the id of an expert is layer * experts + expert) and writes it as a placement
of this project.
"""
_EXAMPLES = """\
example:
  python -m moe import placement.csv --num-experts 8 --nodes 1 --ranks-per-node 4 --out placement.json
"""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="FILE", help="ExFlow's placement (.csv)")
    command.add_argument("--num-experts", type=int, required=True, metavar="E", help="experts per layer")
    command.add_argument("--nodes", type=int, required=True, metavar="N", help="nodes of one expert-parallel group")
    command.add_argument("--ranks-per-node", type=int, required=True, metavar="R", help="its ranks on each node")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="placement to write (.json)")


def _run(arguments: argparse.Namespace) -> None:
    from moe.interchange.exflow import read_csv

    placement = read_csv(arguments.source, arguments.num_experts, arguments.nodes, arguments.ranks_per_node)
    placement.write(arguments.out)
    print(f"wrote {arguments.out}: {placement.num_layers} layers, {placement.slots_per_rank} experts a rank")


IMPORT = Verb("import", "read a placement of ExFlow", lambda: _DESCRIPTION, _EXAMPLES, _add_arguments, _run)
