"""The export verb."""

import math
import shutil
from pathlib import Path

from moe.files import replacing
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.model_card import model_card
from trainer.config.file import load_config
from trainer.data.text.index import TOKENIZER
from trainer.model.pretrained import check_restorable
from trainer.model.weight_files import WEIGHTS, copied, open_weights
from trainer.model.weights import ROUTERS

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
    with open_weights(folder / WEIGHTS) as weights:
        elements = sum(math.prod(weights.shape(name)) for name in weights.names)
    first, *parts = copied(folder / WEIGHTS, out / EXPORTED)
    tokenizer = [TOKENIZER] if (folder / TOKENIZER).exists() else []
    for name in ("config.yaml", *([ROUTERS] if config.moe else []), *tokenizer):
        with replacing(out / name) as temporary:
            shutil.copyfile(folder / name, temporary)
    routers = config.moe is not None
    card = model_card(config, step_of(folder), elements, routers=routers, weights=first.name, parts=len(parts))
    with replacing(out / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    print(f"{out}: the averaged weights of step {step_of(folder)}")
    return 0
