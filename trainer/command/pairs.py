"""pairs: what a teacher makes of noise."""

import argparse
from pathlib import Path

from netsim.foundation.complaint import first_complaint
from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the teacher's run")
    parser.add_argument("--num-pairs", type=int, required=True, help="pairs to draw; classes, or segments, take turns")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of pairs to write")
    parser.add_argument(
        "--sampler",
        default="{kind: dopri5}",
        metavar="YAML",
        help="how the teacher's field is followed, for example '{kind: heun, steps: 50}'",
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="of the teacher, classifier-free (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument(
        "--segments",
        type=int,
        metavar="P",
        help="cut time into P parts; a pair holds both ends of one part, begun at noised real data",
    )
    parser.add_argument(
        "--nodes",
        metavar="TIMES",
        help="cut time at these times, such as 0,0.3,0.6,1, or at the grid of --evaluations in a file of the steps "
        "verb; a pair holds the states at two neighbouring times",
    )
    parser.add_argument("--evaluations", type=int, metavar="N", help="which grid of the file of --nodes")
    parser.add_argument(
        "--begin",
        choices=("noise", "data"),
        default="noise",
        help="states at nodes are on the teacher's way from noise, or begin at noised real data (default: noise)",
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="float16 is for images")
    parser.add_argument("--shard-examples", type=int, default=4096, metavar="N", help="pairs of a file (default: 4096)")


def _times(text: str) -> tuple[float, ...] | None:
    """Numbers with commas between them; None: it is none such."""
    try:
        return tuple(float(part) for part in text.split(",")) if "," in text else None
    except ValueError:
        return None


def _run(options: argparse.Namespace) -> int:
    import yaml
    from pydantic import ValidationError

    from trainer.sampling.pairs.request import PairsRequest
    from trainer.sampling.pairs.run import run

    names = ("guidance", "seed", "segments", "evaluations", "begin", "dtype", "shard_examples")
    document = {"run": options.run_dir, "num": options.num_pairs, **{name: getattr(options, name) for name in names}}
    if options.nodes is not None:
        document["nodes"] = _times(options.nodes) or Path(options.nodes)
    try:
        document["sampler"] = yaml.safe_load(options.sampler)
        request = PairsRequest.model_validate(document)
    except yaml.YAMLError as error:
        raise ValueError(f"--sampler: {options.sampler} is not YAML; write {{kind: heun, steps: 50}}") from error
    except ValidationError as error:
        found = first_complaint(error, document, PairsRequest)
        option, _, inner = found.field.replace("_", "-").replace("num", "num-pairs").partition(".")
        remedy = found.remedy or "correct the value"
        raise ValueError(f"--{option}{inner and f' ({inner})'}: {found.problem}; {remedy}") from error
    return run(request, options.out)


PAIRS = Verb(
    "pairs",
    "draw pairs of noise and data with the averaged weights of a run, as shards that another run learns from",
    "torchrun --nproc-per-node 2 -m trainer pairs runs/toy --num-pairs 20000 --sampler '{kind: heun, steps: 50}' "
    "--out runs/toy_pairs",
    _add_arguments,
    _run,
    "Another run learns from them with data={kind: pairs, path: DIR, held_out: N} and flow.coupling.kind=paired. The "
    "same command again goes on where it was killed. The field is that of the flow, without the run's sample.controls.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "shard_*.safetensors")), options.out)],
)
