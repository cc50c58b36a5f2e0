"""encode, encode-captions and pairs: what a network makes of data, for another run to learn from."""

from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD
from netsim.foundation.outputs import OutputFolder
from trainer.command.options import OfRuns, validated, verb


class Encode(OfRuns):
    """Options of encode."""

    run_dir: Annotated[Path, WORD]
    """folder of the run that trained the autoencoder"""
    data: Annotated[Path | None, "YAML"] = None
    """configuration whose data section is encoded (default: the run's)"""
    out: Annotated[Path, "DIR"]
    """folder of shards to write"""


def _encode(options: Encode) -> int:
    from trainer.sampling.encode import run

    return run(options.run_dir, options.data, options.out)


ENCODE = verb(
    "encode",
    "write the latents of a data set as shards, with the averaged weights of an autoencoder's run",
    "python -m trainer encode runs/digits_autoencoder --out runs/digits_latents",
    Encode,
    _encode,
    "A latent is a Gaussian. Another run draws from those with data={kind: shards, path: DIR}, or encodes images anew "
    "at each step, which contexts need, with flow.latent.path=DIR; what it draws is decoded to images.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "autoencoder")), options.out)],
    following="python -m trainer train configs/methods/latent_flow_matching.yaml data.path={out}",
)


class EncodeCaptions(OfRuns):
    """Options of encode-captions."""

    source: Annotated[Path, WORD]
    """a text file with a caption a line, JSON lines (.jsonl), or a folder of pictures with a text file of the same
    name beside each; the first caption is that of example 0: the first row of the first shard, or the first picture
    in the order of classes and names"""
    encoder: Annotated[Path, "DIR"]
    """text encoder as transformers' save_pretrained writes it: config.json, tokenizer.json, safetensors"""
    field: Annotated[str, "NAME"] = "caption"
    """key of a JSON line that is an object (default: caption)"""
    shards: Annotated[Path | None, "DIR"] = None
    """shards that the shards verb wrote of the same source: the captions get their order"""
    out: Annotated[Path, "DIR"]
    """folder to write"""


def _encode_captions(options: EncodeCaptions) -> int:
    from trainer.sampling.captions import run

    return run(options.source, options.encoder, options.out, options.field, options.shards)


ENCODE_CAPTIONS = verb(
    "encode-captions",
    "write captions as vectors of a frozen text encoder, for a run that draws images from texts",
    "python -m trainer encode-captions pictures --encoder t5 --shards runs/shards --out runs/captions",
    EncodeCaptions,
    _encode_captions,
    "A run reads them with flow.captions.path. Needs the packages of 'flowfabric[hf]'.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "captions.jsonl")), options.out)],
    following="python -m trainer keys flow.captions",
)


class Pairs(OfRuns):
    """Options of pairs."""

    run_dir: Annotated[Path, WORD]
    """folder of the teacher's run"""
    num_pairs: int
    """pairs to draw; classes, or segments, take turns"""
    out: Annotated[Path, "DIR"]
    """folder of pairs to write"""
    sampler: Annotated[str, "YAML"] = "{kind: dopri5}"
    """how the teacher's field is followed, for example '{kind: heun, steps: 50}'"""
    guidance: float = 1.0
    """of the teacher, classifier-free (default: 1)"""
    seed: int = 0
    """of all draws (default: 0)"""
    segments: Annotated[int | None, "P"] = None
    """cut time into P parts; a pair holds both ends of one part, begun at noised real data"""
    nodes: Annotated[str | None, "TIMES"] = None
    """cut time at these times, such as 0,0.3,0.6,1, or at the grid of --evaluations in a file of the steps verb; a
    pair holds the states at two neighbouring times"""
    evaluations: Annotated[int | None, "N"] = None
    """which grid of the file of --nodes"""
    begin: Literal["noise", "data"] = "noise"
    """states at nodes are on the teacher's way from noise, or begin at noised real data (default: noise)"""
    dtype: Literal["float32", "float16"] = "float32"
    """float16 is for images"""
    shard_examples: Annotated[int, "N"] = 4096
    """pairs of a file (default: 4096)"""


def _times(text: str) -> tuple[float, ...] | None:
    """Numbers with commas between them; None: it is none such."""
    try:
        return tuple(float(part) for part in text.split(",")) if "," in text else None
    except ValueError:
        return None


def _pairs(options: Pairs) -> int:
    import yaml

    from trainer.sampling.pairs import run
    from trainer.sampling.pairs_request import PairsRequest

    names = ("guidance", "seed", "segments", "evaluations", "begin", "dtype", "shard_examples")
    document = {"run": options.run_dir, "num": options.num_pairs, **{name: getattr(options, name) for name in names}}
    if options.nodes is not None:
        document["nodes"] = _times(options.nodes) or Path(options.nodes)
    try:
        document["sampler"] = yaml.safe_load(options.sampler)
    except yaml.YAMLError as error:
        raise ValueError(f"--sampler: {options.sampler} is not YAML; write {{kind: heun, steps: 50}}") from error
    return run(validated(PairsRequest, document, num="num_pairs"), options.out)


PAIRS = verb(
    "pairs",
    "draw pairs of noise and data with the averaged weights of a run, as shards that another run learns from",
    "torchrun --nproc-per-node 2 -m trainer pairs runs/toy --num-pairs 20000 --sampler '{kind: heun, steps: 50}' "
    "--out runs/toy_pairs",
    Pairs,
    _pairs,
    "Another run learns from them with data={kind: pairs, path: DIR, held_out: N} and flow.coupling.kind=paired. The "
    "same command again goes on where it was killed. The field is that of the flow, without the run's sample.controls.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "shard_*.safetensors")), options.out)],
    following="python -m trainer train {run_dir}/config.yaml run.dir={out}_learned flow.coupling.kind=paired "
    "'data={{kind: pairs, path: {out}, held_out: 100}}'",
)
