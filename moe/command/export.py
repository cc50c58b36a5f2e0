"""export: a placement or a trace in the format of another tool."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moe.command.verb import Verb
from netsim.foundation.outputs import OutputFile

if TYPE_CHECKING:
    from moe.placement.placement import Placement

_DESCRIPTION = """\
Writes a file of this project in a format of another tool:
  exflow-csv   a placement (.json) as CSV with the header Expert,Node; no replicas
  exflow-npy   the expert ids of a routing trace (.npz) as an array [tokens, layers],
               or [tokens, layers, k] for several choices
  sglang       a placement as physical_to_logical_map [hidden layers][physical experts],
               with replicas. SGLang counts dense layers too: those that the placement
               names, or else --dense-layers (0 for DeepSeek-V2-Lite, 0-2 for DeepSeek-V3).
               Serve with
                 --ep-size RANKS --ep-num-redundant-experts REPLICAS
                 --init-expert-location OUT.json
  vllm         a placement as the bare table [MoE layers][physical experts] that vLLM's
               balancer (EPLB) keeps, with replicas; physical expert p is on rank
               p // (physical / ranks). vLLM has no option yet that reads a table when it
               starts: it begins with experts by number and moves them by its own policy.
               The pull request vllm#49572 reads this one, with
                 --enable-expert-parallel --enable-eplb
                 --eplb-config.num_redundant_experts REPLICAS
                 --eplb-config.initial_expert_map_path OUT.json
"""
_EXAMPLES = """\
examples:
  python -m moe export placement.json --to exflow-csv placement.csv
  python -m moe export routing.npz --to exflow-npy routing.npy
  python -m moe export placement.json --to sglang map.json --dense-layers 0
  python -m moe export placement.json --to vllm map.json
"""
_FORMATS = {"exflow-csv": "Expert,Node", "exflow-npy": "NUMPY", "sglang": "physical_to_logical_map", "vllm": "[\n["}
"""Formats, each with what its files begin with."""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="FILE", help="placement (.json) or routing trace (.npz)")
    command.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(_FORMATS))
    command.add_argument("out", type=Path, metavar="OUT", help="file to write")
    command.add_argument(
        "--dense-layers",
        metavar="LIST",
        help="hidden layers without experts, such as 0-2, for sglang (default: those of the placement)",
    )


def _run(arguments: argparse.Namespace) -> None:
    from moe.interchange.exflow import write_csv, write_npy
    from moe.placement.placement import Placement
    from moe.routing_trace import RoutingTrace

    if arguments.to not in _FORMATS:
        raise ValueError(f"to: unknown format ({arguments.to}); choose from {', '.join(_FORMATS)}")
    if arguments.dense_layers is not None and arguments.to != "sglang":
        raise ValueError(f"dense_layers: {arguments.to} has rows for MoE layers alone; leave it out")
    sizes = ""
    if arguments.to == "exflow-npy":
        write_npy(RoutingTrace.read(arguments.source), arguments.out)
    elif arguments.to == "exflow-csv":
        write_csv(Placement.read(arguments.source), arguments.out)
    else:
        sizes = _write_map(Placement.read(arguments.source), arguments)
    print(f"wrote {arguments.out}{sizes}")


def _write_map(placement: "Placement", arguments: argparse.Namespace) -> str:
    """Write the map of SGLang or vLLM; returns its sizes in words."""
    from moe.interchange.documents import parse_layers
    from moe.interchange.physical_map import write_map

    dense = parse_layers(arguments.dense_layers) if arguments.dense_layers is not None else None
    rows = write_map(placement, arguments.out, bare=arguments.to == "vllm", dense_layers=dense)
    layers, physical = rows.shape
    return (
        f": {layers} layers, {placement.num_experts} experts and {physical - placement.num_experts} replicas of some "
        f"on {placement.num_ranks} ranks"
    )


EXPORT = Verb(
    "export",
    "write a placement or a trace for another tool",
    lambda: _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    _run,
    lambda options: [(OutputFile("OUT", tuple(_FORMATS.values())), options.out)],
)
