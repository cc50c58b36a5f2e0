"""encode: the latents of a data set."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run that trained the autoencoder")
    parser.add_argument(
        "--data", type=Path, metavar="YAML", help="configuration whose data section is encoded (default: the run's)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of shards to write")


def _run(options: argparse.Namespace) -> int:
    from trainer.sampling.encode import run

    return run(options.run_dir, options.data, options.out)


ENCODE = Verb(
    "encode",
    "write the latents of a data set as shards, with the averaged weights of an autoencoder's run",
    "python -m trainer encode runs/digits_autoencoder --out runs/digits_latents",
    _add_arguments,
    _run,
    "A latent is a Gaussian. Another run draws from those with data={kind: shards, path: DIR}, or encodes images anew "
    "at each step, which contexts need, with flow.latent.path=DIR; what it draws is decoded to images.",
    outputs=lambda options: [(OutputFolder("--out", ("index.json", "autoencoder")), options.out)],
)
