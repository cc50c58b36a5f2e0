"""shards, encode-text, index-tars, encode, encode-captions and pairs: examples that runs learn from, as files."""

import argparse
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD, Group, Request
from netsim.foundation.outputs import OutputFolder
from trainer.command.options import named, request_of, validated, verb
from trainer.experiment.request.verbs import OfRuns


def _size(words: str) -> tuple[int, int]:
    """Reads ``64`` or ``48,64``."""
    numbers = words.split(",")
    if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{words!r} is not a size in pixels; use 64, or 48,64 (height, width)")
    return int(numbers[0]), int(numbers[-1])


class Shards(Request):
    """Options of shards."""

    source: Annotated[Path, WORD]
    """npz or npy file, folder of pictures with a sub-folder a class, or folder that save_to_disk of Hugging Face's
    datasets wrote"""
    out: Annotated[Path, "DIR"]
    """folder of shards to write"""
    seed: int = 0
    """seed of the order of the examples (default: 0)"""
    workers: Annotated[int, "N"] = len(os.sched_getaffinity(0))
    """threads that read; the bytes written do not depend on them (default: one a core)"""
    shard_examples: Annotated[int | None, "N"] = None
    """examples of a shard (default: as many as 64 MiB hold)"""
    standardise: bool = False
    """let readers see each channel with mean 0 and variance 1"""
    no_labels: bool | None = None
    """take no labels"""
    data_key: Annotated[str | None, "KEY", Group("npz and npy files")] = None
    """array of an npz file with the examples (default: data)"""
    labels_key: Annotated[str | None, "KEY", Group("npz and npy files")] = None
    """array of an npz file with the labels (default: labels)"""
    labels: Annotated[Path | None, "FILE", Group("npz and npy files")] = None
    """npy file with the labels of an npy file"""
    channels_last: Annotated[bool | None, Group("npz and npy files")] = None
    """images are [N, H, W, C], not [N, C, H, W]"""
    class_names: Annotated[Path | None, "FILE", Group("npz and npy files")] = None
    """text file with the name of a class a line"""
    size: Annotated[tuple[int, int] | None, _size, "S|H,W", Group("pictures")] = None
    """pixels of a picture, which is cut to its middle part of these proportions and resized"""
    buckets: Annotated[tuple[str, ...] | None, "H,W|N", "+", Group("pictures")] = None
    """shapes of which each picture gets the one of the nearest proportions; a number: so many around --size"""
    channels: Annotated[Literal[1, 3] | None, Group("pictures")] = None
    """1: grey, 3: colours (default: 3)"""
    split: Annotated[str | None, Group("Hugging Face data sets")] = None
    """split of a saved DatasetDict that is read"""
    image_column: Annotated[str | None, "NAME", Group("Hugging Face data sets")] = None
    """column of the pictures (default: the only one of pictures)"""
    label_column: Annotated[str | None, "NAME", Group("Hugging Face data sets")] = None
    """column of the labels (default: the only one of classes, or label)"""


def _buckets(options: Shards) -> tuple[tuple[int, int], ...] | int | None:
    words = options.buckets
    if words is None:
        return None
    if len(words) == 1 and words[0].isdecimal():
        if options.size is None or int(words[0]) < 1:
            raise ValueError(f"--buckets: {words[0]} is a number of shapes around --size; give both, 1 or more")
        return int(words[0])
    if not all("," in word for word in words):
        raise ValueError(f"--buckets: {' '.join(words)} are not shapes; use for example 32,32 24,40 (height, width)")
    try:
        return tuple(_size(word) for word in words)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--buckets: {error}") from error


@verb(
    "shards",
    "write images or vectors of your own as a folder of shards that runs learn from",
    "python -m trainer shards pictures --out shards/pictures --size 64",
    Shards,
    "The examples are shuffled once, by --seed. A killed start resumes where it was. A run learns from the "
    "folder with data={kind: shards, path: DIR, held_out: N}; names of classes are kept and shown above the columns of "
    "its samples. Pictures that cannot be read are named and left out, up to 1 % of them.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "shard_*.safetensors")), options.out)],
    following="python -m trainer train configs/runs/pictures.yaml 'data={{kind: shards, path: {out}, held_out: 32}}'",
)
def shards(options: Shards) -> int:
    from trainer.data.conversion.run import ShardsRequest, run
    from trainer.data.conversion.source import Reading
    from trainer.distributed.process.signals import EX_TEMPFAIL, StopRequest

    request = request_of(ShardsRequest, options, reading=request_of(Reading, options, buckets=_buckets(options)))
    stop = StopRequest()
    with stop.listening():
        if run(request, lambda: stop.made):
            return 0
    print(stop.farewell(options.out, "its finished shards are kept"), file=sys.stderr)
    return EX_TEMPFAIL


class EncodeText(Request):
    """Options of encode-text."""

    paths: Annotated[tuple[Path, ...], WORD, "FILE-OR-FOLDER", "+"]
    """text: a document each, or in .jsonl and .jsonl.gz a document a line; folders with all that is below them"""
    out: Annotated[Path, "DIR"]
    """folder of shards to write"""
    tokenizer: Annotated[Path | None, "JSON"] = None
    """a Hugging Face tokenizer.json; it is copied beside the shards (default: bytes are tokens)"""
    end_token: Annotated[str | None, "TEXT"] = None
    """the tokenizer's token for the end of a document (default: <|endoftext|>, </s> or another usual one; of bytes:
    byte 0)"""
    field: Annotated[str, "KEY"] = "text"
    """key of the text in a line of JSON (default: text)"""
    document_end: Annotated[str | None, "LINE"] = None
    """a line that ends a document in plain files, such as '<|endoftext|>', or '' for an empty one (default: a file
    is a document)"""
    endings: Annotated[tuple[str, ...], "--ending", ".EXT"] = ()
    """among the files in folders, read only those with this ending; may be given several times (default: all that are
    UTF-8)"""
    held_out: Annotated[float, "SHARE"] = 0.01
    """share of the documents that training never sees, or of the end of the only one; a larger share holds out the
    same and more (default: 0.01)"""
    skip_bad_lines: bool = False
    """leave out lines of JSON that hold no text, and count them"""
    shard_tokens: Annotated[int, "N"] = 268435456
    """approximate number of tokens of a shard (default: 268435456)"""
    workers: Annotated[int | None, "N"] = None
    """processes that encode; the shards are the same (default: a core each)"""


@verb(
    "encode-text",
    "write your text as shards of tokens that a language model learns from",
    "python -m trainer encode-text notes/ articles.jsonl.gz --out data/notes --tokenizer tokenizer.json",
    EncodeText,
    "A run learns from them with data={kind: text, path: DIR}. The same files and options give the same bytes, on any "
    "number of processes. What is interrupted resumes where it was when the same command is given again. A tokenizer "
    "needs the package tokenizers (pip install 'flowfabric[hf]').",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "unfinished.json", "*.bin*")), options.out)],
    following="torchrun --standalone --nproc-per-node 2 -m trainer train gpt_text data.path={out}",
)
def encode_text(options: EncodeText) -> int:
    from trainer.data.text.encode import run

    return run(**named(options))


class IndexTars(Request):
    """Options of index-tars."""

    paths: Annotated[tuple[str, ...], WORD, "PATH", "+"]
    """tars: a folder, a pattern in quotes such as 'train-{000000..000146}.tar', or URLs that fsspec reads, such as
    's3://bucket/train-{000..146}.tar' (needs s3fs), 'gs://...' (gcsfs) or 'https://...' (aiohttp)"""
    out: Annotated[Path, "DIR"]
    """folder to write; data.index of a run"""
    label: Annotated[str, "MEMBER"] = "cls"
    """the member with the class of an example, as a number or a name: cls, another EXTENSION, json:FIELD, or none where
    there are no classes (default: cls)"""
    class_names: Annotated[Path | None, "FILE"] = None
    """names of the classes 0, 1, ..., one a line (default: labels)"""
    workers: Annotated[int, "N"] = 8
    """tars that are read at once (default: %(default)s)"""


@verb(
    "index-tars",
    "read the headers of WebDataset tars once, so that runs can stream them in an order of their own",
    "python -m trainer index-tars 'data/train-{000000..000146}.tar' --out data/train.index",
    IndexTars,
    "A run reads them with data={kind: webdataset, path: PATH, index: DIR, size: 64, held_out: 1000}. Headers and "
    "labels alone are read, and an interrupted start resumes where it was.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "scans.jsonl")), options.out)],
    following="python -m trainer check configs/examples/webdataset.yaml data.index={out}",
)
def index_tars(options: IndexTars) -> int:
    from trainer.data.tar.indexing import run

    label = None if options.label == "none" else options.label
    return run(options.paths, options.out, label, options.class_names, options.workers)


class Encode(OfRuns):
    """Options of encode."""

    run_dir: Annotated[Path, WORD]
    """folder of the run that trained the autoencoder"""
    data: Annotated[Path | None, "YAML"] = None
    """configuration whose data section is encoded (default: the run's)"""
    out: Annotated[Path, "DIR"]
    """folder of shards to write"""


@verb(
    "encode",
    "write the latents of a data set as shards, with the averaged weights of an autoencoder's run",
    "python -m trainer encode runs/digits_autoencoder --out runs/digits_latents",
    Encode,
    "A latent is a Gaussian. Another run draws from those with data={kind: shards, path: DIR}, or encodes images anew "
    "at each step, which contexts need, with flow.latent.path=DIR; what it draws is decoded to images.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "autoencoder")), options.out)],
    following="python -m trainer train configs/methods/latent_flow_matching.yaml data.path={out}",
)
def encode(options: Encode) -> int:
    from trainer.sampling.encoding import encode_images

    return encode_images(options.run_dir, options.data, options.out)


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


@verb(
    "encode-captions",
    "write captions as vectors of a frozen text encoder, for a run that draws images from texts",
    "python -m trainer encode-captions pictures --encoder t5 --shards runs/shards --out runs/captions",
    EncodeCaptions,
    "A run reads them with flow.captions.path. Needs the packages of 'flowfabric[hf]'.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "captions.jsonl")), options.out)],
    following="python -m trainer keys flow.captions",
)
def encode_captions(options: EncodeCaptions) -> int:
    from trainer.sampling.encoding import encode_captions

    return encode_captions(options.source, options.encoder, options.out, options.field, options.shards)


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
    """scale of classifier-free guidance of the teacher (default: 1)"""
    seed: int = 0
    """seed of all draws (default: 0)"""
    segments: Annotated[int | None, "P"] = None
    """cut time into P parts; a pair holds both ends of one part, begun at noised real data"""
    nodes: Annotated[str | None, "TIMES"] = None
    """cut time at these times, such as 0,0.3,0.6,1, or at the grid of --evaluations in a file of the steps verb; a
    pair holds the states at two neighbouring times"""
    evaluations: Annotated[int | None, "N"] = None
    """number of evaluations whose grid in the file of --nodes is used"""
    begin: Literal["noise", "data"] = "noise"
    """where the states at nodes come from: the teacher's path from noise, or noised real data at the first of the two
    (default: noise)"""
    dtype: Literal["float32", "float16"] = "float32"
    """number format of the files; float16 is for images"""
    shard_examples: Annotated[int, "N"] = 4096
    """pairs of a file (default: 4096)"""


def _times(text: str) -> tuple[float, ...] | None:
    """Reads comma-separated numbers; None: the text is not such a list."""
    try:
        return tuple(float(part) for part in text.split(",")) if "," in text else None
    except ValueError:
        return None


@verb(
    "pairs",
    "draw pairs of noise and data with the averaged weights of a run, as shards that another run learns from",
    "torchrun --nproc-per-node 2 -m trainer pairs runs/toy --num-pairs 20000 --sampler '{kind: heun, steps: 50}' "
    "--out runs/toy_pairs",
    Pairs,
    "Another run learns from them with data={kind: pairs, path: DIR, held_out: N} and flow.coupling.kind=paired. The "
    "same command again goes on where it was killed. The field is that of the flow, without the run's sample.controls.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "shard_*.safetensors")), options.out)],
    following="python -m trainer train {run_dir}/config.yaml run.dir={out}_learned flow.coupling.kind=paired "
    "'data={{kind: pairs, path: {out}, held_out: 100}}'",
)
def pairs(options: Pairs) -> int:
    from netsim.foundation.documents import parse_yaml
    from trainer.sampling.pairs import run
    from trainer.sampling.pairs_request import PairsRequest

    nodes = None if options.nodes is None else _times(options.nodes) or Path(options.nodes)
    try:
        sampler = parse_yaml(options.sampler)
    except ValueError as error:
        problem = f"--sampler: {options.sampler:.80} is not YAML ({error})"
        raise ValueError(f"{problem}; write {{kind: heun, steps: 50}}") from error
    changes = {"run": options.run_dir, "nodes": nodes, "sampler": sampler}
    return run(validated(PairsRequest, options, {"num": "num_pairs"}, **changes), options.out)
