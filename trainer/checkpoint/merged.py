"""A run with adapters as a finished run of the network without them, which has the same averages and computes the same.

Its folder is that of a run with one checkpoint of averaged weights alone, so whatever reads trained weights reads it.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.base import base_weights
from trainer.checkpoint.contents import division_of, identity_of
from trainer.checkpoint.directory import step_folder, step_of
from trainer.checkpoint.export import write_in_parts
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest, records
from trainer.checkpoint.model_card import model_card
from trainer.checkpoint.pretrained import check_restorable
from trainer.config.derived import of_base, routed_adapters
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data.text.tokens import TOKENIZER
from trainer.model.adapted import merged_value
from trainer.model.build import parameter_shapes
from trainer.model.weight_files import WEIGHTS, open_weights


def run(run_dir: Path, out: Path) -> int:
    """Adds the averaged adapters of a run to their base, and writes the result as the run `out`.

    Raises:
        ValueError: the run has no adapters or no intact checkpoint, its base is gone or another one, or the folder
            already holds a run or cannot be written.
    """
    if (out / "checkpoints").exists():
        raise ValueError(f"--out: {out} already holds checkpoints; give another folder")
    folder = newest_checkpoint(run_dir)
    config = load_run(folder)
    if config.model.adapters is None:
        raise Refusal(folder / "config.yaml", "model.adapters", "is not there to be merged", "leave --merged out")
    if routed_adapters(config) is not None:
        problem = "is routed, which makes another network of the base for each task"
        raise Refusal(folder / "config.yaml", "model.adapters.kind", problem, "leave --merged out")
    check_restorable(config, folder)
    step = step_of(folder)
    whole = _finished(config, out, step)
    root = step_folder(out / "checkpoints", step)
    try:
        _write(root, folder, config, whole, step)
    except BaseException:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        raise
    with replacing(out / "config.yaml") as temporary:
        temporary.write_text(whole.to_yaml(), encoding="utf-8")
    print(f"{out}: a run of a {whole.model.kind} with the adapters of step {step} in its weights")
    return 0


def _finished(config: RunConfig, out: Path, step: int) -> RunConfig:
    """The configuration of the run that is written, which has taken all of its steps."""
    plain = of_base(config)
    model = plain.model.model_copy(update={"init_from": None})
    run_section = plain.run.model_copy(update={"dir": out})
    optim = plain.optim.model_copy(update={"steps": step})
    return plain.model_copy(update={"model": model, "run": run_section, "optim": optim})


def _write(root: Path, folder: Path, config: RunConfig, whole: RunConfig, step: int) -> None:
    shapes = parameter_shapes(whole)
    written = write_in_parts(root / WEIGHTS, shapes, _values(folder, config, list(shapes)))
    elements = sum(map(math.prod, shapes.values()))
    parts = len(written) - 1
    card = model_card(whole, step, elements, routers=False, weights=written[0].name, parts=parts)
    for name, text in (("config.yaml", whole.to_yaml()), ("README.md", card)):
        with replacing(root / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if (folder / TOKENIZER).exists():
        shutil.copyfile(folder / TOKENIZER, root / TOKENIZER)
    Manifest(
        step=step,
        updates=step,
        identity=identity_of(whole),
        division=division_of(whole, Layout.single(whole)),
        files=dict(sorted(records(root, (path for path in root.rglob("*") if path.is_file())).items())),
    ).write(root)


def _values(folder: Path, config: RunConfig, names: list[str]) -> Iterator[Tensor]:
    """The merged weights, one after the other."""
    assert config.model.adapters is not None
    with (
        open_weights(base_weights(config.model.adapters.base)) as base,
        open_weights(folder / WEIGHTS) as adapters,
    ):
        for name in names:
            yield merged_value(config.model.adapters, name, base, adapters)
