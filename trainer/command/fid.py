"""fid: Fréchet distance, precision and recall of samples on the features of a network."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFile
from trainer.command.options import add_drawing_options, check_outputs, controls_choice, request_of, sampler_choice
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("samples", type=Path, help="folder of a run, which draws; or of pictures that were drawn")
    parser.add_argument(
        "--features",
        type=Path,
        required=True,
        metavar="FILE",
        help="safetensors file of the network whose features are compared, as import-features writes it; FID is that "
        "of --layout inception-fid",
    )
    parser.add_argument(
        "--real",
        type=Path,
        metavar="FOLDER",
        help="real pictures (default: all training examples of the run); pictures are taken whole, as they are",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="NPZ",
        help="mean and covariance of the real examples: read if the file is there and of them, "
        "and written otherwise; files of pytorch-fid and guided-diffusion (mu, sigma) are read too",
    )
    parser.add_argument(
        "--num",
        "--num-samples",
        type=int,
        help="samples, the classes in turn (default: 50,000 of a run, as papers do; all pictures of a folder)",
    )
    parser.add_argument("--num-real", type=int, metavar="N", help="real examples, from the first (default: all)")
    parser.add_argument(
        "--compared",
        type=int,
        default=10_000,
        metavar="N",
        help="examples of each set that precision and recall compare, from the first (default: 10,000)",
    )
    parser.add_argument(
        "--batch", type=int, default=64, metavar="N", help="examples that a rank draws or reads at once (default: 64)"
    )
    parser.add_argument(
        "--class", dest="classes", action="append", default=[], metavar="NAME", help="as in sample (default: all)"
    )
    add_drawing_options(parser)
    parser.add_argument("--out", type=Path, metavar="JSON", help="the figures (default: they are only printed)")


def _run(options: argparse.Namespace) -> int:
    check_outputs({"--out": options.out, "--statistics": options.statistics})
    sampler = sampler_choice(options)
    from trainer.experiment.fid import FidRequest, run

    controls = controls_choice(options)
    return run(request_of(FidRequest, options, classes=tuple(options.classes), sampler=sampler, controls=controls))


FID = Verb(
    "fid",
    "compare what a run draws, or a folder of pictures, with real examples: Fréchet distance on features (FID), "
    "precision and recall",
    "python -m trainer fid runs/digits_moe --features inception.safetensors --statistics real.npz --out fid.json",
    _add_arguments,
    _run,
    "Under torchrun the ranks share the drawing and the pictures, and the figures are those of one process: to the "
    "last bit on 2, 4 or 8 ranks for equal features. A Fréchet distance depends on the numbers of examples: compare "
    "figures of equal --num. Precision and recall are those of Kynkäänniemi et al. (2019) with 3 neighbours.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.fid/",)), options.out)],
)
