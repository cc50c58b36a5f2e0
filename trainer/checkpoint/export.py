"""Copies of averaged weights in a folder that explains itself, whole or in parts."""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from netsim.foundation.files import replacing, write_json, write_text
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.base import base_weights
from trainer.checkpoint.contents import division_of, identity_of
from trainer.checkpoint.directory import step_folder, step_of
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest, records
from trainer.checkpoint.model_card import model_card
from trainer.checkpoint.pretrained import check_restorable
from trainer.checkpoint.program import write_programs
from trainer.checkpoint.storage import write_tensors
from trainer.checkpoint.writers import PART_BYTES
from trainer.config.derived import of_base, routed_adapters
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data.text.tokens import TOKENIZER
from trainer.model.adapted import merged_value
from trainer.model.build import parameter_shapes
from trainer.model.foreign import FOREIGN
from trainer.model.foreign.protocol import NAME, Entry
from trainer.model.values import ROUTERS, check_weights
from trainer.model.weight_files import EXPORTED, WEIGHTS, Weights, copied, files_of, index_of, open_weights, part_of


def write_in_parts(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Writes weights with at most one part in memory at a time, and in float32 at most one tensor.

    Returns the one file `path`, or the index and the parts, named after it. Each of `tensors`, in the order of
    `shapes`, is drawn from the iterable when the one before is written.
    """
    parts = _divided(shapes, dtype.itemsize)
    coming = iter(tensors)
    paths = (
        [path] if len(parts) == 1 else [path.with_name(part_of(path.name, i, len(parts))) for i in range(len(parts))]
    )
    for file, part in zip(paths, parts, strict=True):
        _write(file, part, islice(coming, len(part)), dtype)
    if len(parts) == 1:
        return paths
    size = sum(map(math.prod, shapes.values())) * dtype.itemsize
    weight_map = {name: file.name for file, part in zip(paths, parts, strict=True) for name in part}
    write_json(index_of(path), {"metadata": {"total_size": size}, "weight_map": weight_map})
    return [index_of(path), *paths]


def _divided(shapes: Mapping[str, tuple[int, ...]], itemsize: int) -> list[dict[str, tuple[int, ...]]]:
    """Parts of some size each, in the order of the tensors; none is empty."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        added = math.prod(shape) * itemsize
        if parts[-1] and size + added > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = shape
        size += added
    return parts


def _write(path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterator[Tensor], dtype: torch.dtype) -> None:
    metadata = {"format": "pt"}
    if dtype == torch.float32:
        write_tensors(path, shapes, tensors, metadata)
        return
    with replacing(path) as temporary:
        save_file({name: tensor.to(dtype) for name, tensor in zip(shapes, tensors, strict=True)}, temporary, metadata)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class _Source:
    """Source of exported weights: configuration, weights file, and step of the checkpoint, None without one."""

    config: RunConfig
    weights: Path
    step: int | None


def run(
    run_dir: Path,
    out: Path,
    to: str | None = None,
    dtype: str = "float32",
    *,
    program_in: Callable[[], AbstractContextManager[object]] | None = None,
) -> int:
    """Copies the averaged weights of a run, with the routers' state, the configuration and a model card, to a folder.

    Args:
        run_dir: folder of the run, or one that this verb or the import-weights verb wrote.
        to: a package of :data:`trainer.model.foreign.FOREIGN` whose names and layout are used; None: this one's.
        dtype: type of the values in that package's form.
        program_in: the process groups of one process, in which the folder also gets the network as a program of
            torch.export; None: it gets none.
    """
    if out.resolve() == run_dir.resolve():
        raise ValueError(f"--out: {out} is the folder that is read; give another")
    if to is None and dtype != "float32":
        raise ValueError(f"--dtype: {dtype} goes with --to; a run starts from float32")
    source = _source(run_dir)
    if to is not None and source.config.model.adapters is not None:
        remedy = f"python -m trainer export {run_dir} --merged --out DIR, and give DIR"
        raise ValueError(f"--to: {to} has no adapters beside a network; {remedy}")
    if to is not None:
        return _run_foreign(source, out, to, DTYPES[dtype])
    config, folder = source.config, source.weights.parent
    programs = write_programs(config, source.weights, out, program_in) if program_in else []
    elements = _elements(source.weights)
    first, *parts = copied(source.weights, out / EXPORTED)
    tokenizer = [TOKENIZER] if (folder / TOKENIZER).exists() else []
    for name in ("config.yaml", *([ROUTERS] if config.moe else []), *tokenizer):
        with replacing(out / name) as temporary:
            shutil.copyfile(folder / name, temporary)
    routers = config.moe is not None
    card = model_card(
        config, source.step, elements, routers=routers, weights=first.name, parts=len(parts), programs=programs
    )
    write_text(out / "README.md", card)
    what = "weights" if config.model.adapters is None else "adapters, without the weights that they stand beside,"
    print(f"{out}: the averaged {what} of step {source.step}" if source.step is not None else f"{out}: the {what}")
    return 0


def _source(run_dir: Path) -> _Source:
    exported = run_dir / EXPORTED
    whole = all(file.is_file() for file in (run_dir / "config.yaml", *files_of(exported)))
    if whole and not (run_dir / "checkpoints").is_dir():
        config = load_run(run_dir)
        check_weights(exported, parameter_shapes(config))
        return _Source(config, exported, None)
    folder = newest_checkpoint(run_dir)
    config = load_run(folder)
    check_restorable(config, folder)
    return _Source(config, folder / WEIGHTS, step_of(folder))


def _run_foreign(source: _Source, out: Path, to: str, dtype: torch.dtype) -> int:
    """Writes weights as another package names and orders them."""
    kind = FOREIGN[to]
    document = kind.document(source.config)
    if "model_type" in document:
        document["torch_dtype"] = str(dtype).removeprefix("torch.")
    entries = kind.entries(source.config)
    shapes = {name: shape for entry in entries for name, shape in entry.parts.items()}
    with open_weights(source.weights) as weights:
        write_in_parts(out / kind.weights, shapes, _split(weights, entries), dtype)
    tokenizer = source.weights.with_name(TOKENIZER)
    if tokenizer.is_file():
        with replacing(out / TOKENIZER) as temporary:
            shutil.copyfile(tokenizer, temporary)
    write_json(out / NAME, document, indent=2, sort_keys=True)
    print(f"{out}: a {kind.network}, {sum(map(math.prod, shapes.values())):,} values")
    return 0


def _split(weights: Weights, entries: list[Entry]) -> Iterator[Tensor]:
    """Yields the tensors into which the entries split the weights, one after the other."""
    for entry in entries:
        yield from entry.split(weights.tensor(entry.name)).values()


def _elements(path: Path) -> int:
    with open_weights(path) as weights:
        return sum(math.prod(weights.shape(name)) for name in weights.names)


def run_merged(run_dir: Path, out: Path) -> int:
    """Adds the averaged adapters of a run to their base, and writes the result as the run `out`."""
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
        _write_merged(root, folder, config, whole, step)
    except BaseException:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        raise
    write_text(out / "config.yaml", whole.to_yaml())
    print(f"{out}: a run of a {whole.model.kind} with the adapters of step {step} in its weights")
    return 0


def _finished(config: RunConfig, out: Path, step: int) -> RunConfig:
    """Returns the configuration of the merged run in folder `out`: no adapters, and `step` of `step` steps done."""
    plain = of_base(config)
    model = plain.model.model_copy(update={"init_from": None})
    run_section = plain.run.model_copy(update={"dir": out})
    optim = plain.optim.model_copy(update={"steps": step})
    return plain.model_copy(update={"model": model, "run": run_section, "optim": optim})


def _write_merged(root: Path, folder: Path, config: RunConfig, whole: RunConfig, step: int) -> None:
    shapes = parameter_shapes(whole)
    written = write_in_parts(root / WEIGHTS, shapes, _values(folder, config, list(shapes)))
    elements = sum(map(math.prod, shapes.values()))
    parts = len(written) - 1
    card = model_card(whole, step, elements, routers=False, weights=written[0].name, parts=parts)
    for name, text in (("config.yaml", whole.to_yaml()), ("README.md", card)):
        write_text(root / name, text)
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
