"""import: a placement or a routing trace of another tool."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moe.command.verb import Verb
from netsim.foundation.outputs import OutputFile

if TYPE_CHECKING:
    from moe.interchange.documents import Imported

_DESCRIPTION = """\
Reads files of another tool and writes a placement (.json) or a routing trace (.npz)
of this project. Choose the format:
  exflow-csv             placement of ExFlow (default): CSV with the header Expert,Node,
                         where Node is a rank and an expert's id is layer * experts + expert
  sglang                 placement of SGLang: JSON or .pt with physical_to_logical_map
                         [hidden layers][physical experts]; replicas are kept
  vllm                   placement of vLLM: the same map for MoE layers alone, as a bare
                         JSON table or under that name
  esft                   routing: folders of ESFT's scores, expert_weights_LAYER.txt;
                         choices are sorted by weight, sequences dealt to --ranks in turn
  megatron-router-trace  routing: files of Megatron-Core's --moe-routing-trace-path, one a
                         rank; pipelined runs cannot be joined, and Megatron writes
                         a token's choices in the order of ids
  sglang-distribution    dump of SGLang's recorder, JSON or .pt. Per token: routing, of
                         one file a rank, or of one file dealt to --ranks. Counts
                         (logical_count) tell of no token: with --nodes and
                         --ranks-per-node they become the placement that packs them
"""
_EXAMPLES = """\
examples:
  python -m moe import placement.csv --num-experts 8 --nodes 1 --ranks-per-node 4 \\
      --out placement.json
  python -m moe import --from sglang map.json --dense-layers 0 --nodes 1 --ranks-per-node 8 \\
      --out placement.json
  python -m moe import --from esft results/expert_scores/law --ranks 8 --out routing.npz
  python -m moe import --from megatron-router-trace traces/*.jsonl --out routing.npz
  python -m moe import --from sglang-distribution counts.pt --nodes 1 --ranks-per-node 8 \\
      --slots-per-rank 9 --out placement.json
"""


@dataclass(frozen=True)
class _Format:
    """How one format is read.

    Attributes:
        needed: Options that it needs, by the names of their values.
        optional: Options that it takes besides.
        read: Reads the sources that the arguments name.
        several: Whether there may be several of them.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    read: "Callable[[argparse.Namespace], Imported]"
    several: bool = False


def _read_exflow(arguments: argparse.Namespace) -> "Imported":
    from moe.interchange.documents import Imported
    from moe.interchange.exflow import read_csv

    sizes = arguments.num_experts, arguments.nodes, arguments.ranks_per_node
    return Imported(read_csv(arguments.source[0], *sizes))


def _read_map(arguments: argparse.Namespace) -> "Imported":
    from moe.interchange.documents import Imported, parse_layers
    from moe.interchange.physical_map import read_map

    dense = parse_layers(arguments.dense_layers) if arguments.dense_layers is not None else ()
    group, experts = (arguments.nodes, arguments.ranks_per_node), arguments.num_experts
    return Imported(read_map(arguments.source[0], *group, num_experts=experts, dense_layers=dense))


def _read_esft(arguments: argparse.Namespace) -> "Imported":
    from moe.interchange.esft import read_scores

    top_k = 6 if arguments.top_k is None else arguments.top_k
    ranks = 1 if arguments.ranks is None else arguments.ranks
    return read_scores(arguments.source, top_k=top_k, num_experts=arguments.num_experts, ranks=ranks)


def _read_megatron(arguments: argparse.Namespace) -> "Imported":
    from moe.interchange.megatron import read_trace

    return read_trace(arguments.source, num_experts=arguments.num_experts)


def _read_distribution(arguments: argparse.Namespace) -> "Imported":
    from moe.interchange.sglang import read_distribution

    group = arguments.nodes, arguments.ranks_per_node
    if group.count(None) == 1:
        raise ValueError("nodes: is needed together with --ranks-per-node; give both or neither")
    return read_distribution(
        arguments.source,
        num_experts=arguments.num_experts,
        ranks=arguments.ranks,
        group=None if None in group else group,
        slots=arguments.slots_per_rank,
    )


_GROUP = ("nodes", "ranks_per_node")
_FORMATS = {
    "exflow-csv": _Format(("num_experts", *_GROUP), (), _read_exflow),
    "sglang": _Format(_GROUP, ("num_experts", "dense_layers"), _read_map),
    "vllm": _Format(_GROUP, ("num_experts",), _read_map),
    "esft": _Format((), ("num_experts", "ranks", "top_k"), _read_esft, several=True),
    "megatron-router-trace": _Format((), ("num_experts",), _read_megatron, several=True),
    "sglang-distribution": _Format(
        (), ("num_experts", "ranks", *_GROUP, "slots_per_rank"), _read_distribution, several=True
    ),
}


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("source", type=Path, nargs="+", metavar="SOURCE", help="files, or folders for esft")
    add("--from", dest="format", default="exflow-csv", metavar="FORMAT", help="see above (default exflow-csv)")
    add("--num-experts", type=int, metavar="E", help="experts per layer (default: as many as the largest id needs)")
    add("--nodes", type=int, metavar="N", help="nodes of one expert-parallel group, for placements")
    add("--ranks-per-node", type=int, metavar="R", help="its ranks on each node, for placements")
    add("--slots-per-rank", type=int, metavar="S", help="slots of each rank, for counts (default: no replicas)")
    add("--dense-layers", metavar="LIST", help="hidden layers without experts, such as 0-2, for sglang (default: none)")
    add("--ranks", type=int, metavar="G", help="ranks that sequences are dealt to, for routing (default 1)")
    add("--top-k", type=int, metavar="K", help="choices of a token, for esft (default 6)")
    add("--out", type=Path, required=True, metavar="FILE", help="placement (.json) or routing trace (.npz) to write")


def _run(arguments: argparse.Namespace) -> None:
    chosen = _FORMATS.get(arguments.format)
    if chosen is None:
        raise ValueError(f"from: unknown format ({arguments.format}); choose from {', '.join(_FORMATS)}")
    _check_options(arguments, chosen)
    if len(arguments.source) > 1 and not chosen.several:
        raise ValueError(f"from: {arguments.format} is one file ({len(arguments.source)} are given); give one")
    imported = chosen.read(arguments)

    from moe.placement.placement import Placement

    if not isinstance(imported.result, Placement) and arguments.out.suffix != ".npz":
        raise ValueError(f"out: a routing trace cannot be read by this name ({arguments.out}); name it .npz")
    imported.result.write(arguments.out)
    print(f"wrote {arguments.out}: {imported.summary()}")


def _check_options(arguments: argparse.Namespace, chosen: _Format) -> None:
    """Refuse options that a format lacks or does not look at."""
    for name in chosen.needed:
        if getattr(arguments, name) is None:
            raise ValueError(f"from: {arguments.format} needs {_flag(name)}; give it")
    every = {name for form in _FORMATS.values() for name in (*form.needed, *form.optional)}
    for name in sorted(every - {*chosen.needed, *chosen.optional}):
        value = getattr(arguments, name)
        if value is not None:
            raise ValueError(f"from: {arguments.format} takes no {_flag(name)} ({value}); leave it out")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _outputs(options: argparse.Namespace) -> list[tuple[OutputFile, Path | None]]:
    mark = "header.npy" if options.out.suffix == ".npz" else "flowfabric.placement/"
    return [(OutputFile("--out", (mark,)), options.out)]


IMPORT = Verb(
    "import",
    "read a placement or a trace of another tool",
    lambda: _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    _run,
    _outputs,
)
