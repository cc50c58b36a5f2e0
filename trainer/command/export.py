"""export: averaged weights in a folder of their own."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run, or one that export or import-weights wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write to")
    parser.add_argument(
        "--to",
        choices=("diffusers", "llama", "gpt-neox"),
        help="write the names and the order of another package: a DiTTransformer2DModel of diffusers, or a "
        "LlamaForCausalLM or GPTNeoXForCausalLM of transformers (default: those of this package)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="type of the values, with --to (default: float32)",
    )
    parser.add_argument(
        "--merged",
        action="store_true",
        help="add the adapters of a run to the weights that they stand beside, and write a finished run of the network "
        "that this makes, for sample, evaluate, model.init_from, export --to and whatever else reads a run",
    )


def _run(options: argparse.Namespace) -> int:
    if options.merged:
        from trainer.checkpoint import merged

        if options.to is not None:
            remedy = f"leave it out, then export --to {options.to} the folder that --merged writes"
            raise ValueError(f"--to: {options.to} does not go with --merged; {remedy}")
        return merged.run(options.run_dir, options.out)

    from trainer.checkpoint.export import run

    return run(options.run_dir, options.out, options.to, options.dtype)


EXPORT = Verb(
    "export",
    "copy the averaged weights of a run's newest intact checkpoint to a folder of their own, with a model card",
    "python -m trainer export runs/digits_moe --out digits_moe",
    _add_arguments,
    _run,
    "The folder holds model.safetensors, from which model.init_from starts another run, config.yaml, and a README.md "
    "with a page of plain PyTorch that computes the same without this package. Of a run with adapters it holds these "
    "alone; with --merged it is that of a run of the network with the adapters in its weights.",
    outputs=lambda options: [(OutputFolder("--out", ("README.md",)), options.out)],
)
