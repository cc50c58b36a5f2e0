"""Readers of the trainer: configurations, data sets, networks, checkpoints and what runs leave behind."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

import trainer.data
from moe.placement.placement import Placement
from tests.fuzz import sound_files
from tests.fuzz.mutations import Format
from tests.fuzz.reader import Reader, all_of, copied, reading, words, written
from tests.trainer.model.foreign_networks import FILES, write
from trainer.__main__ import main
from trainer.checkpoint.contents import packed, unpacked
from trainer.checkpoint.resuming import fill
from trainer.checkpoint.storage import SavedState, write_index, write_pieces
from trainer.config.file import load_config, resolve
from trainer.config.rules.plan import plan_layout
from trainer.data.conversion.run import open_source
from trainer.data.conversion.source import Reading
from trainer.evaluation.judgement import read_judgement
from trainer.experiment.comparison.results import Comparison
from trainer.experiment.report.simulation import Simulation
from trainer.model.build import build_model
from trainer.model.feature_extractor.extractor import check_extractor, read_extractor
from trainer.model.parallel.state import StatePiece
from trainer.model.values import initialise_from
from trainer.model.weight_files import part_of
from trainer.observe.metrics import read_metrics

SURFACES = {"kind": "surfaces", "path": "surfaces", "pairs": "surfaces/list", "eigenfunctions": 8, "waves": 9}
RANKS = {"digits_moe.yaml": 2, "gpt_moe.yaml": 2, "dit_moe_64.yaml": 64}
RUNS = ("digits_autoencoder", "digits_moe", "dit_moe_64", "gpt_moe", "toy")
STAGED = ("boss", "digits_reflow", "kinetic_optimal", "mdt_dist", "rectified_diffusion_phased", "rectified_flow")
METHODS = (
    "flow_matching",
    "immiscible",
    "monge_map",
    "ot_cfm",
    "rectified_diffusion",
    "stochastic_interpolant",
    "weighted_cfm",
)
OVERRIDES = """\
optim.steps=200
model.hidden=16
flow.coupling={kind: minibatch_ot}
flow.path.kind=trigonometric
data={kind: toy, name: moons, held_out: 50}
sample.sampler={kind: heun, steps: 4}
engine.kind=fsdp
moe=null
run.seed=3
"""
STAGE_OVERRIDES = """\
stages.teacher.optim.steps=30
stages.pairs.num=3000
stages.reflow.sample.sampler.steps=2
optim.global_batch=16
"""
REQUEST = """\
absent
--num-pairs
24
--sampler
{kind: heun, steps: 50}
--guidance
1.5
--seed
3
--segments
2
--dtype
float16
--out
pairs
"""
FIT = """\
--out
path.safetensors
--num-points
400
--draws
20
--seed
1
--least-price
0.01
"""


def _check(file: Path) -> int:
    return main(["check", str(file), "--world-size", str(RANKS.get(file.name, 1))])


def _check_toy(*overrides: str) -> int:
    return main(["check", "toy.yaml", *overrides])


def _rows(section: dict[str, Any]) -> None:
    """Every example of a data set."""
    resolution = resolve({"data": section})
    for error in resolution.unresolved.values():
        raise error
    dataset = trainer.data.build(TypeAdapter(trainer.data.Config).validate_python(resolution.document["data"]))
    for split in trainer.data.SPLITS:
        dataset.get(dataset.indices(split)[:64])


def _read_source(path: Path) -> None:
    """Reads every example of what the shards verb is given."""
    source = open_source(path, Reading(class_names=Path("names.txt")), Path())
    for number in range(source.num_examples):
        source.row(number)


def _read_dataset(kind: str, folder: str) -> Any:
    section: dict[str, Any] = {"kind": kind, "path": folder, "held_out": 1}
    if kind in ("image_folder", "webdataset"):
        section["size"] = 4
    if kind == "webdataset":
        section["index"] = f"{folder}/index"
    return reading(lambda _: _rows(section))


def _index_tars(_: Path) -> int:
    return main(["index-tars", "tars", "--out", "made", "--workers", "1"])


def _write_foreign(kind: str) -> None:
    write(Path(kind), kind)


def _import_weights(kind: str, _: Path) -> int:
    return main(["import-weights", kind, "--out", "ours"])


def _read_weights(file: Path) -> int:
    status = _check_toy(f"model.init_from={file}")

    def fill(path: Path) -> None:
        config = load_config("toy.yaml")
        initialise_from(build_model(config, plan_layout(config, 1)), path)

    return status or reading(fill)(file)


def _write_checkpoint() -> None:
    written(toy__yaml=sound_files.TOY)()
    sound_files.checkpoint(Path("run"), Path("toy.yaml"))


CHECKPOINT = "run/checkpoints/step_00000020"


def _read_checkpoint(_: Path) -> int:
    return main(["export", "run", "--out", "exported"]) or _check_toy()


def _read_resealed(file: Path) -> int:
    """As if the run had written what is there."""
    if not Path(CHECKPOINT, "ema.safetensors").is_dir():
        sound_files.seal(Path(CHECKPOINT))
    return _read_checkpoint(file)


def _piece(kind: str, row: int) -> StatePiece:
    return StatePiece("w", kind, (3, 2), (row, 0), torch.ones(3 - row, 2))


def _write_state() -> None:
    write_pieces(Path("state"), 0, [_piece("weight", 0), _piece("ema", 0)])
    write_index(Path("state"), 1)
    Path("rank.pt").write_bytes(packed({"step": 3, "rng": torch.arange(5)}))


def _write_first_state() -> None:
    Path("state").mkdir()
    Path("state", "index.json").write_text(sound_files.STATE_INDEX, encoding="utf-8")
    save_file(
        {"w:weight[0,0]": torch.ones(3, 2), "w:ema[0,0]": torch.ones(3, 2)}, Path("state", "rank_00000.safetensors")
    )
    Path("rank.pt").write_bytes(packed({"step": 3, "rng": torch.arange(5)}))


def _read_state(_: Path) -> None:
    for rank in (0, 1):
        fill(Path("state"), rank, [_piece("weight", 1)])
    for tensor in SavedState(Path("state")).of_kind("ema").values():
        tensor.values()
    unpacked(Path("rank.pt"))


def _write_weights_in_parts() -> None:
    _write_weights()
    whole = load_file("w.safetensors")
    parts = {part_of("w.safetensors", number, 2): list(whole)[number::2] for number in range(2)}
    for file, names in parts.items():
        save_file({name: whole[name] for name in names}, file)
    weight_map = {name: file for file, names in parts.items() for name in names}
    Path("w.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8"
    )
    Path("w.safetensors").unlink()


def _read_weights_in_parts(_: Path) -> int:
    return _read_weights(Path("w.safetensors.index.json"))


def _write_weights() -> None:
    written(toy__yaml=sound_files.TOY)()
    sound_files.weights(load_config("toy.yaml"), Path("w.safetensors"))


def _write_latents() -> None:
    sound_files.shards(Path("latents"), "npz", latents=True)
    written(latent__yaml=sound_files.LATENT)()


def _write_features() -> None:
    sound_files.features(Path("features.safetensors"))


def _read_features(file: Path) -> None:
    check_extractor(file, (1, 8, 8))
    read_extractor(file).features(torch.zeros(2, 1, 8, 8))


def _write_placed() -> None:
    copied("configs/runs/digits_moe.yaml")()
    config = load_config("digits_moe.yaml")
    assert config.moe is not None
    Placement.contiguous(config.model.num_layers, config.moe.num_experts, 1, 2).write("placement.json")


def _read_placed(file: Path) -> int:
    return main(["check", "digits_moe.yaml", f"moe.placement={file}", "--world-size", "2"])


def _folder(name: str, write: Any, *options: Any) -> Any:
    return lambda: write(Path(name), *options)


def readers() -> Iterator[Reader]:
    """All of them."""
    yamls: dict[str, Format]
    for name, folder, files in (
        ("run configuration", "runs", RUNS),
        ("method", "methods", METHODS),
        ("stages", "methods", STAGED),
    ):
        yamls = {f"{file}.yaml": "yaml" for file in files}
        yield Reader(name, yamls, copied(*(f"configs/{folder}/{file}" for file in yamls)), _check)
    yield Reader(
        "run overrides",
        {"overrides": "words"},
        written(toy__yaml=sound_files.TOY, overrides=OVERRIDES),
        lambda file: _check_toy(*words(file)),
    )
    yield Reader(
        "stage overrides",
        {"overrides": "words"},
        all_of(copied("configs/methods/rectified_flow.yaml"), written(overrides=STAGE_OVERRIDES)),
        lambda file: main(["check", "rectified_flow.yaml", *words(file)]),
    )
    yield Reader(
        "request for pairs",
        {"request": "words"},
        written(request=REQUEST),
        lambda file: main(["pairs", *words(file)]),
        sound=2,  # for there is no run
    )
    yield Reader(
        "request for a path",
        {"request": "words"},
        written(request=FIT, toy__yaml=sound_files.TOY),
        lambda file: main(["fit-path", "toy.yaml", "data.kind=absent", *words(file)]),
        sound=2,  # for there is no such data
    )
    yield Reader(
        "tabulated path",
        {"path.safetensors": "safetensors"},
        all_of(copied("tests/files/path.safetensors"), written(toy__yaml=sound_files.TOY)),
        lambda file: _check_toy(f"flow.path={{kind: tabulated, path: {file}}}"),
    )
    yield Reader(
        "searched grids",
        {"steps.json": "json"},
        all_of(copied("tests/files/steps.json"), written(toy__yaml=sound_files.TOY)),
        lambda file: _check_toy(f"sample.sampler={{kind: euler, steps: 4, times: {file}}}"),
    )
    yield Reader(
        "pairs",
        {"pairs/index.json": "json", "pairs/p.safetensors": "safetensors"},
        _folder("pairs", sound_files.pairs),
        _read_dataset("pairs", "pairs"),
    )
    yield Reader(
        "surfaces",
        {f"surfaces/{name}": "bytes" for name in ("a.off", "b.obj", "c.ply", "list", "map")},
        _folder("surfaces", sound_files.surfaces),
        reading(lambda _: _rows(SURFACES)),
    )
    for kind in ("safetensors", "npz"):
        yield Reader(
            f"shards ({kind})",
            {"shards/index.json": "json", f"shards/shard_00000.{kind}": kind},
            _folder("shards", sound_files.shards, kind),
            _read_dataset("shards", "shards"),
        )
    yield Reader(
        "latents", {"latents/index.json": "json"}, _write_latents, reading(lambda _: load_config("latent.yaml"))
    )
    yield Reader(
        "pictures",
        {"pictures/a/0.png": "bytes", "pictures/a/1.jpg": "bytes", "pictures/b/0.bmp": "bytes"},
        _folder("pictures", sound_files.pictures),
        _read_dataset("image_folder", "pictures"),
    )
    yield Reader(
        "arrays for shards",
        {"source.npz": "npz", "names.txt": "bytes"},
        copied("tests/files/shards/source.npz", "tests/files/shards/names.txt"),
        reading(lambda _: _read_source(Path("source.npz"))),
    )
    yield Reader(
        "tars",
        {"tars/index/index.json": "json", "tars/index/examples.npy": "npy", "tars/x.tar": "bytes"},
        _folder("tars", sound_files.tars),
        _read_dataset("webdataset", "tars"),
    )
    yield Reader("tars that get an index", {"tars/x.tar": "bytes"}, _folder("tars", sound_files.tars), _index_tars)
    yield Reader("features", {"features.safetensors": "safetensors"}, _write_features, reading(_read_features))
    for kind, weights in FILES.items():
        yield Reader(
            f"weights of another package, {kind}",
            {f"{kind}/config.json": "json", f"{kind}/{weights}": "safetensors"},
            partial(_write_foreign, kind),
            partial(_import_weights, kind),
        )
    yield Reader("weights", {"w.safetensors": "safetensors"}, _write_weights, _read_weights)
    yield Reader(
        "weights in parts",
        {"w.safetensors.index.json": "json", "w-00002-of-00002.safetensors": "safetensors"},
        _write_weights_in_parts,
        _read_weights_in_parts,
    )
    yield Reader(
        "checkpoint",
        {f"{CHECKPOINT}/COMPLETE": "json", f"{CHECKPOINT}/ema.safetensors": "safetensors"},
        _write_checkpoint,
        _read_checkpoint,
    )
    yield Reader(
        "checkpoint, sealed again",
        {f"{CHECKPOINT}/config.yaml": "yaml", f"{CHECKPOINT}/ema.safetensors": "safetensors"},
        _write_checkpoint,
        _read_resealed,
    )
    yield Reader(
        "checkpoint state",
        {"state/index.json": "json", "state/rank_00000.safetensors": "safetensors", "rank.pt": "bytes"},
        _write_state,
        reading(_read_state),
    )
    yield Reader(
        "checkpoint state, first format",
        {"state/index.json": "json", "state/rank_00000.safetensors": "safetensors"},
        _write_first_state,
        reading(_read_state),
    )
    yield Reader("placement of a run", {"placement.json": "json"}, _write_placed, _read_placed)
    yield Reader("metrics", {"metrics.jsonl": "jsonl"}, copied("tests/files/metrics.jsonl"), reading(read_metrics))
    yield Reader(
        "judgement",
        {"judgement.json": "json"},
        written(judgement__json=sound_files.JUDGEMENT),
        reading(read_judgement),
    )
    yield Reader(
        "comparison",
        {"compare.json": "json"},
        written(compare__json=sound_files.comparison()),
        reading(Comparison.read),
    )
    yield Reader(
        "simulation of a report",
        {"results.json": "json", "collectives.csv": "words"},
        written(results__json=sound_files.RESULTS, collectives__csv=sound_files.COLLECTIVES),
        reading(lambda _: Simulation.read(Path())),
    )
