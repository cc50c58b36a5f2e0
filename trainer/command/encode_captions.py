"""encode-captions: captions of a data set as vectors of a frozen text encoder."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        help="a text file with a caption a line, JSON lines (.jsonl), or a folder of pictures with a text file of the "
        "same name beside each; the first caption is that of example 0: the first row of the first shard, or the first "
        "picture in the order of classes and names",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        required=True,
        metavar="DIR",
        help="text encoder as transformers' save_pretrained writes it: config.json, tokenizer.json, safetensors",
    )
    parser.add_argument(
        "--field", default="caption", metavar="NAME", help="key of a JSON line that is an object (default: caption)"
    )
    parser.add_argument(
        "--shards",
        type=Path,
        metavar="DIR",
        help="shards that the shards verb wrote of the same source: the captions get their order",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def _run(options: argparse.Namespace) -> int:
    from trainer.sampling.captions import run

    return run(options.source, options.encoder, options.out, options.field, options.shards)


ENCODE_CAPTIONS = Verb(
    "encode-captions",
    "write captions as vectors of a frozen text encoder, for a run that draws images from texts",
    "python -m trainer encode-captions pictures --encoder t5 --shards runs/shards --out runs/captions",
    _add_arguments,
    _run,
    "A run reads them with flow.captions.path. Needs the packages of 'flowfabric[hf]'.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "captions.jsonl")), options.out)],
)
