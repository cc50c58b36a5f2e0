"""Source points that are examples of another data set."""

from typing import Any

import pytest
import torch

from tests.each import each
from tests.trainer.data.test_loader import Numbers
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import BadExamples, Batch, Loader, ToyConfig, build
from trainer.data.derived import Sourced, source_points
from trainer.flow import Condition
from trainer.sampling.conditioning import conditioning_for
from trainer.sampling.flow import FlowParts
from trainer.task import FlowTask


def loader(**changes: Any) -> Loader:
    settings = {"global_batch": 12, "micro_batch": 3, "rank": 0, "world_size": 1, "seed": 0}
    return Loader(Sourced(Numbers(40), Numbers(26)), **{**settings, **changes})


def step(number: int, world_size: int = 1, **changes: Any) -> list[Batch]:
    dealt = [loader(rank=rank, world_size=world_size, **changes) for rank in range(world_size)]
    return [one.batch(number, local) for one in dealt for local in range(one.accumulation)]


def pairs_of(batches: list[Batch]) -> list[tuple[float, float]]:
    values = []
    for batch in batches:
        assert batch.x_0 is not None
        values += list(zip(batch.x_0.flatten().tolist(), batch.x_1.flatten().tolist(), strict=True))
    return values


def test_data_are_dealt_as_they_are_without_a_source():
    plain = Loader(Numbers(40), global_batch=12, micro_batch=3, rank=0, world_size=1, seed=0)
    for local in range(4):
        alone, sourced = plain.batch(7, local), loader().batch(7, local)
        assert torch.equal(alone.x_1, sourced.x_1)
        assert torch.equal(alone.ids, sourced.ids)
        assert alone.x_0 is None


@pytest.mark.parametrize("world_size", [2, 4])
def test_pairs_do_not_depend_on_the_number_of_ranks_or_on_what_came_before(world_size):
    running = loader()
    for number in range(5):
        here = pairs_of([running.batch(number, local) for local in range(4)])
        assert here == pairs_of(step(number)) == pairs_of(step(number, world_size))


def test_source_points_come_once_an_epoch_in_orders_of_their_own():
    """13 source points and 20 examples: after 260 places every pair of places has met, but not every pair of points."""
    seen = [pair for number in range(65) for pair in pairs_of(step(number, global_batch=4, micro_batch=4))]
    sources, data = zip(*seen, strict=True)
    epochs = [sources[first : first + 13] for first in range(0, 260, 13)]
    assert all(sorted(epoch) == list(range(0, 26, 2)) for epoch in epochs)
    assert all(sorted(data[first : first + 20]) == list(range(0, 40, 2)) for first in range(0, 260, 20))
    assert len(set(epochs)) == len(epochs)
    assert 120 < len(set(seen)) < 200, "260 draws out of 260 pairs meet 1 - 1/e of them, about 164"


def test_a_set_may_be_its_own_source():
    both = Loader(Sourced(Numbers(40), Numbers(40)), global_batch=20, micro_batch=20, rank=0, world_size=1, seed=0)
    batch = both.batch(0, 0)
    assert batch.x_0 is not None
    assert not torch.equal(batch.x_0, batch.x_1)
    assert sorted(batch.x_0.flatten().tolist()) == sorted(batch.x_1.flatten().tolist())


def test_held_out_examples_get_held_out_source_points():
    for first, second in pairs_of(step(0, split="held_out")):
        assert first % 2 == second % 2 == 1


def test_a_source_point_that_cannot_be_read_is_named_and_replaced():
    class Damaged(Numbers):
        def get(self, indices: torch.Tensor) -> Batch:
            if bool((indices == 4).any()):
                raise BadExamples({4: "source 4: damaged"})
            return super().get(indices)

    dealt = Loader(
        Sourced(Numbers(26), Damaged(26)),
        global_batch=13,
        micro_batch=13,
        rank=0,
        world_size=1,
        seed=0,
        max_bad_share=0.2,
    )
    batch = dealt.batch(0, 0)
    assert batch.x_0 is not None
    assert batch.replaced == ("source 4: damaged",)
    assert sorted(batch.x_0.flatten().tolist()) == sorted([*range(0, 4, 2), 6, *range(6, 26, 2)])


def test_samples_start_at_held_out_examples_by_their_numbers():
    source = Numbers(26)
    every = source_points(source, torch.arange(26), seed=1).flatten()
    assert sorted(every[:13].tolist()) == sorted(every[13:].tolist()) == list(range(1, 26, 2))
    assert not torch.equal(every[:13], every[13:]), "each epoch has an order of its own"
    assert torch.equal(source_points(source, torch.tensor([7, 2]), seed=1).flatten(), every[[7, 2]])
    assert not torch.equal(source_points(source, torch.arange(26), seed=2).flatten(), every)


def test_pairs_start_at_training_examples_none_twice_before_all_have_come():
    every = source_points(Numbers(26), torch.arange(26), seed=1, split="train").flatten().tolist()
    assert sorted(every[:13]) == sorted(every[13:]) == list(range(0, 26, 2))


def test_samples_start_at_fresh_points_of_an_endless_set():
    config = ToyConfig(name="rings", held_out=10)
    found = source_points(build(config), torch.arange(500), seed=1)
    assert len(found.unique(dim=0)) == 500
    radius = found.norm(dim=1)
    assert float(((radius - 1).abs() < 0.4).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(found[[3, 9]], source_points(build(config), torch.tensor([3, 9]), seed=1))


SECTIONS: dict[str, Any] = {
    "run": {"dir": "unused"},
    "model": {"kind": "mlp"},
    "data": {"kind": "toy", "name": "moons"},
    "optim": {"steps": 1, "global_batch": 1},
}
INTERPOLANT = {"path": {"kind": "stochastic_interpolant"}, "target": {"kind": "velocity_and_noise"}}


def config(**flow: Any) -> RunConfig:
    return RunConfig.model_validate({**SECTIONS, "flow": flow})


def test_paths_start_where_the_flow_does():
    numbers = torch.arange(4)
    assert config().source_data is None
    rings = config(source={"name": "rings"})
    assert rings.flow is not None
    assert rings.flow.source == ToyConfig(name="rings")
    begun = source_points(build(ToyConfig(name="rings")), numbers, seed=3)
    assert torch.equal(FlowParts(rings).starts(Condition(), numbers, seed=3), begun)
    mirror = config(path={"kind": "mirror_interpolant"}, target={"kind": "velocity_and_noise"})
    assert mirror.source is None, "training has no use for source points"
    assert torch.equal(
        FlowParts(mirror).starts(Condition(), numbers, seed=3), source_points(build(ToyConfig()), numbers, seed=3)
    )


def test_a_mirror_starts_at_data_in_their_scale():
    mirror = {"path": {"kind": "mirror_interpolant"}, "target": {"kind": "velocity_and_noise"}}
    numbers = torch.arange(4)
    plain, scaled = (
        FlowParts(config(**mirror, data_scale=scale)).starts(Condition(), numbers, seed=3) for scale in (1.0, 2.5)
    )
    assert torch.equal(scaled, 2.5 * plain)


def test_a_grid_shows_what_images_started_at():
    images = {"run": {"dir": "unused"}, "model": {}, "optim": {"steps": 1, "global_batch": 1}}
    digits = RunConfig.model_validate({**images, "flow": {"source": {}, **INTERPOLANT}})
    wanted = conditioning_for(digits, FlowParts(digits), 5, seed=2)
    drawn, columns = torch.zeros(5, 1, 8, 8), 3
    rows = wanted.pictures(drawn, columns).split(columns)
    begun = FlowParts(digits).starts(Condition(), torch.arange(5), seed=2)
    assert torch.equal(rows[0], begun[:3])
    assert torch.equal(rows[2], torch.cat([begun[3:], torch.ones(1, 1, 8, 8)]))
    assert torch.equal(torch.cat([rows[1], rows[3][:2]]), drawn)
    assert conditioning_for(config(source={"name": "rings"}), FlowParts(config()), 5, seed=2).beginnings is None


@each(
    ("flow", "complaint"),
    [
        ({"source": {"kind": "digits"}}, r"flow.source: its examples have shape \[1, 8, 8\], .*; .* of one shape"),
        ({"source": {"kind": "python_source"}}, r"flow.source.kind: python_source data cannot be points .*; use"),
        ({"source": {}}, "flow.source.seed: 0 makes the points of data once more; give it another seed"),
        ({"coupling": {"kind": "knn"}}, "flow.coupling.kind: knn chooses .*; use assignment, "),
        ({"coupling": {"kind": "paired"}}, "flow.coupling.kind: paired takes each source point from the data"),
        ({"target": {"kind": "score"}}, "flow.target.kind: score needs noise on the way, .*; use"),
        ({"path": {"kind": "mirror_interpolant"}}, "flow.source: flow.path mirror_interpolant starts at .*; remove it"),
        ({"path": {"kind": "one_sided_interpolant"}}, "flow.source: flow.path one_sided_interpolant starts .*; remove"),
    ],
)
def test_a_source_that_the_rest_has_no_use_for_is_refused(flow, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        plan_layout(config(**{"source": {"name": "rings"}, **flow}), 1)


def test_a_random_sampler_needs_a_score():
    random = {"sample": {"sampler": {"kind": "euler_maruyama"}}}
    sourced = {"source": {"name": "rings"}}
    plan_layout(RunConfig.model_validate({**SECTIONS, **random, "flow": {**sourced, **INTERPOLANT}}), 1)
    plan_layout(RunConfig.model_validate({**SECTIONS, **random}), 1)
    with pytest.raises(
        ValueError, match=r"^sample.sampler.kind: euler_maruyama needs noise on the way.* or sampler euler, heun"
    ):
        plan_layout(RunConfig.model_validate({**SECTIONS, **random, "flow": sourced}), 1)


@each("coupling", ["independent", "minibatch_ot", "gibbs_weighted", "assignment"])
@each("path", ["linear", "trigonometric", "stochastic_interpolant"])
def test_other_couplings_take_the_points_as_they_are_drawn(coupling, path):
    accepted = config(source={"name": "rings"}, coupling={"kind": coupling}, path={"kind": path})
    plan_layout(accepted, 1)
    x_0, x_1 = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0))
    batch = Batch(x_1, None, torch.arange(8), x_0=x_0)
    (drawn,) = FlowTask(accepted).draw([batch], [torch.Generator().manual_seed(1)])
    assert sorted(drawn.sample.x_0.tolist()) == sorted(x_0.tolist())
