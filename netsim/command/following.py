"""What to do after each verb: a command line that can be copied."""

import argparse
import sys

FOLLOWING = {
    "compare": "python -m netsim compare {scenario} 'topology.failures=[{{switch: spine0}}]' --out {out}_failure",
    "sweep": "python -m netsim compare configs/scenarios/all_to_all_64.yaml --out {out}_64",
    "bench": "python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/fabric",
    "compile": "python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/fabric",
    "export": "python -m netsim import --help",
    "import": "python -m netsim compare configs/scenarios/demo.yaml workload.path={out} --out {out}.simulated",
    "keys": "python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/fabric",
}
"""By the name of the verb; options stand in braces."""


def show_following(options: argparse.Namespace) -> None:
    """Prints what to do next, to a person at a terminal; a script has its own."""
    if sys.stderr.isatty() and options.verb.name in FOLLOWING:
        print(f"next: {FOLLOWING[options.verb.name].format(**vars(options))}", file=sys.stderr)
