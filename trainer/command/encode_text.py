"""encode-text: a user's text as shards of tokens."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.options import request_of
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="FILE-OR-FOLDER",
        help="text: a document each, or in .jsonl and .jsonl.gz a document a line; folders with all that is below them",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of shards to write")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="JSON",
        help="a Hugging Face tokenizer.json; it is copied beside the shards (default: bytes are tokens)",
    )
    parser.add_argument(
        "--end-token",
        metavar="TEXT",
        help="the tokenizer's token for the end of a document (default: <|endoftext|>, </s> or another usual one; "
        "of bytes: byte 0)",
    )
    parser.add_argument(
        "--field", default="text", metavar="KEY", help="key of the text in a line of JSON (default: text)"
    )
    parser.add_argument(
        "--document-end",
        metavar="LINE",
        help="a line that ends a document in plain files, such as '<|endoftext|>', or '' for an empty one (default: a "
        "file is a document)",
    )
    parser.add_argument(
        "--ending",
        action="append",
        default=[],
        dest="endings",
        metavar=".EXT",
        help="read only files in folders whose names end so; may be given several times (default: all that are UTF-8)",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of the documents that training never sees, or of the end of the only one; a larger share holds out "
        "the same and more (default: 0.01)",
    )
    parser.add_argument(
        "--skip-bad-lines", action="store_true", help="leave out lines of JSON that hold no text, and count them"
    )
    parser.add_argument(
        "--shard-tokens", type=int, default=1 << 28, metavar="N", help="tokens of a shard, about (default: 268435456)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that encode; the shards are the same (default: a core each)"
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.data.text.encode import EncodeTextRequest, run

    lists = {"paths": tuple(options.paths), "endings": tuple(options.endings)}
    return run(request_of(EncodeTextRequest, options, **lists))


ENCODE_TEXT = Verb(
    "encode-text",
    "write your text as shards of tokens that a language model learns from",
    "python -m trainer encode-text notes/ articles.jsonl.gz --out data/notes --tokenizer tokenizer.json",
    _add_arguments,
    _run,
    "A run learns from them with data={kind: text, path: DIR}. The same files and options give the same bytes, on any "
    "number of processes. What is interrupted goes on where it was when the same command is given again. A tokenizer "
    "needs the package tokenizers (pip install 'flowfabric[hf]').",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "unfinished.json", "*.bin*")), options.out)],
    reads_runs=False,
)
