"""fit-path: the path of least kinetic energy from noise to a data set."""

import argparse
from pathlib import Path

from netsim.foundation.complaint import first_complaint
from netsim.foundation.outputs import OutputFile
from trainer.command.verb import Verb, add_configuration


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    parser.add_argument(
        "--num-points",
        type=int,
        default=4000,
        metavar="N",
        help="training examples that the path is fitted to (default: 4000); fewer give a straighter path",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=2000,
        metavar="M",
        help="noisy points that the estimate averages over (default: 2000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of examples and all draws (default: 0)")
    parser.add_argument(
        "--least-price",
        type=float,
        default=1e-3,
        metavar="G",
        help="smallest kinetic energy of a turn that the fit assumes, as a share of the largest (default: 1e-3): the "
        "smaller, the steeper the path may be at the source; 1 gives the straight path",
    )


def _run(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from trainer.config.document import apply_override, read_document
    from trainer.config.file import validated
    from trainer.training.path_fit.request import FitRequest, without_path
    from trainer.training.path_fit.run import run

    document = read_document(options.config)
    for override in options.overrides:
        apply_override(options.config, document, override)
    document.pop("stages", None)
    settings = {name: getattr(options, name) for name in FitRequest.model_fields}
    try:
        request = FitRequest.model_validate(settings)
    except ValidationError as error:
        complaint = first_complaint(error, settings)
        remedy = complaint.remedy or "correct the value"
        raise ValueError(f"--{complaint.field.replace('_', '-')}: {complaint.problem}; {remedy}") from error
    return run(validated(options.config, without_path(document)), request, options.out)


FIT_PATH = Verb(
    "fit-path",
    "fit the path of least kinetic energy from noise to the data of a configuration",
    "python -m trainer fit-path configs/runs/toy.yaml --out runs/toy_path.safetensors",
    _add_arguments,
    _run,
    "It estimates how well examples can be distinguished at each level of noise. A run follows the path with "
    "flow.path={kind: tabulated, path: FILE}. The path is optimal for data of mean 0.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.path/",)), options.out)],
)
