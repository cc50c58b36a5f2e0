import pytest
import torch
from scipy import stats

from tests.draws import generator
from tests.each import each
from tests.trainer.flow.unions import members
from trainer.flow import UNCONDITIONAL, Condition, coupling

OTHER_STATES = {"symmetric", "ends"}
"""Their states have a label beside the data, or are of atoms; their laws are in test_symmetric and test_ends."""
CONFIGS = {member().kind: member() for member in members(coupling.Config) if member().kind not in OTHER_STATES} | {
    "minibatch_ot, sinkhorn": coupling.MinibatchOT(solver="sinkhorn"),
    "minibatch_ot, unbalanced": coupling.MinibatchOT(solver="unbalanced"),
    "minibatch_ot, whole step": coupling.MinibatchOT(scope="global_batch"),
    "gibbs_weighted, squared": coupling.GibbsWeighted(cost="sqeuclidean"),
}
NOT_NORMAL = {
    "knn": "the nearest of k draws is shorter and leans to its data point; its law is in test_knn",
    "minibatch_ot, sinkhorn": "some source points are drawn twice and some never; its law is in test_minibatch_ot",
    "minibatch_ot, unbalanced": "some source points are drawn twice and some never; its law is in test_minibatch_ot",
}
couplings = each("config", CONFIGS.values(), ids=CONFIGS.keys())
PAIRED = CONFIGS.pop("paired")
drawing = each("config", CONFIGS.values(), ids=CONFIGS.keys())


def batch(size: int = 64) -> tuple[torch.Tensor, Condition]:
    x_1 = torch.randn(size, 1, 4, 4, generator=generator(9))
    return x_1, Condition(torch.arange(size) % 10)


def rows_of(points: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """The row of each point [B, *D] among others [N, *D], the first of equal ones, int64 [B]."""
    return (points.flatten(1)[:, None] == among.flatten(1)).all(2).int().argmax(1)


@couplings
def test_pairs_are_rows_of_what_was_given(config):
    x_1, condition = batch()
    x_0 = torch.randn(x_1.shape, generator=generator(5))
    pairs = coupling.build(config).draw(x_1, condition, x_0=x_0, generator=generator())
    assert pairs.x_0.shape == pairs.x_1.shape == x_1.shape
    source, target = rows_of(pairs.x_0, x_0), rows_of(pairs.x_1, x_1)
    assert sorted(target.tolist()) == list(range(64))
    assert torch.equal(pairs.x_0, x_0[source])
    assert torch.equal(pairs.x_1, x_1[target])
    assert pairs.condition.label is not None
    assert torch.equal(pairs.condition.label, target % 10)


@drawing
def test_a_step_of_one_rank_is_drawn_micro_batch_by_micro_batch(config):
    if getattr(config, "scope", None) == "global_batch":
        pytest.skip("its micro batches are paired together; its law is in test_matched_on_ranks")
    built, (x_1, condition) = coupling.build(config), batch()
    halves = [condition.rows(torch.arange(64)[rows]) for rows in (slice(32), slice(32, 64))]
    together = built.draw_step(x_1.split(32), halves, generators=[generator(1), generator(2)])
    for number, (pairs, data, half) in enumerate(zip(together, x_1.split(32), halves, strict=True), 1):
        alone = built.draw(data, half, generator=generator(number))
        assert torch.equal(pairs.x_0, alone.x_0)
        assert torch.equal(pairs.x_1, data)


@each("name", [name for name in CONFIGS if name not in NOT_NORMAL])
def test_the_drawn_source_is_standard_normal(name):
    config = CONFIGS[name]
    x_1, condition = batch(512)
    x_0 = coupling.build(config).draw(x_1, condition, generator=generator(3)).x_0.flatten().numpy()
    assert stats.kstest(x_0, "norm").pvalue > 0.01


@drawing
def test_weights_are_finite(config):
    x_1, condition = batch()
    log_weight = coupling.build(config).draw(x_1, condition, generator=generator()).log_weight
    assert log_weight is None or (log_weight.shape == (64,) and bool(log_weight.isfinite().all()))


@drawing
def test_the_generator_decides_everything(config):
    x_1, condition = batch()
    drawn = [coupling.build(config).draw(x_1, condition, generator=generator(seed)).x_0 for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@drawing
def test_the_order_of_the_data_in_memory_changes_no_draw(config):
    (x_1, condition), built = batch(), coupling.build(config)
    turned = x_1.transpose(0, 3).contiguous().transpose(0, 3)
    assert turned.stride() != x_1.stride()
    drawn = [built.draw(data, condition, generator=generator()).x_0 for data in (x_1, turned)]
    assert torch.equal(*drawn)


@couplings
def test_a_source_of_another_shape_is_refused(config):
    x_1, condition = batch()
    with pytest.raises(ValueError, match=r"x_0: shape \(3, 2\)"):
        coupling.build(config).draw(x_1, condition, x_0=torch.zeros(3, 2), generator=generator())


def test_independent_source_and_data_are_uncorrelated():
    x_1, _ = batch(4096)
    pairs = coupling.Independent().draw(x_1, UNCONDITIONAL, generator=generator(1))
    correlation = float((pairs.x_0 * pairs.x_1).mean())
    assert abs(correlation) < 4 / (4096 * 16) ** 0.5
    assert pairs.condition.label is None
    assert pairs.log_weight is None


def test_paired_draws_nothing_and_keeps_the_pairs():
    x_1, condition = batch()
    x_0, drawn = torch.randn(x_1.shape, generator=generator(5)), generator(1)
    (pairs,) = coupling.build(PAIRED).draw_step([x_1], [condition], generators=[drawn], x_0=[x_0])
    assert pairs.x_0 is x_0
    assert pairs.x_1 is x_1
    assert torch.equal(drawn.get_state(), generator(1).get_state())
    with pytest.raises(ValueError, match="x_0: there is none to pair with"):
        coupling.build(PAIRED).draw(x_1, condition, generator=drawn)
