from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.paths import ALL, NOISY
from tests.trainer.flow.paths import name as path_name
from tests.trainer.flow.unions import name, of_values
from trainer.flow import path, target
from trainer.flow.coupling import Pairs

QUANTITIES: tuple[target.Quantity, ...] = get_args(target.Quantity)
targets = each("config", of_values(target.Config), ids=name)
pairs_of_quantities = each(("source", "to"), list(product(QUANTITIES, QUANTITIES)))


def along(schedule: path.Schedule) -> path.Path:
    return path.Affine(schedule, preserves_variance=schedule is path.trigonometric)


def points(schedule: path.Schedule, t: Tensor) -> tuple[Pairs, path.PathSample]:
    x_0, x_1 = torch.randn(2, len(t), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pairs = Pairs(x_0, x_1)
    return pairs, along(schedule).sample(pairs, t, generator=torch.Generator())


def truth(sample: path.PathSample, c: path.Coefficients) -> dict[target.Quantity, Tensor]:
    """Every quantity of a point, by its definition."""
    a, b, g = (value.reshape(-1, 1) for value in (c.a, c.b, c.g))
    own = bool((g != 0).any())
    return {
        "velocity": sample.velocity,
        "data": sample.x_1,
        "noise": sample.noise,
        "score": -sample.noise / (g if own else a),
        "v_prediction": b * sample.x_0 - a * sample.x_1,
    }


def on(config: target.Config) -> path.Path:
    """A path on which a target is defined."""
    own = isinstance(config, target.VelocityAndNoise)
    return (path.StochasticInterpolantConfig() if own else path.TrigonometricConfig()).build()


def undefined(schedule: path.Schedule, *quantities: str) -> bool:
    return "v_prediction" in quantities and schedule is not path.trigonometric


def inside() -> Tensor:
    return torch.linspace(0.02, 0.98, 9, dtype=torch.float64)


@each("schedule", [path.linear, path.trigonometric])
@pairs_of_quantities
def test_every_quantity_gives_every_other(schedule, source, to):
    if undefined(schedule, source, to):
        return
    _, sample = points(schedule, inside())
    t, between = inside(), along(schedule)
    true = truth(sample, schedule(t))
    converted = target.convert(true[source], sample.x_t, t, between, source=source, to=to)
    torch.testing.assert_close(converted, true[to], rtol=1e-9, atol=1e-9)
    back = target.convert(converted, sample.x_t, t, between, source=to, to=source)
    torch.testing.assert_close(back, true[source], rtol=1e-9, atol=1e-9)


@targets
@each("to", QUANTITIES)
def test_a_target_converts_what_it_makes(config, to):
    between, (pairs, _) = on(config()), points(path.linear, inside())
    sample = between.sample(pairs, inside(), generator=torch.Generator().manual_seed(3))
    built = config().build(between)
    assert len(built.quantities) == built.num_fields == target.num_fields(config())
    made = built.make(sample)
    assert made.shape == (9, 4 * built.num_fields)
    if built.num_fields == 2 and to == "v_prediction":
        with pytest.raises(ValueError, match="use the score"):
            built.convert(made, sample.x_t, sample.t, to)
        return
    converted = built.convert(made, sample.x_t, sample.t, to)
    torch.testing.assert_close(converted, truth(sample, between.coefficients(inside()))[to], rtol=1e-9, atol=1e-9)


@each("schedule", [path.linear, path.trigonometric])
@each("end", [0.0, 1.0])
@pairs_of_quantities
def test_the_ends_stay_finite(schedule, end, source, to):
    if undefined(schedule, source, to):
        return
    t = torch.full((5,), end, dtype=torch.float64)
    value, x_t = torch.ones(5, 2, dtype=torch.float64), torch.full((5, 2), 0.5, dtype=torch.float64)
    assert bool(target.convert(value, x_t, t, along(schedule), source=source, to=to).isfinite().all())


@each("config", NOISY, ids=path_name)
@pairs_of_quantities
def test_one_quantity_of_a_noisy_path_gives_all_that_two_linear_equations_determine(config, source, to):
    """State, known and wanted quantity are rows of weights of (x_0, x_1, z); the rank of the first two decides."""
    between, (pairs, _), t = config.build(), points(path.linear, inside()), inside()
    sample = between.sample(pairs, t, generator=torch.Generator().manual_seed(3))
    c = between.coefficients(t)
    true = truth(sample, c)
    determined = "v_prediction" not in (source, to) and all(
        in_the_span(rows[to], torch.stack([rows["state"], rows[source]])) for rows in weights(between)
    )
    if getattr(config, "interpolation", None) == "encoding_decoding" and to != source:
        determined = {source, to} == {"noise", "score"}  # one end at a time: the velocity's equation is 0 = 0 half way
    assert target.determines(source, to, between) == (determined or source == to)
    if determined or source == to:
        converted = target.convert(true[source], sample.x_t, t, between, source=source, to=to)
        torch.testing.assert_close(converted, true[to], rtol=1e-9, atol=1e-9)
        return
    for time in (t, torch.zeros(9), torch.ones(9)):
        with pytest.raises(ValueError, match=r"^path: .*noise of its own.*; predict |^path: v_prediction .*; use "):
            target.convert(true[source], sample.x_t, time.double(), between, source=source, to=to)


def weights(between: path.Path) -> list[dict[str, Tensor]]:
    """The weights of (x_0, x_1, z) in the state and in every quantity, at times that include the middle."""
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    c, found = between.coefficients(t), []
    for a, b, g, da, db, dg in zip(c.a, c.b, c.g, c.da, c.db, c.dg, strict=True):
        rows = {"state": [a, b, g], "velocity": [da, db, dg], "data": [0, 1, 0], "noise": [0, 0, 1], "score": [0, 0, 1]}
        found.append({name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()})
    return found


def in_the_span(row: Tensor, known: Tensor) -> bool:
    rank = torch.linalg.matrix_rank(known, atol=1e-9)
    return bool(torch.linalg.matrix_rank(torch.cat([known, row[None]]), atol=1e-9) == rank)


@each("config", NOISY, ids=path_name)
@each("to", ["velocity", "data", "noise", "score"])
def test_velocity_and_noise_give_all_that_three_linear_equations_determine(config, to):
    between, (pairs, _), t = config.build(), points(path.linear, inside()), inside()
    sample = between.sample(pairs, t, generator=torch.Generator().manual_seed(3))
    determined = all(
        in_the_span(rows[to], torch.stack([rows["state"], rows["velocity"], rows["noise"]]))
        for rows in weights(between)
    )
    both = target.VelocityAndNoise().build(between)
    assert both.determines(to, between) == determined
    if determined:
        converted = both.convert(both.make(sample), sample.x_t, t, to)
        torch.testing.assert_close(converted, truth(sample, between.coefficients(t))[to], rtol=1e-9, atol=1e-9)


@each("config", ALL, ids=path_name)
def test_paths_declare_what_their_coefficients_are(config):
    between = config.build()
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    c, ends = between.coefficients(t), between.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert between.affine
    assert between.has_source == bool((c.a != 0).any())
    assert between.has_noise == bool((c.g != 0).any())
    n, dn = (c.a, c.da) if between.has_source else (c.g, c.dg)
    assert between.separable == bool(((n * c.db - dn * c.b).abs() > 1e-9).all())
    keeps = torch.allclose(c.a**2 + c.b**2, torch.ones_like(t))
    assert between.preserves_variance == (keeps and not between.has_noise)
    for declared, a, b, g in zip((between.starts_as, between.ends_as), ends.a, ends.b, ends.g, strict=True):
        present = {"source": max(a.abs(), g.abs()) > 1e-9, "data": b.abs() > 1e-9}
        only = [end for end, there in present.items() if there]
        assert declared == (only[0] if len(only) == 1 else None)


@each("factor", [1e-12, 1e-6, 1.0, 1e6])
@each("kind", [path.StochasticInterpolantConfig, path.MirrorInterpolantConfig])
def test_slope_and_score_follow_the_scale_of_the_noise(factor, kind):
    """gamma = sqrt(factor) gamma_1: slopes are sqrt(factor) times, and scores 1 / sqrt(factor) times, those of 1."""
    times = [0.0, 1e-9, 1e-6, 1e-3, 0.2, 0.5, 0.8, 1.0]
    t = torch.tensor(times, dtype=torch.float64)
    scaled, one = (kind(gamma=path.BrownianConfig(factor=each)).build() for each in (factor, 1.0))
    c, c_1 = scaled.coefficients(t), one.coefficients(t)
    torch.testing.assert_close(c.dg, factor**0.5 * c_1.dg, rtol=1e-12, atol=0)
    within = slice(2, 7)
    exact = factor**0.5 * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())
    torch.testing.assert_close(c.dg[within], exact[within], rtol=1e-5, atol=0)
    noise, x_t = torch.ones(8, 1, dtype=torch.float64), torch.ones(8, 1, dtype=torch.float64)
    score = target.convert(noise, x_t, t, scaled, source="noise", to="score")
    score_1 = target.convert(noise, x_t, t, one, source="noise", to="score")
    torch.testing.assert_close(factor**0.5 * score, score_1, rtol=1e-12, atol=0)
    torch.testing.assert_close(score[within, 0], -1 / (factor * t * (1 - t)).sqrt()[within], rtol=1e-5, atol=0)


def test_a_diffusion_that_leaves_little_data_at_the_source_has_the_velocity_of_its_noise():
    """b is 3e-7 at t = 0 but not 0, so the noise determines the velocity: db / b is half the rate of the diffusion."""
    config = path.VariancePreservingConfig(beta_max=60.0)
    between, t = config.build(), torch.linspace(0, 0.9, 9, dtype=torch.float64)
    x_0, x_1 = torch.randn(2, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sample = between.sample(Pairs(x_0, x_1), t, generator=torch.Generator())
    converted = target.convert(sample.noise, sample.x_t, t, between, source="noise", to="velocity")
    torch.testing.assert_close(converted, sample.velocity, rtol=1e-6, atol=1e-9)


@each("config", [*NOISY, path.StochasticInterpolantConfig(gamma=path.QuadraticConfig())])
def test_the_data_of_velocity_and_noise_are_exact_at_both_ends(config):
    between, t = config.build(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    both = target.VelocityAndNoise().build(between)
    if not both.determines("data", between):
        return
    pairs, _ = points(path.linear, t)
    sample = between.sample(pairs, t, generator=torch.Generator().manual_seed(3))
    data = both.convert(both.make(sample), sample.x_t, t, "data")
    torch.testing.assert_close(data, pairs.x_1, rtol=1e-9, atol=1e-9)


@each("config", NOISY, ids=path_name)
def test_velocity_and_noise_give_score_and_the_velocity_without_noise(config):
    """score = -z / g for any source, and velocity + g dg score = da x_0 + db x_1."""
    between, (pairs, _) = config.build(), points(path.linear, inside())
    sample = between.sample(pairs, inside(), generator=torch.Generator().manual_seed(3))
    both = target.VelocityAndNoise().build(between)
    score = both.convert(both.make(sample), sample.x_t, sample.t, "score")
    c = between.coefficients(inside()).broadcast(sample.x_t)
    torch.testing.assert_close(c.g * score, -sample.noise)
    torch.testing.assert_close(sample.velocity + c.g_dg * score, c.da * pairs.x_0 + c.db * pairs.x_1)


@each("config", NOISY, ids=path_name)
@each("to", ["velocity", "noise", "score"])
def test_the_ends_of_a_noisy_path_stay_finite(config, to):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    both = target.VelocityAndNoise().build(config.build())
    assert bool(both.convert(torch.ones(2, 8), torch.ones(2, 4), t, to).isfinite().all())


def test_data_that_a_path_leaves_open_are_refused():
    both = target.VelocityAndNoise().build(path.StochasticInterpolantConfig(interpolation="encoding_decoding").build())
    with pytest.raises(ValueError, match="leave the data open"):
        both.convert(torch.ones(9, 8), torch.ones(9, 4), inside(), "data")


def test_v_prediction_refuses_a_path_that_does_not_keep_the_variance():
    with pytest.raises(ValueError, match=r"flow.target.kind: v_prediction .*; use a variance-preserving path"):
        target.VPrediction().build(path.Affine(path.linear))


def test_a_velocity_serves_sampling_on_any_path():
    """A path without coefficients refuses every conversion but that of the velocity to itself."""

    class Bent(path.Affine):
        affine = False

        def coefficients(self, t: Tensor) -> path.Coefficients:
            raise ValueError(f"path: not of the form a x_0 + b x_1 + g z at {t}; predict the velocity")

    built, x = target.Velocity().build(Bent(path.linear)), torch.ones(2, 1)
    assert built.convert(x, 2 * x, torch.ones(2), "velocity") is x
    with pytest.raises(ValueError, match="not of the form"):
        built.convert(x, 2 * x, torch.ones(2), "data")
    for member in of_values(target.Config):
        declared = target.class_of(member())
        assert [quantity for quantity in QUANTITIES if declared.determines(quantity, Bent(path.linear))] == [
            quantity for quantity in QUANTITIES if quantity in declared.quantities
        ]


@targets
def test_an_unknown_quantity_is_refused(config):
    built = config().build(on(config()))
    x = torch.ones(2, 2)
    unknown: Any = "energy"
    with pytest.raises(ValueError, match="to: no quantity is called 'energy'; use one of velocity, data"):
        built.convert(x, x, torch.ones(2), unknown)
