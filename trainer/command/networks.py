"""features, import-features, import-weights, export and fit-path: networks and paths as files."""

from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD, Request
from netsim.foundation.outputs import OutputFile, OutputFolder
from trainer.command.options import named, validated, verb
from trainer.experiment.request.verbs import Configured, OfRuns


class Features(Configured):
    """Options of features."""

    stage: Annotated[str | None, "NAME"] = None
    """stage whose data are classified (default: the first that trains)"""
    hidden: Annotated[tuple[int, ...], "WIDTH", "+"] = (64,)
    """widths of the hidden layers; the outputs of the last are the features"""
    seed: int = 0
    """seed of the classifier (default: 0)"""
    out: Annotated[Path, "FILE"]
    """safetensors file to write"""


@verb(
    "features",
    "train a small classifier on the data of a configuration and write its hidden layers as a feature extractor",
    "python -m trainer features configs/methods/blockwise.yaml --out runs/blockwise/teacher.safetensors",
    Features,
    "Another run aligns its features with them by flow.objective={kind: aligned, teacher: FILE}, and samples are "
    "compared by them with sample --quality --features FILE.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.features/",)), options.out)],
    following="python -m trainer sample {run_dir} --features {out} --quality {run_dir}/quality.json "
    "--out {run_dir}/samples/judged.png",
)
def features(options: Features) -> int:
    from trainer.evaluation.feature_classifier import run
    from trainer.experiment.stage.protocol import ConfiguredStage
    from trainer.experiment.stage.reading import chosen, load_stages

    stages = load_stages(options.config, options.overrides)
    first = next((stage.name for stage in stages if stage.trains), None)
    stage = chosen(stages, first if options.stage is None else options.stage)
    if not isinstance(stage, ConfiguredStage):
        raise ValueError(f"--stage: {stage.name} draws pairs and has no data of its own; name a stage that trains")
    return run(stage.config().data, options.hidden, options.seed, options.out)


class ImportFeatures(Request):
    """Options of import-features."""

    weights: Annotated[Path, WORD]
    """safetensors file with the published weights"""
    layout: Literal[
        "dinov2",
        "transformers-dinov2",
        "transformers-vit",
        "inception-torchvision",
        "inception-fid",
        "inception-fid-tensorflow",
    ]
    """which network it is and how the tensors are named; inception-fid is the network that FID is defined by
    (pytorch-fid's pt_inception-2015-12-05), with images prepared as pytorch-fid does, and inception-fid-tensorflow
    the same with images prepared as the original code does, which papers on ImageNet give; inception-torchvision is
    torchvision's inception_v3"""
    out: Annotated[Path, "FILE"]
    """safetensors file to write"""
    image_size: Annotated[tuple[int, ...] | None, "PIXELS", "+"] = None
    """height and width, or one number for both, that images are resized to; positions are interpolated to the grid
    of patches (default: the size that the positions were trained for)"""
    tokens: Literal["patches", "class", "mean"] = "patches"
    """vectors that become the features: one for each patch, which a teacher needs (default), or one for the image,
    which suits distances between sets: the class token, or the mean over the patches"""
    num_heads: Annotated[int | None, "N"] = None
    """heads of attention (default: width / 64)"""
    mean: Annotated[tuple[float, ...] | None, "X", "+"] = None
    """mean of each channel of images from 0 to 1, or one for all (default: that of the layout)"""
    std: Annotated[tuple[float, ...] | None, "X", "+"] = None
    """standard deviation of each channel of images from 0 to 1, or one for all (default: that of the layout)"""


@verb(
    "import-features",
    "make a feature extractor of the published weights of a vision transformer such as DINOv2, or of the Inception of "
    "FID",
    "python -m trainer import-features pt_inception.safetensors --layout inception-fid --out inception.safetensors",
    ImportFeatures,
    "The weights are a safetensors file; a pickle (.pth) is refused, with the command that converts it. fid, evaluate "
    "and sample --quality compare samples with real examples by --features FILE: of Inception, the 2,048 features of "
    "its last pool. A run aligns its features with those of the patches of a transformer by flow.objective={kind: "
    "aligned, teacher: FILE}; choose an --image-size with as many patches as the network has tokens, and for "
    "distances --tokens class.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.features/",)), options.out)],
    following="python -m trainer keys flow.objective",
)
def import_features(options: ImportFeatures) -> int:
    from trainer.model.feature_extractor.extractor import describe_extractor
    from trainer.model.feature_extractor.importing import import_extractor

    import_extractor(**named(options))
    print(describe_extractor(options.out))
    return 0


class ImportWeights(Request):
    """Options of import-weights."""

    folder: Annotated[Path, WORD]
    """folder with config.json and safetensors, as save_pretrained wrote it"""
    out: Annotated[Path, "DIR"]
    """the folder to write to"""


@verb(
    "import-weights",
    "make the beginning of a run of a network of diffusers (DiTTransformer2DModel) or transformers (Llama, GPT-NeoX)",
    "python -m trainer import-weights pythia-70m --out pythia",
    ImportWeights,
    "DIR holds model.safetensors under the names of this package, in float32, and config.yaml of a run with the same "
    "network, which computes the same. model.init_from=DIR starts any run with the same model section from it. The "
    "export verb with --to writes the form of the other package again, bit for bit. Neither diffusers nor transformers "
    "has to be installed.",
    outputs=lambda options: [(OutputFolder("--out", ("README.md",)), options.out)],
    following="python -m trainer check {out}/config.yaml",
)
def import_weights(options: ImportWeights) -> int:
    from trainer.checkpoint.import_weights import run

    return run(options.folder, options.out)


class Export(OfRuns):
    """Options of export."""

    run_dir: Annotated[Path, WORD]
    """folder of the run, or one that export or import-weights wrote"""
    out: Annotated[Path, "DIR"]
    """the folder to write to"""
    to: Literal["diffusers", "llama", "gpt-neox"] | None = None
    """write the names and the order of another package: a DiTTransformer2DModel of diffusers, or a LlamaForCausalLM
    or GPTNeoXForCausalLM of transformers (default: those of this package)"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """type of the values, with --to (default: float32)"""
    merged: bool = False
    """add the adapters of a run to the weights that they stand beside, and write a finished run of the network that
    this makes, for sample, evaluate, model.init_from, export --to and whatever else reads a run"""
    program: bool = False
    """also write the network as a program of torch.export (.pt2), which computes with torch alone"""


@verb(
    "export",
    "copy the averaged weights of a run's newest intact checkpoint to a folder of their own, with a model card",
    "python -m trainer export runs/digits_moe --out digits_moe",
    Export,
    "The folder holds model.safetensors, from which model.init_from starts another run, config.yaml, and a README.md. "
    "With --program it holds a program of torch.export, too, and the README.md draws with it, without this package. Of "
    "a run with adapters it holds these alone; with --merged it is that of a run of the network with the adapters in "
    "its weights.",
    outputs=lambda options: [(OutputFolder("--out", ("README.md",)), options.out)],
    following="python -m trainer train {run_dir}/config.yaml run.dir={out}_trained model.init_from={out}",
)
def export(options: Export) -> int:
    if options.program and options.merged:
        raise ValueError("--program: does not go with --merged; export --program the folder that --merged writes")
    if options.program and options.to is not None:
        raise ValueError(f"--program: has no form of {options.to}; leave it out, or --to")
    if options.merged:
        from trainer.checkpoint.export import run_merged

        if options.to is not None:
            remedy = f"leave it out, then export --to {options.to} the folder that --merged writes"
            raise ValueError(f"--to: {options.to} does not go with --merged; {remedy}")
        return run_merged(options.run_dir, options.out)

    from trainer.checkpoint.export import run
    from trainer.distributed.groups import Launch, joined

    groups = (lambda: joined(Launch.from_environment())) if options.program else None
    return run(options.run_dir, options.out, options.to, options.dtype, program_in=groups)


class FitPath(Configured):
    """Options of fit-path."""

    out: Annotated[Path, "FILE"]
    """safetensors file to write"""
    num_points: Annotated[int, "N"] = 4000
    """training examples that the path is fitted to (default: 4000); fewer give a straighter path"""
    draws: Annotated[int, "M"] = 2000
    """noisy points that the estimate averages over (default: 2000)"""
    seed: int = 0
    """seed of the choice of examples and all draws (default: 0)"""
    least_price: Annotated[float, "G"] = 0.001
    """smallest kinetic energy of a turn that the fit assumes, as a share of the largest (default: 1e-3): the
    smaller, the steeper the path may be at the source; 1 gives the straight path"""


@verb(
    "fit-path",
    "fit the path of least kinetic energy from noise to the data of a configuration",
    "python -m trainer fit-path configs/runs/toy.yaml --out runs/toy_path.safetensors",
    FitPath,
    "It estimates how well examples can be distinguished at each level of noise. A run follows the path with "
    "flow.path={kind: tabulated, path: FILE}. The path is optimal for data of mean 0.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.path/",)), options.out)],
    following="python -m trainer train {config} 'flow.path={{kind: tabulated, path: {out}}}'",
)
def fit_path(options: FitPath) -> int:
    from trainer.config.document import apply_override, read_document
    from trainer.config.file import validated as config_of
    from trainer.training.path_fit import FitRequest, run, without_path

    document = read_document(options.config)
    for override in options.overrides:
        apply_override(options.config, document, override)
    document.pop("stages", None)
    request = validated(FitRequest, options)
    return run(config_of(options.config, without_path(document)), request, options.out)
