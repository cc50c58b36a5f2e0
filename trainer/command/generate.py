"""generate: text that a run writes after a prompt."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.options import request_of
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--prompt", default="def ", metavar="TEXT", help="what the text begins with (default: 'def ')")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a prompt a line, all continued at once (in place of --prompt)"
    )
    parser.add_argument(
        "--num-tokens", type=int, metavar="N", help="tokens to write after it (default: the run's sample.num_tokens)"
    )
    parser.add_argument(
        "--num-bytes", type=int, metavar="N", help="the same, for a run without a tokenizer, whose tokens are bytes"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0: always the likeliest token, 1: tokens as likely as the network says (default: the run's "
        "sample.temperature)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument(
        "--placement", type=Path, metavar="JSON", help="where the experts live on the ranks (default: as in the run)"
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="DIR",
        help="write the collectives that the ranks issue meanwhile, their placement and the texts to this folder",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write prompt and text there as they are (default: print them)"
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.sampling.generate import GenerateRequest, run

    return run(request_of(GenerateRequest, options))


GENERATE = Verb(
    "generate",
    "continue a prompt with the averaged weights of a run's newest complete checkpoint",
    "python -m trainer generate runs/gpt_moe --prompt 'def ' --num-tokens 200 --temperature 0.8",
    _add_arguments,
    _run,
    "Alone it holds every expert. Under torchrun the ranks share the experts as those of the run did, under its "
    "placement, and the first one writes.",
    outputs=lambda options: [(OutputFolder("--record", ("texts.txt",)), options.record)],
)
