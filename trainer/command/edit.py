"""edit: pictures that a run turns into pictures of other classes."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument(
        "request",
        type=Path,
        metavar="REQUEST",
        help="YAML file that says what is edited and how; or rf_inversion, otip or flowopt, which come with the "
        "package",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that replace the file's, for example targets=[3,8] guidance.target=2.5 strengths=[0,0.5,1]",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for edited pictures, results.json and index.html; the same command again completes it",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="edit the pictures in this folder, of any size and format (default: held-out examples of the run); say "
        "what they show with source=CLASS, or source=null",
    )
    parser.add_argument(
        "--num",
        "--num-pictures",
        type=int,
        metavar="N",
        help="pictures at most (default: what the request says); torchrun lets the longer name alone pass",
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.config.document import load_request
    from trainer.evaluation.editing.run import run
    from trainer.sampling.editing.request import EditRequest

    if options.num is not None and options.num < 1:
        raise ValueError(f"--num: {options.num} is below 1; use 1 or more")
    chosen = {} if options.images is None else {"kind": "folder", "path": str(options.images)}
    number = {} if options.num is None else {"num": options.num}
    request = load_request(options.request, options.overrides, EditRequest, pictures={**chosen, **number} or None)
    return run(options.run_dir, request, options.out)


EDIT = Verb(
    "edit",
    "turn pictures into pictures of other classes, as near to the picture as a strength says: a picture is taken back "
    "to noise under its own class and drawn again under another",
    "python -m trainer edit runs/digits_moe rf_inversion targets=[3,8] --num 20 --out edits",
    _add_arguments,
    _run,
    "The averaged weights of the newest complete checkpoint edit. Strength 0 draws freely from the noise of the "
    "picture, and 1 holds on to the picture as much as the controls of the request do. Each edit is a PNG in "
    "DIR/edited; "
    "DIR/index.html shows them beside their pictures, and how far they are from them against how often a classifier of "
    "the run's data takes them for the class asked for. Works on a run with latents too. Under torchrun the ranks "
    "share the pictures. A folder that was not finished is completed by the same command.",
    outputs=lambda options: [(OutputFolder("--out", ("request.json",)), options.out)],
)
