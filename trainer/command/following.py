"""What to do after each verb: a command line that can be copied."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from moe.command.following import show
from netsim.foundation.refusal import Refusal
from trainer.config.document import apply_override, read_document

REPORT = "python -m trainer report {run_dir}"
FOLLOWING = {
    "train": REPORT,
    "keys": "python -m trainer check configs/runs/digits_moe.yaml --world-size 2",
    "sample": REPORT,
    "edit": REPORT,
    "steps": "python -m trainer sample {run_dir} --steps {out} --out {run_dir}/samples/few_calls.png",
    "restore": REPORT,
    "evaluate": REPORT,
    "fid": "python -m trainer keys sample",
    "compare": "python -m trainer compare --help",
    "generate": REPORT,
    "shards": "python -m trainer train configs/runs/pictures.yaml 'data={{kind: shards, path: {out}, held_out: 32}}'",
    "encode": "python -m trainer train configs/methods/latent_flow_matching.yaml data.path={out}",
    "encode-captions": "python -m trainer keys flow.captions",
    "encode-text": "torchrun --standalone --nproc-per-node 2 -m trainer train gpt_text data.path={out}",
    "index-tars": "python -m trainer check configs/examples/webdataset.yaml data.index={out}",
    "features": "python -m trainer sample {run_dir} --features {out} --quality {run_dir}/quality.json "
    "--out {run_dir}/samples/judged.png",
    "import-features": "python -m trainer keys flow.objective",
    "import-weights": "python -m trainer check {out}/config.yaml",
    "fit-path": "python -m trainer train {config} 'flow.path={{kind: tabulated, path: {out}}}'",
    "pairs": "python -m trainer train {run_dir}/config.yaml run.dir={out}_learned flow.coupling.kind=paired "
    "'data={{kind: pairs, path: {out}, held_out: 100}}'",
    "export": "python -m trainer train {run_dir}/config.yaml run.dir={out}_trained model.init_from={out}",
    "trace": "python -m netsim compare configs/scenarios/demo.yaml workload.path={out} --out {out}.simulated",
    "report": "python -m trainer keys",
}
"""By the name of the verb; check ends with a line of its own. Options and the run's folder stand in braces."""


def show_following(options: argparse.Namespace) -> None:
    """Prints what to do next, to a person at a terminal."""
    values = vars(options)
    try:
        if "config" in values:
            values = {**values, "run_dir": _run_dir(options.config, options.overrides)}
        show(FOLLOWING.get(options.verb.name), values)
    except Refusal:  # the configuration is not what it was when the verb began
        return


def _run_dir(config: Path, overrides: Sequence[str]) -> object:
    document = read_document(config)
    for override in overrides:
        if override.startswith("run."):
            apply_override(config, document, override)
    run = document.get("run")
    return run.get("dir") if isinstance(run, dict) else None
