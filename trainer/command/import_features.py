"""import-features: a feature extractor made of the published weights of a vision transformer."""

import argparse
from pathlib import Path
from typing import get_args

from trainer.command.verb import Verb
from trainer.model.feature_extractor.published import LAYOUTS, TokensTaken


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", type=Path, help="safetensors file with the published weights")
    parser.add_argument("--layout", choices=list(LAYOUTS), required=True, help="how the tensors are named")
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
    from trainer.model.feature_extractor.file import describe_extractor
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
    "make a feature extractor of the published weights of a vision transformer such as DINOv2",
    "python -m trainer import-features vitb14.safetensors --layout dinov2 --image-size 224 --out teacher.safetensors",
    _add_arguments,
    _run,
    "A run aligns its features with those of the patches by flow.objective={kind: aligned, teacher: FILE}; choose an "
    "--image-size with as many patches as the network has tokens. With --tokens class, sample --quality --features "
    "FILE compares samples by the class token. Save weights of another format with safetensors.torch.save_file first.",
)
