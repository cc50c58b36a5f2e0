"""shards: a user's examples as a folder of shards."""

import argparse
import os
import sys
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.options import request_of
from trainer.command.verb import Verb


def _size(words: str) -> tuple[int, int]:
    """Reads ``64`` or ``48,64``."""
    numbers = words.split(",")
    if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{words!r} is not a size in pixels; use 64, or 48,64 (height, width)")
    return int(numbers[0]), int(numbers[-1])


def _buckets(options: argparse.Namespace) -> tuple[tuple[int, int], ...] | int | None:
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        help="npz or npy file, folder of pictures with a sub-folder a class, or folder that save_to_disk of Hugging "
        "Face's datasets wrote",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of shards to write")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the examples (default: 0)")
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="threads that read; the bytes written do not depend on them (default: one a core)",
    )
    parser.add_argument(
        "--shard-examples", type=int, metavar="N", help="examples of a shard (default: as many as 64 MiB hold)"
    )
    parser.add_argument(
        "--standardise", action="store_true", help="let readers see each channel with mean 0 and variance 1"
    )
    parser.add_argument("--no-labels", action="store_true", default=None, help="take no labels")
    arrays = parser.add_argument_group("npz and npy files")
    arrays.add_argument("--data-key", metavar="KEY", help="array of an npz file with the examples (default: data)")
    arrays.add_argument("--labels-key", metavar="KEY", help="array of an npz file with the labels (default: labels)")
    arrays.add_argument("--labels", type=Path, metavar="FILE", help="npy file with the labels of an npy file")
    arrays.add_argument(
        "--channels-last", action="store_true", default=None, help="images are [N, H, W, C], not [N, C, H, W]"
    )
    arrays.add_argument("--class-names", type=Path, metavar="FILE", help="text file with the name of a class a line")
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--size",
        type=_size,
        metavar="S|H,W",
        help="pixels of a picture, which is cut to its middle part of these proportions and resized",
    )
    pictures.add_argument(
        "--buckets",
        nargs="+",
        metavar="H,W|N",
        help="shapes of which each picture gets the one of the nearest proportions; a number: so many around --size",
    )
    pictures.add_argument("--channels", type=int, choices=(1, 3), help="1: grey, 3: colours (default: 3)")
    tables = parser.add_argument_group("Hugging Face data sets")
    tables.add_argument("--split", help="which split of a saved DatasetDict")
    tables.add_argument("--image-column", metavar="NAME", help="(default: the only one of pictures)")
    tables.add_argument("--label-column", metavar="NAME", help="(default: the only one of classes, or label)")


def _run(options: argparse.Namespace) -> int:
    from trainer.data.conversion.run import ShardsRequest, run
    from trainer.data.conversion.source import Reading
    from trainer.distributed.process.stop import EX_TEMPFAIL, StopRequest

    request = request_of(ShardsRequest, options, reading=request_of(Reading, options, buckets=_buckets(options)))
    stop = StopRequest()
    with stop.listening():
        if run(request, lambda: stop.made):
            return 0
    print(stop.farewell(options.out, "its finished shards are kept"), file=sys.stderr)
    return EX_TEMPFAIL


SHARDS = Verb(
    "shards",
    "write images or vectors of your own as a folder of shards that runs learn from",
    "python -m trainer shards pictures --out shards/pictures --size 64",
    _add_arguments,
    _run,
    "The examples are shuffled once, by --seed. A killed start goes on where it was. A run learns from the "
    "folder with data={kind: shards, path: DIR, held_out: N}; names of classes are kept and shown above the columns of "
    "its samples. Pictures that cannot be read are named and left out, up to 1 % of them.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "shard_*.safetensors")), options.out)],
    reads_runs=False,
)
