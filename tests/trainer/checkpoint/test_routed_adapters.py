"""Runs with routed adapters: what they begin with in each mode, what they keep, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moe.adapters import RoutedLinear
from tests.each import each
from tests.trainer.untrained import save_untrained
from trainer.checkpoint.base import check_modules, with_digest
from trainer.checkpoint.pretrained import restore
from trainer.config.derived import task_names
from trainer.config.file import resolve
from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.flow.condition import Condition
from trainer.model.network import Network, frozen_tensors
from trainer.model.parallel.state import held_pieces
from trainer.model.values import DrawnValues, SavedModules, fill
from trainer.model.weight_files import open_weights
from trainer.task import FlowTask

MIXTURE = {
    "kind": "mixture",
    "sources": {"upright": {"kind": "digits"}, "left": {"kind": "digits", "rotate": 90}, "all": {"kind": "digits"}},
}


def configured(folder: Path, data: dict[str, Any] | None = None, **adapters: Any) -> RunConfig:
    model: dict[str, Any] = {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2, "patch_size": 4}
    if adapters:
        sizes = {"rank": 2, "modules": 3, "heads": 4}
        model["adapters"] = {"kind": "routed", "base": str(folder.parent / "base"), **sizes, **adapters}
    document = {
        "run": {"dir": str(folder)},
        "model": model,
        "data": data or {"kind": "digits"},
        "optim": {"steps": 10, "global_batch": 8},
    }
    return RunConfig.model_validate(resolve(document).document)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and a run of routed adapters over three sources."""
    folder = tmp_path_factory.mktemp("runs")
    save_untrained(configured(folder / "base"), 10)
    save_untrained(with_digest(configured(folder / "routed", MIXTURE, alpha=3.0)), 10, seed=1)
    return folder


def few_shot(runs: Path, mode: str, **adapters: Any) -> RunConfig:
    return with_digest(configured(runs / mode, init_from=str(runs / "routed"), mode=mode, **{"alpha": 3.0, **adapters}))


def weights_of(run: Path) -> Path:
    return run / "checkpoints" / "step_00000010" / "ema.safetensors"


def restored(config: RunConfig) -> Network:
    return restore(config, Layout.single(config), config.run.dir / "checkpoints" / "step_00000010")


def begun(runs: Path, config: RunConfig) -> Network:
    """The network of a run as its first step finds it."""
    network = restored(config) if weights_of(config.run.dir).exists() else None
    if network is None:
        save_untrained(config, 10)
        network = restored(config)
    with open_weights(weights_of(runs / "routed")) as weights:
        fill(held_pieces(network), SavedModules(weights, routing=DrawnValues(network, 0)))
    return network


def predicted(network: Network, tasks: list[int] | None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(4, 1, 8, 8, generator=generator), torch.rand(4, generator=generator)
    task = None if tasks is None else torch.tensor(tasks)
    with torch.no_grad():
        return network(x, t, Condition(torch.arange(4), task=task))


def routed_layers(network: Network) -> list[RoutedLinear]:
    return [module for module in network.modules() if isinstance(module, RoutedLinear)]


def test_tasks_are_the_sources_of_a_mixture(runs: Path) -> None:
    config = configured(runs / "x", MIXTURE, alpha=3.0)
    assert task_names(config) == ("upright", "left", "all")
    assert task_names(configured(runs / "x", alpha=3.0)) == ("0",)
    assert task_names(configured(runs / "x", MIXTURE, tasks=4)) == ("upright", "left", "all", "3")
    assert task_names(configured(runs / "x")) == ()
    plan_layout(config, 1)


def test_a_step_hands_the_network_the_sources_of_its_examples(runs: Path) -> None:
    import trainer.data

    config = configured(runs / "x", MIXTURE, alpha=3.0)
    dataset = trainer.data.build(config.data)
    batch = dataset.get(dataset.indices("held_out")[::40])
    (drawn,) = FlowTask(config).draw([batch], [torch.Generator().manual_seed(0)])
    assert batch.sources is not None
    assert drawn.condition.task is not None
    assert torch.equal(drawn.condition.task, batch.sources)
    alone = configured(runs / "x", alpha=3.0)
    plain = trainer.data.build(alone.data).get(torch.arange(3))
    (drawn,) = FlowTask(alone).draw([plain], [torch.Generator().manual_seed(0)])
    assert drawn.condition.task is not None
    assert drawn.condition.task.tolist() == [0, 0, 0]


def test_new_tasks_begin_with_the_modules_of_the_run_and_nearly_equal_weights(runs: Path) -> None:
    network, saved = begun(runs, few_shot(runs, "all", tasks=1)), load_file(weights_of(runs / "routed"))
    for name, parameter in network.named_parameters():
        if name.endswith("routing.logits"):
            assert parameter.shape[0] == 1
            assert 0 < parameter.abs().max() <= 1e-3
        else:
            assert torch.equal(parameter, saved[name])


def test_of_routing_alone_the_modules_are_frozen_and_come_from_their_run(runs: Path) -> None:
    config = few_shot(runs, "routing")
    network, saved = begun(runs, config), load_file(weights_of(runs / "routed"))
    assert all(name.endswith(".routing.logits") for name, _ in network.named_parameters())
    frozen = dict(frozen_tensors(network))
    modules = [name for name in saved if "routing" not in name]
    assert modules
    assert all(torch.equal(frozen[name], saved[name]) for name in modules)
    assert not any(name.endswith(("A_HMIR", "B_HMRO")) for name in network.state_dict())
    torch.testing.assert_close(predicted(network, [0] * 4), predicted(begun(runs, few_shot(runs, "all")), [0] * 4))


def test_the_mean_module_is_what_equal_weights_make(runs: Path) -> None:
    mean, routed = begun(runs, few_shot(runs, "mean")), begun(runs, few_shot(runs, "all"))
    with torch.no_grad():
        for layer in routed_layers(routed):
            layer.routing.logits.zero_()
    assert not routed_layers(mean)
    torch.testing.assert_close(predicted(mean, None), predicted(routed, [0] * 4), rtol=1e-4, atol=1e-5)


def test_tasks_differ_and_the_base_does_not(runs: Path) -> None:
    from trainer.model.adapted import without_adapters

    network = restored(with_digest(configured(runs / "routed", MIXTURE, alpha=3.0)))
    assert not torch.allclose(predicted(network, [0] * 4), predicted(network, [1] * 4), atol=1e-5)
    with without_adapters(network):
        torch.testing.assert_close(predicted(network, None), predicted(restored(configured(runs / "base")), None))


@each(
    ("adapters", "told"),
    [
        ({"modules": 4}, r"model\.adapters\.modules: is 3, and this run has 4; set model\.adapters\.modules=3"),
        ({"alpha": None}, r"model\.adapters\.alpha: is 3\.0, and this run has None"),
        ({"rank": 1}, r"model\.adapters\.rank: is 2, and this run has 1"),
        ({"on": ["modulation", "embed_patches"]}, r"name the same layers with model\.adapters\.on"),
        ({"init_from": "base"}, r"model\.adapters: is no section of routed adapters"),
    ],
)
def test_other_modules_are_refused(runs: Path, adapters: dict[str, Any], told: str) -> None:
    given = {name: str(runs / value) if name == "init_from" else value for name, value in adapters.items()}
    config = configured(runs / "x", **{"init_from": str(runs / "routed"), "mode": "routing", "alpha": 3.0, **given})
    with pytest.raises(ValueError, match=told):
        check_modules(config)


def test_modules_beside_another_base_are_refused(runs: Path) -> None:
    save_untrained(configured(runs / "other"), 10, seed=5)
    config = configured(runs / "x", base=str(runs / "other"), init_from=str(runs / "routed"), alpha=3.0, mode="routing")
    with pytest.raises(ValueError, match=r"model\.adapters\.base\.digest"):
        check_modules(config)
    check_modules(few_shot(runs, "routing"))


@pytest.mark.parametrize(
    ("data", "adapters", "told"),
    [
        (None, {"tasks": 2}, r"tasks: 2, and data of kind digits do not say of which task an example is"),
        (MIXTURE, {"tasks": 2}, r"tasks: 2 for the 3 sources of data; leave it out, or use 3"),
    ],
)
def test_tasks_that_nobody_can_tell_are_refused(
    runs: Path, data: dict[str, Any] | None, adapters: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        plan_layout(configured(runs / "x", data, **adapters), 1)


def test_modes_without_modules_and_heads_that_do_not_divide_are_refused(runs: Path) -> None:
    from trainer.model.build import parameter_shapes

    with pytest.raises(ValueError, match="init_from: null with mode routing"):
        configured(runs / "x", mode="routing")
    with pytest.raises(ValueError, match=r"model\.adapters\.heads: 7 does not divide blocks\.0\."):
        parameter_shapes(configured(runs / "x", heads=7))
