"""export and import: placements and routing traces in the formats of other tools."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from netsim.foundation.command import WORD, Request, Verb
from netsim.foundation.outputs import OutputFile

if TYPE_CHECKING:
    from moe.interchange.documents import Imported
    from moe.placement.placement import Placement

_EXPORT_DESCRIPTION = """\
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

_EXPORT_EXAMPLES = """\
examples:
  python -m moe export placement.json --to exflow-csv placement.csv
  python -m moe export routing.npz --to exflow-npy routing.npy
  python -m moe export placement.json --to sglang map.json --dense-layers 0
  python -m moe export placement.json --to vllm map.json
"""

_TARGETS = {
    "exflow-csv": "Expert,Node",
    "exflow-npy": "NUMPY",
    "sglang": "physical_to_logical_map",
    "vllm": "[\n[",
}

"""Formats, each with what its files begin with."""


class Export(Request):
    """Options of export."""

    source: Annotated[Path, WORD, "FILE"]
    """placement (.json) or routing trace (.npz)"""
    to: Annotated[str, "FORMAT"]
    """exflow-csv, exflow-npy, sglang, vllm"""
    out: Annotated[Path, WORD, "OUT"]
    """file to write"""
    dense_layers: Annotated[str | None, "LIST"] = None
    """hidden layers without experts, such as 0-2, for sglang (default: those of the placement)"""


def _export(arguments: Export) -> None:
    from moe.interchange.exflow import write_csv, write_npy
    from moe.placement.placement import Placement
    from moe.routing_trace import RoutingTrace

    if arguments.to not in _TARGETS:
        raise ValueError(f"to: unknown format ({arguments.to}); choose from {', '.join(_TARGETS)}")
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


def _write_map(placement: "Placement", arguments: Export) -> str:
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
    name="export",
    summary="write a placement or a trace for another tool",
    description=_EXPORT_DESCRIPTION,
    epilog=_EXPORT_EXAMPLES,
    request=Export,
    run=_export,
    outputs=lambda options: [(OutputFile("OUT", tuple(_TARGETS.values())), options.out)],
    following="python -m moe import --help",
)


_IMPORT_DESCRIPTION = """\
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
                         (logical_count) describe no token: with --nodes and
                         --ranks-per-node they become the placement that packs them
"""

_IMPORT_EXAMPLES = """\
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


class Import(Request):
    """Options of import."""

    source: Annotated[tuple[Path, ...], WORD, "SOURCE", "+"]
    """files, or folders for esft"""
    format: Annotated[str, "--from", "FORMAT"] = "exflow-csv"
    """see above (default exflow-csv)"""
    num_experts: Annotated[int | None, "E"] = None
    """experts per layer (default: as many as the largest id needs)"""
    nodes: Annotated[int | None, "N"] = None
    """nodes of one expert-parallel group, for placements"""
    ranks_per_node: Annotated[int | None, "R"] = None
    """its ranks on each node, for placements"""
    slots_per_rank: Annotated[int | None, "S"] = None
    """slots of each rank, for counts (default: no replicas)"""
    dense_layers: Annotated[str | None, "LIST"] = None
    """hidden layers without experts, such as 0-2, for sglang (default: none)"""
    ranks: Annotated[int | None, "G"] = None
    """ranks that sequences are dealt to, for routing (default 1)"""
    top_k: Annotated[int | None, "K"] = None
    """choices of a token, for esft (default 6)"""
    out: Annotated[Path, "FILE"]
    """placement (.json) or routing trace (.npz) to write"""


@dataclass(frozen=True)
class _Format:
    """One input format: its required and optional options, its reader, and whether it takes several sources."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    read: "Callable[[Import], Imported]"
    several: bool = False


def _group(arguments: Import) -> tuple[int, int]:
    """Returns the number of nodes and of ranks on each; both options must be given."""
    assert arguments.nodes is not None
    assert arguments.ranks_per_node is not None
    return arguments.nodes, arguments.ranks_per_node


def _read_exflow(arguments: Import) -> "Imported":
    from moe.interchange.documents import Imported
    from moe.interchange.exflow import read_csv

    assert arguments.num_experts is not None
    return Imported(read_csv(arguments.source[0], arguments.num_experts, *_group(arguments)))


def _read_map(arguments: Import) -> "Imported":
    from moe.interchange.documents import Imported, parse_layers
    from moe.interchange.physical_map import read_map

    dense = parse_layers(arguments.dense_layers) if arguments.dense_layers is not None else ()
    group, experts = _group(arguments), arguments.num_experts
    return Imported(read_map(arguments.source[0], *group, num_experts=experts, dense_layers=dense))


def _read_esft(arguments: Import) -> "Imported":
    from moe.interchange.esft import read_scores

    top_k = 6 if arguments.top_k is None else arguments.top_k
    ranks = 1 if arguments.ranks is None else arguments.ranks
    return read_scores(arguments.source, top_k=top_k, num_experts=arguments.num_experts, ranks=ranks)


def _read_megatron(arguments: Import) -> "Imported":
    from moe.interchange.megatron import read_trace

    return read_trace(arguments.source, num_experts=arguments.num_experts)


def _read_distribution(arguments: Import) -> "Imported":
    from moe.interchange.sglang import read_distribution

    if (arguments.nodes is None) != (arguments.ranks_per_node is None):
        raise ValueError("nodes: is needed together with --ranks-per-node; give both or neither")
    return read_distribution(
        arguments.source,
        num_experts=arguments.num_experts,
        ranks=arguments.ranks,
        group=None if arguments.nodes is None else _group(arguments),
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


def _import(arguments: Import) -> None:
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


def _check_options(arguments: Import, chosen: _Format) -> None:
    """Refuse an import that lacks an option its format needs, or has one that the format ignores."""
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


def _outputs(options: Import) -> list[tuple[OutputFile, Path | None]]:
    mark = "header.npy" if options.out.suffix == ".npz" else "flowfabric.placement/"
    return [(OutputFile("--out", (mark,)), options.out)]


IMPORT = Verb(
    name="import",
    summary="read a placement or a trace of another tool",
    description=_IMPORT_DESCRIPTION,
    epilog=_IMPORT_EXAMPLES,
    request=Import,
    run=_import,
    outputs=_outputs,
    following="python -m moe export --help",
)
