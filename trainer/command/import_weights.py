"""import-weights: a network of diffusers or transformers becomes the beginning of a run."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="folder with config.json and safetensors, as save_pretrained wrote it"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write to")


def _run(options: argparse.Namespace) -> int:
    from trainer.checkpoint.import_weights import run

    return run(options.folder, options.out)


IMPORT_WEIGHTS = Verb(
    "import-weights",
    "make the beginning of a run of a network of diffusers (DiTTransformer2DModel) or transformers (Llama, GPT-NeoX)",
    "python -m trainer import-weights pythia-70m --out pythia",
    _add_arguments,
    _run,
    "DIR holds model.safetensors under the names of this package, in float32, and config.yaml of a run with the same "
    "network, which computes the same. model.init_from=DIR starts any run with the same model section from it. The "
    "export verb with --to writes the form of the other package again, bit for bit. Neither diffusers nor transformers "
    "has to be installed.",
    outputs=lambda options: [(OutputFolder("--out", ("README.md",)), options.out)],
    reads_runs=False,
)
