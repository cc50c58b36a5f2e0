"""import-features: a feature extractor made of published weights of a vision transformer or of Inception."""

import argparse
from pathlib import Path
from typing import get_args

from netsim.foundation.outputs import OutputFile
from trainer.command.verb import Verb
from trainer.model.feature_extractor.published import INCEPTIONS, LAYOUTS, TokensTaken


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", type=Path, help="safetensors file with the published weights")
    parser.add_argument(
        "--layout",
        choices=[*LAYOUTS, *INCEPTIONS],
        required=True,
        help="which network it is and how the tensors are named; inception-fid is the network that FID is defined by "
        "(pytorch-fid's pt_inception-2015-12-05), with images prepared as pytorch-fid does, and "
        "inception-fid-tensorflow the same with images prepared as the original code does, which papers on ImageNet "
        "give; inception-torchvision is torchvision's inception_v3",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width, or one number for both, that images are resized to; positions are interpolated to the "
        "grid of patches (default: the size that the positions were trained for)",
    )
    parser.add_argument(
        "--tokens",
        choices=get_args(TokensTaken),
        default="patches",
        help="what becomes the features: a vector for each patch, which a teacher needs (default), or one for the "
        "image, which suits distances between sets: the class token, or the mean over the patches",
    )
    parser.add_argument("--num-heads", type=int, metavar="N", help="heads of attention (default: width / 64)")
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="X",
            help="of each channel of images from 0 to 1, or one for all (default: that of the layout)",
        )


def _run(options: argparse.Namespace) -> int:
    from trainer.model.feature_extractor.extractor import describe_extractor
    from trainer.model.feature_extractor.importing import import_extractor

    import_extractor(
        options.weights,
        options.layout,
        options.out,
        image_size=options.image_size,
        tokens=options.tokens,
        num_heads=options.num_heads,
        mean=options.mean,
        std=options.std,
    )
    print(describe_extractor(options.out))
    return 0


IMPORT_FEATURES = Verb(
    "import-features",
    "make a feature extractor of the published weights of a vision transformer such as DINOv2, or of the Inception of "
    "FID",
    "python -m trainer import-features pt_inception.safetensors --layout inception-fid --out inception.safetensors",
    _add_arguments,
    _run,
    "The weights are a safetensors file; a pickle (.pth) is refused, with the command that converts it. fid, evaluate "
    "and sample --quality compare samples with real examples by --features FILE: of Inception, the 2,048 features of "
    "its last pool. A run aligns its features with those of the patches of a transformer by flow.objective={kind: "
    "aligned, teacher: FILE}; choose an --image-size with as many patches as the network has tokens, and for "
    "distances --tokens class.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.features/",)), options.out)],
    reads_runs=False,
)
