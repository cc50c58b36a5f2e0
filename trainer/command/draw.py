"""sample, generate, restore and edit: what a trained network draws."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from netsim.foundation.command import WORD
from netsim.foundation.outputs import OutputFile, OutputFolder
from netsim.foundation.refusal import check_least
from trainer.command.options import SHOW_RUN, Drawn, named, read_controls, request_of, verb
from trainer.experiment.request.verbs import GenerateRequest, OfRuns

OF_OBJECTS = {"preferences": "--preference", "exponent": "--exponent"}

"""Options of runs that build objects."""

OF_FLOWS = {
    "classes": "--class",
    "captions": "--caption",
    "between": "--between",
    **{name: f"--{name}" for name in ("encoder", "shape", "guidance", "sampler", "steps", "evaluations", "controls")},
    **{name: f"--{name}" for name in ("trace", "quality", "features", "statistics")},
}

"""Options of runs that follow a flow."""


class Sample(OfRuns):
    """Options of sample."""

    run_dir: Annotated[Path, WORD]
    """folder of the run"""
    num: Annotated[int | None, "--num", "--num-samples"] = None
    """images or points, the classes in turn (default: of each class as many as the run's own pictures show, of
    images 80 at most), or objects of each preference; torchrun lets the longer name alone pass"""
    classes: Annotated[tuple[str, ...], "--class", "NAME"] = ()
    """draw this class alone, by its name or its number; give it again, or several with commas between them, for
    more (default: all)"""
    task: Annotated[str | None, "NAME"] = None
    """draw for this task of a run with routed adapters, by its name or its number (default: the tasks in turn, row
    by row)"""
    captions: Annotated[tuple[str, ...], "--caption", "TEXT"] = ()
    """draw what this text says, by a run with flow.captions; give it again for more, which are drawn in turn
    (default: the captions of held-out examples)"""
    between: Annotated[tuple[str, ...], "TEXT", "+"] = ()
    """a row of images (--num, 8 if not given) from one text to another, by a run whose paths begin at captions
    (flow.coupling encoded): each begins on the line between those of both"""
    encoder: Annotated[Path | None, "DIR"] = None
    """with --caption or --between: folder of the run's text encoder"""
    shape: Annotated[str | None, "H,W"] = None
    """height and width, of a run that learns several (default: its largest)"""
    preferences: Annotated[tuple[str, ...], "--preference", "W,W,..."] = ()
    """how much each objective counts, in their order, in a run that builds objects; give it again for more (default:
    the preferences of the run's own files)"""
    exponent: float | None = None
    """exponent of the reward, of a run that builds objects for several"""
    out: Annotated[Path, "PNG"]
    """grid of images, one column a class, at most 2,000 pixels wide; or a plot of points; of a run that builds
    objects FILE.jsonl, with a picture beside it"""
    drawing: Drawn
    trace: Annotated[Path | None, "DIR"] = None
    """write what the ranks send meanwhile, and the experts that their tokens visit, to this folder"""
    quality: Annotated[Path | None, "JSON"] = None
    """also judge the images: share of them that a classifier of the real data takes for the requested class, and
    the Fréchet distance on pixels of as many images drawn without guidance"""
    features: Annotated[Path | None, "FILE"] = None
    """with --quality: also take the Fréchet distance, precision and recall on features, by the network in this
    safetensors file; import-features makes one of published weights (of Inception: FID), features a small one"""
    statistics: Annotated[Path | None, "NPZ"] = None
    """with --features: statistics of the real examples, as the fid verb writes them or pytorch-fid and
    guided-diffusion publish them (default: of up to 10,000 training examples)"""


@verb(
    "sample",
    "draw images from the averaged weights of a run's newest complete checkpoint, the classes in turn",
    "python -m trainer sample runs/digits_moe --class 3,8 --steps 20 --out grid.png",
    Sample,
    "A run that builds objects writes FILE.jsonl and FILE.png. "
    "A run that still trains may delete a checkpoint meanwhile; the next newest is taken then. "
    "Alone it holds every expert. Under torchrun the ranks share the network as those of the run did, each draws "
    "a part of the images, and the first one writes.",
    outputs=lambda options: [
        (OutputFolder("--trace", ("drawing.json",)), options.trace),
        (OutputFile("--quality", ('"run_sha256"',)), options.quality),
    ],
    following=SHOW_RUN,
)
def sample(options: Sample) -> int:
    if options.features is not None and options.quality is None:
        raise ValueError(f"--features: {options.features} would be used for nothing; give --quality too")
    if options.statistics is not None and options.features is None:
        raise ValueError(f"--statistics: {options.statistics} would be used for nothing; give --features too")
    sampler = options.drawing.choice()
    if _builds_objects(options.run_dir):
        return _build(options)
    _refuse(options, OF_OBJECTS, "draws examples and builds no objects")
    from trainer.evaluation.judgement import check_features, write_judgement
    from trainer.sampling.sample import DrawingRequest, drawing
    from trainer.trace.session import DrawingTrace

    if isinstance(options.drawing.steps, Path) and options.quality is not None:
        _check_unguided(options.drawing.steps)
    if options.features is not None:
        check_features(options.features, options.run_dir, options.statistics)
    request = request_of(DrawingRequest, options, sampler=sampler, controls=read_controls(options.drawing.controls))
    with drawing(request) as draws:
        ranks, trace = draws.ranks, None
        if options.trace is not None:
            trace = DrawingTrace(options.trace, ranks.flow.config, ranks.layout, ranks.launch, draws.flow.model)
        examples = draws.examples(draws.guidance, trace and trace.recording())
        if trace is not None:
            trace.write()
        if examples is not None:
            draws.write(examples, options.out)
        if options.quality is not None:
            write_judgement(draws, examples, options.features, options.quality, options.statistics)
    return 0


def _builds_objects(run_dir: Path) -> bool:
    from trainer.experiment.built.objects import builds_objects

    return builds_objects(run_dir)


def _build(options: Sample) -> int:
    """Draws objects by a run with a learned policy; refuses options of flows."""
    _refuse(options, OF_FLOWS, "builds objects and follows no flow")
    from trainer.experiment.built.objects import ObjectsRequest, run

    return run(request_of(ObjectsRequest, options))


def _refuse(options: Sample, foreign: Mapping[str, str], reason: str) -> None:
    """Refuses options in `foreign` that are given; `reason` ends the message."""
    given = named(options)
    for name, option in foreign.items():
        if given[name] not in (None, ()):
            raise ValueError(f"{option}: {options.run_dir} {reason}; leave {option} out")


def _check_unguided(steps: Path) -> None:
    """Refuses a file of steps searched under guidance: judged samples are also drawn without guidance."""
    from trainer.flow.sampler.protocol import StepsFile

    guidance = StepsFile.read(steps).guidance
    if guidance != 1:
        raise ValueError(
            f"--quality: it also draws without guidance, and {steps} was searched for guidance {guidance:g}; use "
            "--guidance 1 and a file for it"
        )


@verb(
    "generate",
    "continue a prompt with the averaged weights of a run's newest complete checkpoint",
    "python -m trainer generate runs/gpt_moe --prompt 'def ' --num-tokens 200 --temperature 0.8",
    GenerateRequest,
    "Alone it holds every expert. Under torchrun the ranks share the experts as those of the run did, under its "
    "placement, and the first one writes.",
    outputs=lambda options: [(OutputFolder("--record", ("texts.txt",)), options.record)],
    following=SHOW_RUN,
)
def generate(options: GenerateRequest) -> int:
    from trainer.experiment.generate import run

    return run(options)


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


@verb(
    "edit",
    "turn pictures into pictures of other classes, as near to the picture as a strength says: a picture is taken back "
    "to noise under its own class and drawn again under another",
    "python -m trainer edit runs/digits_moe rf_inversion targets=[3,8] --num 20 --out edits",
    Edit,
    "The averaged weights of the newest complete checkpoint edit. Strength 0 draws freely from the noise of the "
    "picture, and 1 holds on to the picture as much as the controls of the request do. Each edit is a PNG in "
    "DIR/edited; "
    "DIR/index.html shows them beside their pictures, and how far they are from them against how often a classifier of "
    "the run's data takes them for the requested class. Works on a run with latents too. Under torchrun the ranks "
    "share the pictures. A folder that was not finished is completed by the same command.",
    outputs=lambda options: [(OutputFolder("--out", ("request.json",)), options.out)],
    following=SHOW_RUN,
)
def edit(options: Edit) -> int:
    from trainer.config.document import load_request
    from trainer.evaluation.editing import run
    from trainer.sampling.edit_request import EditRequest
    from trainer.sampling.requested_pictures import pictures_change

    check_least(("--num", options.num, 1))
    pictures = pictures_change(options.images, options.num)
    request = load_request(options.request, options.overrides, EditRequest, pictures=pictures)
    return run(options.run_dir, request, options.out)


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
    """folder of the results: restored/*.png, results.json, index.html; the same command again resumes where it was
    stopped"""
    images: Annotated[Path | None, "DIR"] = None
    """restore the pictures of this folder, of any size and format (default: held-out examples of the run)"""
    num: Annotated[int | None, "--num", "--num-pictures", "N"] = None
    """pictures at most (default: 30 held-out examples, all of a folder); torchrun lets the longer name alone
    pass"""


@verb(
    "restore",
    "restore pictures with holes, of a low resolution or out of focus with any trained flow; nothing is trained",
    "python -m trainer restore runs/digits_moe flair_inpainting operator.mask.kind=boxes label=own --out restored",
    Restore,
    "The request names an operator, which says what an observation shows of a picture, and a method. Observations are "
    "made of whole pictures, with noise, and what is restored is measured against these; with observed=true the "
    "pictures of --images are observations themselves, such as photographs with a mask (operator.mask={kind: picture, "
    "path: mask.png}, white is filled). Several pictures are restored from each, for what is missing is not known. "
    "Under torchrun the ranks share the pictures.",
    outputs=lambda options: [(OutputFolder("--out", ("request.json",)), options.out)],
    following=SHOW_RUN,
)
def restore(options: Restore) -> int:
    from trainer.config.document import load_request
    from trainer.evaluation.restoration import run
    from trainer.sampling.requested_pictures import pictures_change
    from trainer.sampling.restore_request import RestoreRequest

    pictures = pictures_change(options.images, options.num)
    request = load_request(options.request, options.overrides, RestoreRequest, pictures=pictures)
    return run(options.run_dir, request, options.out)
