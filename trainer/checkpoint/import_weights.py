"""The import-weights verb: a network of another package becomes the beginning of a run."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from netsim.foundation.files import replacing, write_text
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.export import write_in_parts
from trainer.checkpoint.model_card import model_card
from trainer.config.file import validated
from trainer.config.run import RunConfig
from trainer.data.text.tokens import TOKENIZER
from trainer.model.build import parameter_shapes
from trainer.model.foreign import Document, Foreign, network_in
from trainer.model.foreign.protocol import Entry, elements
from trainer.model.weight_files import EXPORTED, Weights, open_weights

_DAMAGED = "give the folder as its package wrote it"
_PLAIN = ("F32", "BF16", "F16")


def run(folder: Path, out: Path) -> int:
    """Writes another package's weights, in float32 under the names of this one, a configuration and a model card."""
    kind, document, path = network_in(folder)
    try:
        with open_weights(path) as weights:
            shapes = [weights.shape(name) for name in weights.names]
            document.largest = max([len(shapes), *(size for shape in shapes for size in shape)])
            config = _configuration(kind, document, weights, out)
            entries = kind.entries(config)
            assert {entry.name: entry.shape for entry in entries} == parameter_shapes(config)
            _check(path, kind, entries, weights)
            tensors = (
                entry.join({name: weights.tensor(name) for name in entry.parts}).float().contiguous()
                for entry in entries
            )
            first, *parts = write_in_parts(out / EXPORTED, {entry.name: entry.shape for entry in entries}, tensors)
    except (OSError, SafetensorError) as error:
        raise Refusal(path, "weights", f"cannot be read ({error})", _DAMAGED) from error
    write_text(out / "config.yaml", config.to_yaml())
    card = model_card(
        config, None, elements(entries), routers=False, weights=first.name, parts=len(parts), origin=kind.network
    )
    write_text(out / "README.md", card)
    print(f"{out}: {elements(entries):,} parameters of a {kind.network}; its config.yaml is of a run with this network")
    tokenizer = folder / TOKENIZER
    if tokenizer.is_file():
        with replacing(out / TOKENIZER) as temporary:
            shutil.copyfile(tokenizer, temporary)
    for line in _next_steps(config, out):
        print(line)
    return 0


def _configuration(kind: Foreign, document: Document, weights: Weights, out: Path) -> RunConfig:
    """A run that begins with the weights."""
    sections = kind.sections(document, weights)
    whole: Mapping[str, Any] = {
        "run": {"dir": f"runs/{out.name}"},
        **sections,
        "model": {**sections["model"], "init_from": str(out)},
        "optim": {"steps": 1000, "global_batch": 8, "lr": 1e-5, "warmup_steps": 100},
    }
    return validated(document.path, dict(whole))


def _next_steps(config: RunConfig, out: Path) -> Iterator[str]:
    """The commands that train on with a user's own data."""
    data = ""
    if config.data.kind == "shards":
        shape = " x ".join(map(str, config.data.shape))
        yield f"your data: shards of examples of {shape}, with labels below {config.data.num_classes}"
        data = " 'data={kind: shards, path: YOURS, held_out: 100}'"
    elif config.data.kind == "text":
        kept = out / TOKENIZER
        tokenizer = kept if kept.is_file() else "TOKENIZER.json"
        yield f"your data: python -m trainer encode-text TEXTS --tokenizer {tokenizer} --out ENCODED"
        data = " 'data={kind: text, path: ENCODED}'"
    yield f"train on: python -m trainer train {out / 'config.yaml'}{data}"


def _check(path: Path, kind: Foreign, entries: list[Entry], weights: Weights) -> None:
    """Refuses weights in which a tensor is missing, has another shape or type, or has no place here."""
    wanted = {name: shape for entry in entries for name, shape in entry.parts.items()}
    names = {*weights.names}
    for name, shape in wanted.items():
        if name not in names:
            raise Refusal(path, name, f"is missing, which a {kind.network} of this config.json has", _DAMAGED)
        if weights.shape(name) != shape:
            raise Refusal(path, name, f"has shape {weights.shape(name)}, not {shape} as config.json says", _DAMAGED)
        if weights.dtype(name) not in _PLAIN:
            problem = f"holds {weights.dtype(name)}"
            raise Refusal(path, name, problem, "give weights in float32, bfloat16 or float16, not quantised")
    for name in sorted(names - wanted.keys()):
        if not name.endswith(kind.buffers or ("\0",)):
            raise Refusal(path, name, f"has no place in a {kind.network} of this config.json", _DAMAGED)
