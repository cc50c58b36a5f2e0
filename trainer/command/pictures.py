"""edit and restore: pictures that a run changes or completes."""

from pathlib import Path
from typing import Annotated

from netsim.foundation.command import WORD
from netsim.foundation.outputs import OutputFolder
from trainer.command.options import SHOW_RUN, OfRuns, verb


class Edit(OfRuns):
    """Options of edit."""

    run_dir: Annotated[Path, WORD]
    """folder of the run"""
    request: Annotated[Path, WORD, "REQUEST"]
    """YAML file that says what is edited and how; or rf_inversion, otip or flowopt, which come with the package"""
    overrides: Annotated[tuple[str, ...], WORD, "key=value"] = ()
    """settings that replace the file's, for example targets=[3,8] guidance.target=2.5 strengths=[0,0.5,1]"""
    out: Annotated[Path, "DIR"]
    """folder for edited pictures, results.json and index.html; the same command again completes it"""
    images: Annotated[Path | None, "DIR"] = None
    """edit the pictures in this folder, of any size and format (default: held-out examples of the run); say what
    they show with source=CLASS, or source=null"""
    num: Annotated[int | None, "--num", "--num-pictures", "N"] = None
    """pictures at most (default: what the request says); torchrun lets the longer name alone pass"""


def _edit(options: Edit) -> int:
    from trainer.config.document import load_request
    from trainer.evaluation.editing import run
    from trainer.sampling.edit_request import EditRequest

    if options.num is not None and options.num < 1:
        raise ValueError(f"--num: {options.num} is below 1; use 1 or more")
    chosen = {} if options.images is None else {"kind": "folder", "path": str(options.images)}
    number = {} if options.num is None else {"num": options.num}
    request = load_request(options.request, options.overrides, EditRequest, pictures={**chosen, **number} or None)
    return run(options.run_dir, request, options.out)


EDIT = verb(
    "edit",
    "turn pictures into pictures of other classes, as near to the picture as a strength says: a picture is taken back "
    "to noise under its own class and drawn again under another",
    "python -m trainer edit runs/digits_moe rf_inversion targets=[3,8] --num 20 --out edits",
    Edit,
    _edit,
    "The averaged weights of the newest complete checkpoint edit. Strength 0 draws freely from the noise of the "
    "picture, and 1 holds on to the picture as much as the controls of the request do. Each edit is a PNG in "
    "DIR/edited; "
    "DIR/index.html shows them beside their pictures, and how far they are from them against how often a classifier of "
    "the run's data takes them for the class asked for. Works on a run with latents too. Under torchrun the ranks "
    "share the pictures. A folder that was not finished is completed by the same command.",
    outputs=lambda options: [(OutputFolder("--out", ("request.json",)), options.out)],
    following=SHOW_RUN,
)


class Restore(OfRuns):
    """Options of restore."""

    run_dir: Annotated[Path, WORD]
    """folder of a run that draws pictures"""
    request: Annotated[Path, WORD, "REQUEST"]
    """YAML file, or the name of one of configs/requests: flair_inpainting, flair_super_resolution,
    flair_deblurring, flair_posterior"""
    overrides: Annotated[tuple[str, ...], WORD, "key=value"] = ()
    """settings that replace the file's, for example operator.factor=4 or label=own; trainer keys restore lists
    them"""
    out: Annotated[Path, "DIR"]
    """folder of the results: restored/*.png, results.json, index.html; the same command again goes on where it was
    stopped"""
    images: Annotated[Path | None, "DIR"] = None
    """restore the pictures of this folder, of any size and format (default: held-out examples of the run)"""
    num: Annotated[int | None, "--num", "--num-pictures", "N"] = None
    """pictures at most (default: 30 held-out examples, all of a folder); torchrun lets the longer name alone
    pass"""


def _restore(options: Restore) -> int:
    from trainer.config.document import load_request
    from trainer.evaluation.restoration import run
    from trainer.sampling.requested_pictures import pictures_change
    from trainer.sampling.restore_request import RestoreRequest

    pictures = pictures_change(options.images, options.num)
    request = load_request(options.request, options.overrides, RestoreRequest, pictures=pictures)
    return run(options.run_dir, request, options.out)


RESTORE = verb(
    "restore",
    "restore pictures with holes, of a low resolution or out of focus with any trained flow; nothing is trained",
    "python -m trainer restore runs/digits_moe flair_inpainting operator.mask.kind=boxes label=own --out restored",
    Restore,
    _restore,
    "The request names an operator, which says what an observation shows of a picture, and a method. Observations are "
    "made of whole pictures, with noise, and what is restored is measured against these; with observed=true the "
    "pictures of --images are observations themselves, such as photographs with a mask (operator.mask={kind: picture, "
    "path: mask.png}, white is filled). Several pictures are restored from each, for what is missing is not known. "
    "Under torchrun the ranks share the pictures.",
    outputs=lambda options: [(OutputFolder("--out", ("request.json",)), options.out)],
    following=SHOW_RUN,
)
