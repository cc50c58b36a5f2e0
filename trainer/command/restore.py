"""restore: pictures of which something is missing."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of a run that draws pictures")
    parser.add_argument(
        "request",
        type=Path,
        metavar="REQUEST",
        help="YAML file, or the name of one of configs/requests: flair_inpainting, flair_super_resolution, "
        "flair_deblurring, flair_posterior",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that replace the file's, for example operator.factor=4 or label=own; trainer keys restore lists "
        "them",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the results: restored/*.png, results.json, index.html; the same command again goes on where it "
        "was stopped",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="restore the pictures of this folder, of any size and format (default: held-out examples of the run)",
    )
    parser.add_argument(
        "--num",
        "--num-pictures",
        type=int,
        metavar="N",
        help="pictures at most (default: 30 held-out examples, all of a folder); torchrun lets the longer name alone "
        "pass",
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.config.document import load_request
    from trainer.evaluation.restoration.run import run
    from trainer.sampling.requested_pictures import pictures_change
    from trainer.sampling.restoration.request import RestoreRequest

    pictures = pictures_change(options.images, options.num)
    request = load_request(options.request, options.overrides, RestoreRequest, pictures=pictures)
    return run(options.run_dir, request, options.out)


RESTORE = Verb(
    "restore",
    "restore pictures with holes, of a low resolution or out of focus with any trained flow; nothing is trained",
    "python -m trainer restore runs/digits_moe flair_inpainting operator.mask.kind=boxes label=own --out restored",
    _add_arguments,
    _run,
    "The request names an operator, which says what an observation shows of a picture, and a method. Observations are "
    "made of whole pictures, with noise, and what is restored is measured against these; with observed=true the "
    "pictures of --images are observations themselves, such as photographs with a mask (operator.mask={kind: picture, "
    "path: mask.png}, white is filled). Several pictures are restored from each, for what is missing is not known. "
    "Under torchrun the ranks share the pictures.",
    outputs=lambda options: [(OutputFolder("--out", ("request.json",)), options.out)],
)
