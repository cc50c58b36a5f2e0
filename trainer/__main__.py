"""python -m trainer: train, check, sample, generate, encode, export, trace and report."""

import argparse
import os
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from moe.files import FileError
from trainer.failure import RunFailed

PATIENCE_S = 5.0


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are wrong input: one line, not a usage text."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{self.prog.removeprefix('python -m ')}: {message}; see {self.prog} --help")
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: command line without the program; None: the process's own.

    Returns:
        0 done, 1 failed, 2 wrong input, 75 told to stop and saved.
    """
    warnings.filterwarnings("ignore", module=r"megatron\.")  # one warning for each accelerator library that is absent
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")  # DeepSpeed's own calls
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") or "overrides" not in options for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest  # argparse stops collecting overrides at the first option
    try:
        return options.verb(options)
    except ValueError as error:
        if options.debug:
            traceback.print_exc()
        _complain(f"trainer {options.name}: {_located(error, options)}")
        return 2
    except RunFailed as error:
        if options.debug:
            traceback.print_exc()
        _complain(f"trainer {options.name}: {error}")
        return 1


def _complain(line: str) -> None:
    """Says it once a node: its first rank speaks, the others let it, for torchrun ends all when one has ended."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)
    else:
        time.sleep(PATIENCE_S)


def _located(error: ValueError, options: argparse.Namespace) -> str:
    text = " ".join(str(error).split())
    named = isinstance(error, FileError) or text.startswith("--") or "config" not in options
    return text if named else f"{options.config}: {text}"


def _train(options: argparse.Namespace) -> int:
    from trainer.train import run

    return run(options.config, options.overrides)


def _check(options: argparse.Namespace) -> int:
    from trainer.check import run

    return run(options.config, options.overrides, options.world_size)


def _sample(options: argparse.Namespace) -> int:
    from trainer.sample import run

    return run(options.run_dir, options.num, options.out, options.guidance, options.seed, options.quality)


def _generate(options: argparse.Namespace) -> int:
    from trainer.generate import run

    return run(options.run_dir, options.prompt, options.num_bytes, options.temperature, options.seed, options.out)


def _encode(options: argparse.Namespace) -> int:
    from trainer.encode import run

    return run(options.run_dir, options.data, options.out)


def _export(options: argparse.Namespace) -> int:
    from trainer.export import run

    return run(options.run_dir, options.out)


def _trace(options: argparse.Namespace) -> int:
    from trainer.emit import run

    return run(
        options.config,
        options.overrides,
        options.world_size,
        options.ranks_per_node,
        options.gap_ns,
        options.times,
        options.out,
    )


def _report(options: argparse.Namespace) -> int:
    from trainer.report import run

    return run(
        options.run_dir,
        options.quality,
        options.placement,
        options.routing,
        options.unplaced_run,
        options.placed_run,
        options.simulation,
        options.out,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m trainer",
        description="Train flow-matching, language and mixture-of-experts models on one or many nodes.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong input (one line on standard error says what and how to mend it), "
        "75 told to stop by SIGTERM or SIGUSR2: saved, start it again to go on.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = _verb(
        verbs,
        "train",
        _train,
        "train a run, or resume it from its newest complete checkpoint",
        "torchrun --nproc-per-node 2 -m trainer train configs/runs/digits_moe.yaml optim.steps=200 run.dir=runs/a",
    )
    _configuration(train)

    check = _verb(
        verbs,
        "check",
        _check,
        "resolve and validate a configuration without starting anything: layout, parameters, bytes per step",
        "python -m trainer check configs/runs/digits_moe.yaml --world-size 2",
    )
    _configuration(check)
    check.add_argument("--world-size", type=int, default=1, metavar="W", help="ranks of the run (default: 1)")

    sample = _verb(
        verbs,
        "sample",
        _sample,
        "draw images from the averaged weights of a run's newest complete checkpoint, the classes in turn",
        "python -m trainer sample runs/digits_moe --num 80 --out grid.png",
    )
    sample.add_argument("run_dir", type=Path, help="folder of the run")
    sample.add_argument("--num", type=int, default=80, help="images, the same number of each class (default: 80)")
    sample.add_argument("--out", type=Path, required=True, metavar="PNG", help="grid of images, one column a class")
    sample.add_argument(
        "--guidance", type=float, help="scale of classifier-free guidance (default: the run's sample.guidance)"
    )
    sample.add_argument("--seed", type=int, default=0, help="of the starting noise (default: 0)")
    sample.add_argument(
        "--quality",
        type=Path,
        metavar="JSON",
        help="also judge the images: share of them that a classifier of the real data takes for the class asked for, "
        "and the Fréchet distance on pixels of as many images drawn without guidance",
    )

    generate = _verb(
        verbs,
        "generate",
        _generate,
        "continue a prompt with the averaged weights of a run's newest complete checkpoint",
        "python -m trainer generate runs/gpt_moe --prompt 'def ' --num-bytes 200 --temperature 0.8",
        "Alone it holds every expert. Under torchrun the ranks share the experts as those of the run did, under its "
        "placement, and the first one writes.",
    )
    generate.add_argument("run_dir", type=Path, help="folder of the run")
    generate.add_argument(
        "--prompt", default="def ", metavar="TEXT", help="what the text begins with (default: 'def ')"
    )
    generate.add_argument(
        "--num-bytes", type=int, metavar="N", help="bytes to write after it (default: the run's sample.num_bytes)"
    )
    generate.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0: always the likeliest byte, 1: bytes as likely as the network says (default: the run's "
        "sample.temperature)",
    )
    generate.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    generate.add_argument(
        "--out", type=Path, metavar="FILE", help="write prompt and text there, byte for byte (default: print them)"
    )

    encode = _verb(
        verbs,
        "encode",
        _encode,
        "write the latents of a data set as shards, with the averaged weights of an autoencoder's run",
        "python -m trainer encode runs/digits_autoencoder --out runs/digits_latents",
        "Another run learns from them with data={kind: shards, path: DIR}; what it draws is decoded to images.",
    )
    encode.add_argument("run_dir", type=Path, help="folder of the run that trained the autoencoder")
    encode.add_argument(
        "--data", type=Path, metavar="YAML", help="configuration whose data section is encoded (default: the run's)"
    )
    encode.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of shards to write")

    export = _verb(
        verbs,
        "export",
        _export,
        "copy the averaged weights of a run's newest whole checkpoint to a folder of their own, with a model card",
        "python -m trainer export runs/digits_moe --out digits_moe",
        "The folder holds model.safetensors, from which model.init_from starts another run, and config.yaml.",
    )
    export.add_argument("run_dir", type=Path, help="folder of the run")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write to")

    trace = _verb(
        verbs,
        "trace",
        _trace,
        "write the collectives that one step of a run would issue, by formula, for netsim to simulate",
        "python -m trainer trace configs/runs/dit_moe_64.yaml --world-size 64 --ranks-per-node 1 --out trace.jsonl",
    )
    _configuration(trace)
    trace.add_argument("--world-size", type=int, required=True, metavar="W", help="ranks of the run")
    trace.add_argument("--ranks-per-node", type=int, default=8, metavar="R", help="ranks on one node (default: 8)")
    gaps = trace.add_mutually_exclusive_group()
    gaps.add_argument("--gap-ns", type=int, metavar="N", help="compute before each collective in ns (default: unknown)")
    gaps.add_argument(
        "--times",
        type=Path,
        metavar="JSONL",
        help="take the mean compute by phase, operation and layer from a recording",
    )
    trace.add_argument("--out", type=Path, required=True, metavar="JSONL", help="the trace to write")

    report = _verb(
        verbs,
        "report",
        _report,
        "write one self-contained page about a run, and what was placed and simulated for it",
        "python -m trainer report runs/demo --placement placement.json --simulation runs/demo/netsim --out index.html",
    )
    report.add_argument("run_dir", type=Path, help="folder of the run")
    for option, metavar, text in (
        ("--quality", "JSON", "what sample --quality wrote"),
        ("--placement", "JSON", "what moe place wrote"),
        ("--routing", "NPZ", "routing trace to measure the placement on (default: the run's own)"),
        (
            "--unplaced-run",
            "DIR",
            "a continuation of the run with its experts where they were (default: the run itself)",
        ),
        ("--placed-run", "DIR", "a continuation of the run under the placement, compared with the former step by step"),
        ("--simulation", "DIR", "what netsim compare wrote"),
    ):
        report.add_argument(option, type=Path, metavar=metavar, help=text)
    report.add_argument("--out", type=Path, required=True, metavar="HTML", help="the page to write")
    return parser


def _verb(verbs, name: str, verb, summary: str, example: str, details: str = "") -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=summary,
        description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}. {details}", width=100),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=verb, name=name)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML configuration; configs/runs holds examples")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, for example optim.lr=1e-3"
    )


if __name__ == "__main__":
    sys.exit(main())
