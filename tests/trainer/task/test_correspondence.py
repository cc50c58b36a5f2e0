"""Features of surfaces: what functional maps are, what the loss asks for, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.data.test_surfaces import SMALL
from trainer.config.file import resolve
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import build
from trainer.data.surfaces import SurfacePairs
from trainer.model.build import build_model
from trainer.task.correspondence import CorrespondenceTask, Side, features_of, functional_maps, likened, sliced


def config(data: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    document: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": "descriptor_mlp", "hidden": 16, "num_layers": 1, "features": 12},
        "data": {"kind": "surfaces", **SMALL, "analytic": {"halvings": 2, "pairs": 2}, **(data or {})},
        "sample": {"first": 4},
        "optim": {"steps": 1, "global_batch": 2},
        **sections,
    }
    return RunConfig.model_validate(resolve(document).document)


def surfaces(run: RunConfig) -> SurfacePairs:
    made = build(run.data)
    assert isinstance(made, SurfacePairs)
    return made


def sides(run: RunConfig, features: int = 12, *, same: bool = False) -> tuple[Side, Side]:
    """Both surfaces of two pairs, with features that are functions of few waves; `same`: the first one twice."""
    context = surfaces(run).get(torch.arange(2)).context
    assert context is not None
    coefficients = torch.randn(context.shape[-1] - 1, features, generator=torch.Generator().manual_seed(0))
    first, second = (
        Side.of(context[:, side], context[:, side, 1:, 1:] @ coefficients) for side in (0, 0 if same else 1)
    )
    return first, second


def test_the_map_of_a_surface_to_itself_is_the_identity() -> None:
    first, second = sides(config(), same=True)
    identity = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
    torch.testing.assert_close(functional_maps(first, second, 1e-6), identity, atol=1e-3, rtol=0)
    torch.testing.assert_close(first.spectral(first.functions), identity, atol=1e-4, rtol=0)


def test_the_map_follows_features_and_smoothness_holds_it_near_the_diagonal() -> None:
    first, second = sides(config(), features=8)
    signs = torch.tensor([1.0, -1, 1, 1, -1, 1, -1, 1]).diag()
    turned = second._replace(features=second.functions @ signs @ first.spectral(first.features).float())
    torch.testing.assert_close(functional_maps(first, turned, 1e-7), signs.double().expand(2, 8, 8), atol=2e-2, rtol=0)
    noisy = turned._replace(features=torch.randn(turned.features.shape, generator=torch.Generator().manual_seed(1)))
    off = 1 - torch.eye(8)
    free, held = (((functional_maps(first, noisy, smoothness) * off) ** 2).sum() for smoothness in (1e-3, 1e3))
    assert held < free / 20


def test_points_that_are_filled_up_change_nothing() -> None:
    run, more = config(), config({"points": 200})
    task, filled = CorrespondenceTask(run), CorrespondenceTask(more)
    network = build_model(run, plan_layout(run, 1))
    losses = []
    for one, data in ((task, surfaces(run)), (filled, surfaces(more))):
        with torch.no_grad():
            drawn = one.draw_one(data.get(torch.arange(2)), torch.Generator().manual_seed(0))
            losses.append(one.loss(network, drawn))
    torch.testing.assert_close(losses[0].per_example, losses[1].per_example, rtol=1e-4, atol=1e-5)


def test_a_pair_has_its_loss_whatever_is_beside_it_and_either_way_round() -> None:
    run = config(task={"kind": "correspondence", "sliced": 2.0, "slices": 7})
    task, data = CorrespondenceTask(run), surfaces(run)
    network = build_model(run, plan_layout(run, 1))

    def loss(ids: Tensor, *, turned: bool = False) -> Tensor:
        batch = data.get(ids)
        drawn = task.draw_one(batch, torch.Generator().manual_seed(0))
        if turned:
            drawn = drawn._replace(signatures=drawn.signatures.flip(1), context=drawn.context.flip(1))
        found = task.loss(network, drawn)
        assert set(found.terms) == {"orthogonality", "alignment", "sliced", "bijectivity"}
        return found.per_example

    both = loss(torch.arange(2))
    torch.testing.assert_close(both[1:], loss(torch.tensor([1])), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both, loss(torch.arange(2), turned=True), rtol=1e-4, atol=1e-5)
    both.sum().backward()
    assert all(
        float(parameter.grad.abs().sum()) > 0 for parameter in network.parameters() if parameter.grad is not None
    )


def test_what_is_carried_comes_from_points_that_are_alike() -> None:
    first, second = sides(config({"points": 170}))
    plan = likened(second, first, 0.07)
    torch.testing.assert_close(plan.sum(-1), torch.ones(2, 170))
    assert not plan[:, :, 162:].any(), "filled up points are like none"


def test_the_sliced_distance_is_that_of_a_shift_and_of_a_point_by_its_area() -> None:
    generator = torch.Generator().manual_seed(0)
    first, _ = sides(config())
    directions = torch.nn.functional.normalize(torch.randn(4000, 12, generator=generator), dim=1)
    shift = torch.randn(12, generator=generator)
    found = sliced(first, first.features + shift, directions)
    torch.testing.assert_close(found, (shift @ shift / 12).expand(2), rtol=0.05, atol=0)
    heavy = first._replace(areas=torch.zeros_like(first.areas).index_fill_(1, torch.tensor([3]), 1.0))
    elsewhere = first.features.clone()
    elsewhere[:, 5] += 9
    assert float(sliced(heavy, elsewhere, directions).abs().max()) < 1e-5


def test_features_have_length_1() -> None:
    run = config()
    with torch.no_grad():
        found = features_of(build_model(run, plan_layout(run, 1)), surfaces(run).pair(0))
    for values in found:
        np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)


@each(
    ("sections", "words"),
    [
        ({"sample": {"first": 8}}, r"sample\.first: 8 of 8 eigenfunctions, to which none is added; use 7 or less"),
        ({"sample": {"first": 4, "landmarks": 500}}, r"sample\.landmarks: 500 of 162 points; use 162 or less"),
        ({"flow": {}}, r"flow: a descriptor_mlp learns features of points and follows no flow; remove the section"),
        ({"moe": {"num_experts": 2, "expert_hidden": 8}}, r"moe: a descriptor_mlp has no feed-forward layers"),
        ({"task": {"kind": "reconstruction"}}, r"task\.kind: reconstruction is not for a descriptor_mlp model"),
        (
            {"data": {"kind": "mixture", "sources": {"a": {"kind": "surfaces", "points": 50, "num_pairs": 1}}}},
            r"data\.kind: mixture data have no eigenfunctions; use surfaces|sources",
        ),
    ],
)
def test_sections_that_do_not_fit_are_refused(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_layout(config(**sections) if "data" not in sections else _with(sections), 1)


def _with(sections: dict[str, Any]) -> RunConfig:
    document = {"run": {"dir": "unused"}, "model": {"kind": "descriptor_mlp"}, "optim": {"steps": 1, "global_batch": 2}}
    return RunConfig.model_validate({**document, **sections})
