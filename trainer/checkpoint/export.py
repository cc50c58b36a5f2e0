"""The export verb."""

import shutil
from pathlib import Path

from safetensors import safe_open

from moe.files import replacing
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.model_card import model_card
from trainer.config.file import load_config
from trainer.model.pretrained import check_restorable
from trainer.model.weights import ROUTERS, WEIGHTS

EXPORTED = "model.safetensors"


def run(run_dir: Path, out: Path) -> int:
    """Copies the averaged weights of a run to a folder that explains itself.

    Args:
        run_dir: folder of the run.
        out: folder for the weights, the routers' state, the configuration and a model card.

    Returns:
        0.

    Raises:
        ValueError: the run has no intact checkpoint, or the folder cannot be written.
    """
    folder = newest_checkpoint(run_dir)
    config = load_config(folder / "config.yaml")
    check_restorable(config, folder)
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    card = model_card(config, step_of(folder), shapes, routers=config.moe is not None, weights=EXPORTED)
    copies = {EXPORTED: WEIGHTS, "config.yaml": "config.yaml", **({ROUTERS: ROUTERS} if config.moe else {})}
    for target, source in copies.items():
        with replacing(out / target) as temporary:
            shutil.copyfile(folder / source, temporary)
    with replacing(out / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    print(f"{out}: the averaged weights of step {step_of(folder)}")
    return 0
