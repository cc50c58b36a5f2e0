"""Networks with adapters: what is trained, what they compute, and which layers they are beside."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from moe.adapters import LowRankLinear
from tests.each import each
from tests.forked import ROOT
from tests.trainer.model.test_networks import KINDS, arguments, configuration, small
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.model.adapted import without_adapters
from trainer.model.build import build_model, dense_shapes, frozen_parameters, parameter_shapes
from trainer.model.network import computing_dtype, freeze, frozen_tensors, put_frozen

NO_LINEAR_LAYERS = ("autoencoder", "blockwise_mlp")
"""Networks of convolutions, and of layers that have a matrix for each segment of time."""
ELSEWHERE = "contrastive"
"""A network whose blocks are convolutions and whose linear layers are behind them."""
DIT: dict[str, Any] = {"kind": "dit", "hidden": 16, "num_heads": 2, "num_layers": 2}


def with_adapters(config: RunConfig, **settings: Any) -> RunConfig:
    document = config.model_dump(mode="json")
    adapters = {"kind": "low_rank", "base": "unused", "rank": 2, **settings}
    return RunConfig.model_validate({**document, "model": {**document["model"], "adapters": adapters}})


def stirred(network: nn.Module, scale: float = 0.3) -> nn.Module:
    """Values in the place of all weights, the frozen ones included: the same for the same names."""
    for name, tensor in [*frozen_tensors(network), *network.named_parameters()]:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        values = scale * torch.randn(tensor.shape, generator=generator) * max(1, tensor.shape[-1]) ** -0.5
        if isinstance(tensor, nn.Parameter):
            tensor.data = values
        else:
            put_frozen(network, name, values)
    return network


def built(config: RunConfig) -> Any:
    return stirred(build_model(config, Layout.single(config))).eval()


def outputs(network: nn.Module, config: RunConfig) -> Tensor:
    torch.manual_seed(0)
    given = [
        torch.randn_like(one) if isinstance(one, Tensor) and one.is_floating_point() else one
        for one in arguments(config)
    ]
    found: Any = network(*given)
    return found[0] if isinstance(found, tuple) else found


@each("kind", [kind for kind in KINDS if kind not in (*NO_LINEAR_LAYERS, ELSEWHERE)])
def test_of_every_network_adapters_alone_are_parameters_and_state(kind: str) -> None:
    plain = small(kind)
    config = with_adapters(plain)
    shapes = parameter_shapes(config)
    assert {name.rpartition(".")[2] for name in shapes} == {"A_RI", "B_OR"}
    assert frozen_parameters(config) == sum(torch.Size(shape).numel() for shape in dense_shapes(plain).values())
    network = build_model(config, Layout.single(config))
    assert {name: tuple(one.shape) for name, one in network.named_parameters()} == shapes
    assert not {*network.state_dict()} - {*shapes}
    assert {id(one) for one in network.parameters()} == {id(one) for one in network.blocks.parameters()}
    assert {name: tuple(one.shape) for name, one in frozen_tensors(network)} == dense_shapes(plain)


@pytest.mark.parametrize("kind", NO_LINEAR_LAYERS)
def test_a_network_without_linear_layers_takes_none(kind: str) -> None:
    with pytest.raises(ValueError, match=r"model.adapters: \w+ has no layer of the class torch.nn.Linear.*; remove"):
        parameter_shapes(with_adapters(small(kind)))


def test_linear_layers_outside_the_blocks_are_adapted_if_they_are_named() -> None:
    with pytest.raises(ValueError, match=r"on: is empty.*; name some of predictor, projector, to_features"):
        parameter_shapes(with_adapters(small(ELSEWHERE)))
    shapes = parameter_shapes(with_adapters(small(ELSEWHERE), on=["to_features"]))
    assert {name.rpartition(".")[0] for name in shapes} == {"to_features"}


@pytest.mark.parametrize("kind", ["dit", "mlp", "gpt"])
def test_an_adapted_network_is_its_base_without_them_and_at_its_start(kind: str) -> None:
    plain = small(kind)
    config = with_adapters(plain, alpha=5.0)
    base, network = built(plain), built(config)
    expected = outputs(base, plain)
    assert not torch.allclose(outputs(network, config), expected, rtol=1e-3)
    with without_adapters(network):
        assert torch.equal(outputs(network, config), expected)
    assert not torch.allclose(outputs(network, config), expected, rtol=1e-3)
    for name, parameter in network.named_parameters():
        if name.endswith("B_OR"):
            parameter.data.zero_()
    assert torch.equal(outputs(network, config), expected)


def test_a_network_that_adds_the_products_to_its_matrices_has_the_same_outputs_and_gradients() -> None:
    plain = configuration(DIT)
    config = with_adapters(plain, alpha=6.0, rank=3, on=["qkv", "feed_forward", "unembed_patches"])
    base, network = built(plain), built(config)
    own = {name: parameter.detach().clone().requires_grad_() for name, parameter in network.named_parameters()}
    whole = dict(base.named_parameters())
    layers = {name.rpartition(".")[0] for name in own}
    assert len(layers) == 7
    merged = {f"{x}.weight": whole[f"{x}.weight"] + 2.0 * own[f"{x}.B_OR"] @ own[f"{x}.A_RI"] for x in layers}
    expected: Any = torch.func.functional_call(base, merged, tuple(arguments(plain)))
    found = network(*arguments(config))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.square().sum().backward()
    wanted = torch.autograd.grad(expected.square().sum(), [*own.values()])
    for (name, parameter), gradient in zip(network.named_parameters(), wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_first_values_are_a_function_of_the_seed_and_of_the_name() -> None:
    one, deeper = (with_adapters(configuration({**DIT, "num_layers": layers})) for layers in (2, 3))
    first, second = (dict(build_model(each, Layout.single(each)).named_parameters()) for each in (one, deeper))
    for name, value in first.items():
        assert torch.equal(value, second[name])
        if name.endswith("B_OR"):
            assert not value.any()
        else:
            bound = value.shape[-1] ** -0.5
            assert 0.5 * bound < value.abs().max() <= bound
    other = one.model_copy(update={"run": one.run.model_copy(update={"seed": 1})})
    name = next(iter(first))
    assert not torch.equal(build_model(other, Layout.single(other)).get_parameter(name), first[name])


def test_a_network_of_a_users_has_adapters_beside_its_linear_layers() -> None:
    plain = load_config(ROOT / "configs" / "examples" / "own_network.yaml", ["model.hidden=8"])
    config = with_adapters(plain)
    network = build_model(config, Layout.single(config))
    assert {name for name, _ in network.named_parameters()} == {*parameter_shapes(config)}
    assert len(parameter_shapes(config)) == 2 * config.model.num_layers
    assert network.get_parameter("blocks.0.1.A_RI").abs().max() > 0
    assert {*parameter_shapes(with_adapters(plain, on=["unembed"]))} == {"unembed.A_RI", "unembed.B_OR"}


def test_weights_that_are_shared_stay_shared_and_are_told_once() -> None:
    layer = nn.Linear(3, 3)
    other = nn.Linear(3, 3)
    other.weight = layer.weight
    network: Any = nn.Sequential(layer, other, layer)
    freeze(network)
    assert {name for name, _ in frozen_tensors(network)} == {"0.weight", "0.bias", "1.bias"}
    assert not [*network.parameters()]
    assert not network.state_dict()
    put_frozen(network, "0.weight", torch.eye(3, dtype=torch.bfloat16))
    assert torch.equal(network[1].weight, torch.eye(3, dtype=torch.bfloat16))
    assert computing_dtype(network) == torch.bfloat16


def test_attention_of_torch_is_left_alone() -> None:
    """It reads the weights of its last layer and never calls it, so adapters beside that layer would learn nothing."""
    network: Any = nn.Module()
    network.blocks = nn.ModuleList([nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4))])
    from trainer.config.model.protocol import LowRankAdaptersConfig
    from trainer.model.adapted import adapt

    adapt(network, LowRankAdaptersConfig.model_validate({"base": "unused", "rank": 1}))
    assert {name for name, _ in network.named_parameters()} == {"blocks.0.1.A_RI", "blocks.0.1.B_OR"}


def test_the_layer_alone_draws_by_a_generator_and_refuses_too_large_a_rank() -> None:
    base = nn.Linear(6, 4)
    layer = LowRankLinear(base, 2, 0.5, torch.Generator().manual_seed(3))
    layer.B_OR.data.normal_(generator=torch.Generator().manual_seed(4))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(5))
    expected = x @ base.weight.T + base.bias + 0.5 * (x @ layer.A_RI.T) @ layer.B_OR.T
    torch.testing.assert_close(layer(x), expected)
    assert {name for name, one in layer.named_parameters() if one.requires_grad} == {"A_RI", "B_OR"}
    with pytest.raises(ValueError, match=r"rank: 5 is not between 1 and 4.*; use 4"):
        LowRankLinear(base, 5)


def test_a_run_without_adapters_is_written_as_before_there_were_any() -> None:
    assert "adapters" not in configuration(DIT).to_yaml()
    config = with_adapters(configuration(DIT))
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_yaml_does_not_make_a_truth_of_the_key_that_names_the_layers(tmp_path: Path) -> None:
    """Since YAML reads on as true, and so it does in a file that another key of the command line changes."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "run: {dir: out}\noptim: {steps: 1, global_batch: 8}\n"
        "model: {kind: dit, adapters: {kind: low_rank, base: unused, on: [qkv]}}\n"
    )
    for overrides, names in (([], ("qkv",)), (["model.adapters.on=[projection]"], ("projection",))):
        config = load_config(path, overrides)
        assert config.model.adapters is not None
        assert config.model.adapters.on == names
        (tmp_path / "again.yaml").write_text(config.to_yaml())
        assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.slow
def test_the_same_layer_of_peft_computes_the_same(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    del tmp_path
    base = nn.Sequential(nn.Linear(6, 4))
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"]))
    layer = theirs.base_model.model[0]
    own = LowRankLinear(nn.Linear(6, 4), 2, 3.0)
    own.base.load_state_dict(layer.base_layer.state_dict())
    layer.lora_B["default"].weight.data.normal_()
    own.A_RI.data, own.B_OR.data = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
    x = torch.randn(5, 6)
    torch.testing.assert_close(own(x), functional.linear(x, torch.zeros(4, 6)) + theirs(x))
