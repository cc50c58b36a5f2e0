"""Sound files that no folder of the repository holds, made small: data sets, networks, checkpoints, requests."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

from moe.placement.placement import Placement
from moe.routing_trace import RoutingHeader, RoutingTrace
from tests.trainer.data.tars import digits, tar_bytes
from trainer.__main__ import main
from trainer.checkpoint.contents import packed
from trainer.checkpoint.directory import step_folder
from trainer.checkpoint.manifest import Manifest, records
from trainer.checkpoint.storage import FIRST_FORMAT
from trainer.config.file import load_config
from trainer.config.run import RunConfig
from trainer.data import write_shards
from trainer.data.shard.index import LatentsEntry, PairIndex, ShardEntry
from trainer.data.surface_files import Surface, write_surface
from trainer.data.surface_pairs import icosphere
from trainer.model.build import parameter_shapes
from trainer.model.feature_extractor.extractor import write_extractor

SHAPE = (2, 2, 2)
TOY = """\
run: {dir: run, seed: 0}
data: {kind: toy, name: checkerboard, held_out: 100}
model: {kind: mlp, hidden: 8, num_layers: 1}
optim: {steps: 20, global_batch: 8, lr: 2.0e-3, warmup_steps: 5, final_lr: 1.0e-5, ema_decay: 0.9}
sample: {num: 16}
"""


def routing() -> RoutingTrace:
    """Choices of 20 tokens among 4 experts in 2 layers."""
    draw = np.random.default_rng(0)
    ids = draw.random((20, 2, 4)).argsort(axis=2)[:, :, :2].astype(np.int32)
    header = RoutingHeader(num_experts=4, num_layers=2, top_k=2, world_size=2, model="sound")
    return RoutingTrace(ids, draw.integers(2, size=20).astype(np.int32), header)


def placement() -> Placement:
    """Where the experts of `routing` may live."""
    return Placement.contiguous(2, 4, 1, 2)


def scores() -> str:
    """A file of ESFT's scores: three sequences of a layer, two choices a token."""
    return "0\t3\t1\t2\t\t0.25\t0.5\t0.125\t0.75\n1\t0\t\t0.5\t0.25\n3\t1\t\t0.0625\t0.5\n"


def router_trace() -> str:
    """Megatron-Core's records of two steps of a rank, two layers and a head of multi-token prediction."""
    common = {"stage": "pre_dispatch", "rank": 0, "num_tokens": 2, "topk": 2, "top_indices": [[0, 3], [1, 2]]}
    blocks = (
        {"block": "decoder", "layer": 0},
        {"block": "decoder", "layer": 2},
        {"block": "mtp", "mtp_idx": 0, "layer": 0},
    )
    return "".join(json.dumps({"step": step, **block, **common}) + "\n" for step in range(2) for block in blocks)


def token_dump(path: Path) -> None:
    """SGLang's dump of one forward pass of four tokens."""
    ids = torch.tensor([[[0, 4], [1, 2], [3, 5], [2, 0]]], dtype=torch.int32)
    one = {"rank": 0, "forward_pass_id": 7, "positions": [0, 1, 2, 0], "extend_seq_lens": [3, 1]}
    logical = torch.tensor([[0, 1, 2, 3, 0, 1]])
    torch.save({"records": [{**one, "topk_ids_of_layer": ids}], "last_physical_to_logical_map": logical}, path)


def shards(folder: Path, file_type: str, *, latents: bool = False) -> None:
    """Twelve examples in two shards, which may be latents of pictures."""
    draw = np.random.default_rng(0)
    data, labels = draw.standard_normal((12, *SHAPE)).astype(np.float32), draw.integers(0, 3, 12)
    entry = LatentsEntry(autoencoder="autoencoder", image_shape=(1, 8, 8), shift=(0.5,), scale=(2.0,))
    options = {"latents": lambda: entry} if latents else {"standardise": True}
    write_shards(folder, [(data, labels)], num_classes=3, shard_examples=7, file_type=file_type, **options)  # pyright: ignore


def surfaces(folder: Path) -> None:
    """A sphere in three formats, and two pairs, one of them with a map."""
    folder.mkdir()
    vertices, triangles = icosphere(0)
    every = np.arange(len(vertices))
    write_surface(folder / "c.ply", Surface(vertices, triangles, every, len(every)), np.zeros((12, 3), np.uint8))
    places = [" ".join(f"{value:.6f}" for value in row) for row in vertices]
    faces = ["3 " + " ".join(map(str, row)) for row in triangles]
    (folder / "a.off").write_text("\n".join([f"OFF\n12 {len(faces)} 0", *places, *faces, ""]), encoding="utf-8")
    faces = ["f " + " ".join(map(str, row)) for row in triangles + 1]
    (folder / "b.obj").write_text("\n".join([*(f"v {row}" for row in places), *faces, ""]), encoding="utf-8")
    (folder / "map").write_text("\n".join(map(str, every)), encoding="utf-8")
    (folder / "list").write_text("a.off b.obj map\nb.obj c.ply same\n", encoding="utf-8")


def pairs(folder: Path) -> None:
    """Eight pairs of the ends of parts of paths."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    x_0, x_1 = draw.standard_normal((2, 8, 2)).astype(np.float32)
    interval = np.tile(np.array([0, 0.5], np.float32), (8, 1))
    save_arrays({"x_0": x_0, "x_1": x_1, "labels": np.arange(8) % 2, "interval": interval}, folder / "p.safetensors")
    PairIndex(
        shape=(2,), dtype="float32", num_classes=2, segments=2, made_by={"weights": "x", "sampler": {"kind": "euler"}},
        shards=(ShardEntry(file="p.safetensors", num_examples=8),),
    ).write(folder)  # fmt: skip


def tars(folder: Path) -> None:
    """Four digits in a tar, and its index."""
    folder.mkdir()
    (folder / "x.tar").write_bytes(tar_bytes(digits(0, 4)))
    with redirect_stdout(io.StringIO()):
        main(["index-tars", str(folder), "--out", str(folder / "index"), "--workers", "1"])


def pictures(folder: Path) -> None:
    """Pictures of two classes in three formats."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    for name in ("a/0.png", "a/1.jpg", "b/0.bmp", "b/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def features(path: Path) -> None:
    """A feature extractor of pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 3)
        write_extractor(nn.Sequential(*layers).eval(), path, (1, 8, 8), mean=(0.1,), std=(0.5,))


def weights(config: RunConfig, path: Path) -> None:
    """Weights of a network, all of them small."""
    save_file({name: torch.full(shape, 0.01) for name, shape in parameter_shapes(config).items()}, path)


def checkpoint(run: Path, config_file: Path) -> Path:
    """A checkpoint as far as the verbs that do not train on read it; returns its folder."""
    config = load_config(config_file)
    folder = step_folder(run / "checkpoints", 20)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    weights(config, folder / "ema.safetensors")
    (folder / "ranks").mkdir()
    (folder / "ranks" / "rank_00000.pt").write_bytes(packed({"step": 20, "rng": torch.get_rng_state()}))
    (folder / "state").mkdir()
    save_file({"0": torch.ones(3, 2)}, folder / "state" / "rank_00000.safetensors")
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Declares a checkpoint complete, whatever is in its files."""
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "COMPLETE")
    Manifest(20, 20, {"model.hidden": 8}, {"world_size": 1}, records(folder, inside)).write(folder)


def comparison() -> str:
    """compare.json of one network with one seed."""
    found = {"figures": {"sliced_wasserstein": 0.5}, "sampler": "euler", "evaluations": 4}
    evaluation = {"results": [found], "paths": {"curvature": 0.1}}
    outcome = {
        "seed": 0,
        "run_dir": "a",
        "training_s": 1.0,
        "preparing_s": 0.0,
        "step_s": 0.01,
        "evaluation": evaluation,
    }
    cost = {
        **{"evaluations": 4, "calls": {"network": 4}, "multiply_adds": 100, "sent_bytes": 8.0, "compute_us": 0.1},
        **{"network_us": {"ecmp": 2.0}},
    }
    entry = {
        **{"name": "a", "about": "b", "paper": None, "config": "a.yaml", "trained": "b.yaml", "sampler": "euler"},
        **{"steps": 3, "pairs": 0, "outcomes": [outcome], "costs": [cost]},
    }
    fabric = {"scenario": "fabric.yaml", "ranks": 4, "examples": 2, "teraflops": 400.0}
    document = {
        **{"format": "flowfabric.comparison/2", "command": "compare", "base": "toy.yaml", "data": {"kind": "toy"}},
        **{"budget": {"steps": 3, "global_batch": 8, "examples": 24}, "ranks": 1, "jobs": 1, "num": 10},
        **{"measure": "sliced_wasserstein", "floor": [0.1], "fabric": fabric, "entries": [entry], "left_out": {}},
    }
    return json.dumps(document)


LOGICAL_COUNT = json.dumps({"logical_count": [[[5, 1, 0, 2], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]]})
"""Counts of SGLang: two windows, two layers of which one is dense, four experts."""

PHYSICAL_MAP = json.dumps({"physical_to_logical_map": [[0, 1, 2, 2, 3, 0], [3, 2, 1, 1, 0, 3]]})
"""A placement of SGLang: two layers, four experts, two ranks with three slots."""

CHAKRA = json.dumps(
    {
        "workload_graph": [
            {"Id": 0, "Name": "x", "NodeType": 4, "data_deps": [], "runtime": 5},
            {"Id": 1, "Name": "y", "NodeType": 7, "data_deps": [0], "comm_type": 0, "comm_size": 4096},
        ]
    }
)
"""An execution trace in JSON: a computation, then an all-reduce."""

STATE_INDEX = json.dumps(
    {
        "format": FIRST_FORMAT,
        "tensors": {
            f"w:{kind}": {
                "shape": [3, 2],
                "chunks": [{"offset": [0, 0], "sizes": [3, 2], "file": "rank_00000.safetensors"}],
            }
            for kind in ("weight", "ema")
        },
    }
)
"""The index of the state of a parameter in one piece, as the first format has it."""

JUDGEMENT = json.dumps(
    {
        **{"class_accuracy": 0.9, "frechet_distance": 1.0, "frechet_distance_unguided": 1.5},
        **{"mmd_unguided": 0.1, "mmd_floor": 0.05, "features_sha256": "x"},
    }
)
"""What sample --quality writes."""

RESULTS = json.dumps(
    {
        "format": "flowfabric.results/1",
        "scenario": {},
        "runs": [
            {
                **{"transport": transport, "seed": 0, "engine": "simpy", "completion_ns": 1200.0, "bound_ns": 900.0},
                **{"packet_hops": 1234, "max_queue_bytes": 4000, "reordered_packets": 0},
            }
            for transport in ("ecmp", "ethereal")
        ],
    }
)
"""results.json of netsim."""

COLLECTIVES = """\
transport,seed,collective,op,group,ranks,step,phase,layer,bytes,start_ns,end_ns,member_ns
ecmp,0,0,all_to_all,expert,8,1,forward,0,64000,0.000,1500000.000,1500000.000
ecmp,0,1,all_reduce,data,8,1,backward,,1000,500000.000,3505000.500,3000000.000
ethereal,0,0,all_to_all,expert,8,1,forward,0,64000,0.000,1000000.000,1000000.000
ethereal,0,1,all_reduce,data,8,1,backward,,1000,500000.000,3505000.500,3000000.000
"""
"""collectives.csv of netsim."""

LATENT = """\
run: {dir: run}
data: {kind: digits, size: 8, held_out: 360}
model: {kind: dit, patch_size: 1, hidden: 8, num_layers: 1, num_heads: 2}
flow: {latent: {path: latents}}
optim: {steps: 6, global_batch: 8}
"""
"""A run whose states are latents."""
