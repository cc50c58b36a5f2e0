"""The page of plain PyTorch in a model card, run against the files beside it, computes what the network here does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.fuzz import sound_files
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch, joined
from trainer.flow import Condition
from trainer.flow.field import NetworkField, guided
from trainer.flow.sampler import Euler
from trainer.model.build import build_model, parameter_shapes
from trainer.model.values import initialise_from
from trainer.sampling.flow import FlowParts

DIT = {"hidden": 32, "num_layers": 2, "num_heads": 2}
GPT = {"kind": "gpt", "hidden": 32, "num_layers": 2, "num_heads": 4, "context": 64}
MLP = {"kind": "mlp", "hidden": 32, "num_layers": 2}
MIXTURE = {"num_experts": 6, "top_k": 2, "expert_hidden": 24}


def experts(shared: int | None = None, top_k: int = 2, **router: Any) -> dict[str, Any]:
    return {**MIXTURE, "top_k": top_k, "shared_expert_hidden": shared, "router": router}


CASES: dict[str, dict[str, Any]] = {
    "dit": {"model": DIT},
    "dit of another activation": {"model": {**DIT, "feed_forward": "gelu_tanh", "feed_forward_norm_epsilon": 1e-4}},
    "dit of data": {"model": DIT, "flow": {"target": {"kind": "data"}, "data_scale": 2.0}},
    "dit of noise": {"model": DIT, "flow": {"target": {"kind": "noise"}}},
    "dit of two fields": {
        "model": DIT,
        "flow": {"path": {"kind": "stochastic_interpolant"}, "target": {"kind": "velocity_and_noise"}},
    },
    "dit of experts": {"model": DIT, "moe": experts(kind="top_k")},
    "dit of experts and a shared one": {
        "model": DIT,
        "moe": experts(40, kind="top_k", normalise_over="selected", aux_loss=0.0),
    },
    "dit, one expert by sigmoid": {"model": DIT, "moe": experts(top_k=1, kind="top_k", score="sigmoid")},
    "dit of biased experts": {"model": DIT, "moe": experts(kind="top_k", score="sigmoid", bias_rate=1e-3)},
    "dit, sinkhorn": {"model": DIT, "moe": experts(kind="sinkhorn")},
    "dit, base": {"model": DIT, "moe": experts(top_k=1, kind="base")},
    "dit, sparse_ot": {"model": DIT, "moe": experts(top_k=1, kind="sparse_ot", candidates=3)},
    "mlp": {"model": MLP, "data": {"name": "eight_gaussians", "classes": True}},
    "mlp without classes": {"model": MLP, "data": {"name": "moons"}},
    "mlp of experts": {"model": MLP, "data": {"name": "moons"}, "moe": experts(kind="top_k")},
    "gpt": {"model": {**GPT, "num_kv_heads": 2}},
    "gpt as Llama": {"model": {**GPT, "num_kv_heads": 2, "feed_forward": "swiglu", "rotary_base": 5e5, "tied": True}},
    "gpt as GPT-NeoX": {
        "model": {**GPT, "norm": "layer", "bias": True, "parallel_residual": True, "rotary_share": 0.25}
    },
    "gpt of experts": {"model": GPT, "moe": experts(kind="top_k")},
    "autoencoder": {"model": {"kind": "autoencoder", "hidden": 16, "num_layers": 4, "factor": 2}, "data": {"size": 16}},
}
WITHOUT: dict[str, tuple[dict[str, Any], str]] = {
    "expert choice": ({"model": DIT, "moe": experts(kind="expert_choice")}, "moe.router.balanced"),
    "capacity": ({"model": DIT, "moe": experts(kind="top_k", capacity_factor=1.0)}, "moe.router.top_k"),
    "blockwise": ({"model": {"kind": "blockwise", "hidden": 32}}, "trainer.model.blockwise"),
    "transition": ({"model": {"kind": "transition_dit", **DIT}}, "trainer.model.transition"),
    "captions": (
        {
            "model": {"kind": "encoded_dit", **DIT},
            "flow": {"coupling": {"kind": "encoded"}, "captions": {"path": "unused", "width": 6, "digest": "0"}},
        },
        "trainer.model.encoded",
    ),
    "context": ({"model": DIT, "flow": {"context": {"kind": "inpainting"}}}, "trainer.model.dit"),
}


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with joined(Launch(0, 0, 1, 1)):
        yield


def exported(folder: Path, sections: dict[str, Any]) -> tuple[RunConfig, Path]:
    """The export of a run with random weights, and its configuration."""
    document = {"run": {"dir": str(folder / "run")}, "optim": {"steps": 20, "global_batch": 4}, **sections}
    if document["model"].get("kind") == "gpt":
        document["data"] = {"context": document["model"]["context"]}
    config = RunConfig.model_validate(document)
    written = folder / "config.yaml"
    written.write_text(config.to_yaml())
    checkpoint = sound_files.checkpoint(folder / "run", written)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) / max(1, shape[-1]) ** 0.5 + ("norm.weight" in name)
        for name, shape in parameter_shapes(config).items()
    }
    save_file(weights, checkpoint / "ema.safetensors")
    if config.moe is not None:
        network = build_model(config, plan_layout(config, 1))
        routers = {
            name: torch.rand(value.shape, generator=generator) + 0.5
            for name, value in network.state_dict().items()
            if ".router." in name and not name.endswith("weight") and value.is_floating_point()
        }
        save_file(routers, checkpoint / "routers.safetensors")
    (checkpoint / "COMPLETE").unlink()
    sound_files.seal(checkpoint)
    assert main(["export", str(folder / "run"), "--out", str(folder / "exported")]) == 0
    return load_config(folder / "exported" / "config.yaml"), folder / "exported"


def executed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page of an export defines, run in its folder in a namespace of its own."""
    (page,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(page))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {name.partition(".")[0] for name in imported} <= {"torch", "safetensors", "json", "math"}
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {"__name__": "page"}
    exec(compile(page, "page", "exec"), found)
    return found


def here(config: RunConfig, folder: Path) -> Any:
    network = build_model(config, plan_layout(config, 1)).eval()
    initialise_from(network, folder / "model.safetensors")
    return network


def predictions(config: RunConfig, network: Any, other: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """What the network here and the one of a page compute of the same inputs."""
    generator = torch.Generator().manual_seed(1)
    if config.model.kind == "gpt":
        tokens = torch.randint(256, (3, 40), generator=generator)
        yield network(tokens), other(tokens)
        return
    states = torch.randn(5, *config.state_shape, generator=generator)
    if config.model.kind == "autoencoder":
        yield from zip(network.encode(states), other.encode(states), strict=True)
        latents = network.encode(states)[0]
        yield network.decode(latents), other.decode(latents)
        return
    t, label = torch.rand(5, generator=generator), torch.arange(5) % (config.data.num_classes + 1)
    yield network(states, t, Condition(label=label)), other(states, t, label)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_page_computes_what_the_network_does(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = exported(tmp_path, CASES[case])
    found = executed(folder, monkeypatch)
    network = here(config, folder)
    for expected, computed in predictions(config, network, found["network"]):
        assert expected.std() > 0.01
        assert torch.equal(expected, computed), float((expected - computed).abs().max())
    if "samples" in found:
        follow_too(config, network, found)


def follow_too(config: RunConfig, network: Any, found: dict[str, Any]) -> None:
    """Samples of the page, against Euler's method on the field of the network here."""
    assert config.flow is not None
    x, settings = found["x"], found["settings"]
    label = torch.arange(len(x)) % max(1, config.data.num_classes)
    parts, nothing = FlowParts(config), Condition(label=torch.full_like(label, config.data.num_classes))
    field = NetworkField(guided(network, Condition(label=label), nothing, 1.5), parts.target)
    euler = Euler(steps=7)
    expected = parts.data_of(euler.build(parts.path).sample(field, x, euler.grid()).final)
    drawn = found["sample"](found["network"], x, label, settings, steps=7, guidance=1.5)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("case", WITHOUT)
def test_a_card_without_a_page_says_what_builds_the_network(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections, module = WITHOUT[case]
    config, folder = exported(tmp_path, sections)
    assert f"`{module}`" in (folder / "README.md").read_text()
    assert Path(__file__).parents[3].joinpath(*module.split(".")).with_suffix(".py").exists()
    assert {*executed(folder, monkeypatch)["weights"]} == {*parameter_shapes(config)}
