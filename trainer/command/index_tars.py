"""index-tars: the index of WebDataset tars."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="tars: a folder, a pattern in quotes such as 'train-{000000..000146}.tar', or URLs that fsspec reads, "
        "such as 's3://bucket/train-{000..146}.tar' (needs s3fs), 'gs://...' (gcsfs) or 'https://...' (aiohttp)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; data.index of a run")
    parser.add_argument(
        "--label",
        default="cls",
        metavar="MEMBER",
        help="what tells the class of an example, as a number or a name: cls, another EXTENSION, json:FIELD, or none "
        "where there are no classes (default: cls)",
    )
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE", help="names of the classes 0, 1, ..., one a line (default: labels)"
    )
    parser.add_argument(
        "--workers", type=int, default=8, metavar="N", help="tars that are read at once (default: %(default)s)"
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.data.tar.indexing import run

    label = None if options.label == "none" else options.label
    return run(options.paths, options.out, label, options.class_names, options.workers)


INDEX_TARS = Verb(
    "index-tars",
    "read the headers of WebDataset tars once, so that runs can stream them in an order of their own",
    "python -m trainer index-tars 'data/train-{000000..000146}.tar' --out data/train.index",
    _add_arguments,
    _run,
    "A run reads them with data={kind: webdataset, path: PATH, index: DIR, size: 64, held_out: 1000}. Headers and "
    "labels alone are read, and an interrupted start goes on where it was.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "scans.jsonl")), options.out)],
    reads_runs=False,
)
