"""The path of least kinetic energy: its two limits, energies that are known otherwise, and its file."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.integrate import quad
from torch import Tensor

from netsim.foundation.refusal import Refusal
from tests.draws import generator
from tests.each import each
from tests.trainer.flow.paths import TABLE
from trainer.flow import path
from trainer.flow.coupling import Pairs
from trainer.flow.path.affine import without_noise
from trainer.flow.path.kinetic_optimal import (
    RATIOS,
    Separation,
    angle_between,
    estimate,
    fit,
    kinetic_energy,
    least_energy,
    mean_energy,
    read_table,
)

FAR_APART = torch.ones(len(RATIOS), dtype=torch.float64)
GAUSSIAN = torch.zeros(len(RATIOS), dtype=torch.float64)
scales = pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])


def circle() -> Tensor:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1)


def cloud(dimensions: int) -> Tensor:
    return torch.randn(64, dimensions, generator=generator(1), dtype=torch.float64)


SETS = {"circle": circle(), "cloud": cloud(2), "wide cloud": 2.5 * cloud(16), "far cloud": cloud(256)}
sets = each("points", SETS.values(), ids=SETS.keys())


def looked_at(points: Tensor, draws: int = 1000) -> Separation:
    return estimate(points, draws=draws, generator=generator())


@scales
def test_points_that_are_far_apart_have_the_straight_path(scale):
    separation = Separation(FAR_APART, scale)
    t = torch.linspace(0, 1, 3331, dtype=torch.float64)
    c, straight = path.Tabulated(fit(separation))(t), path.linear(t)
    for name in ("a", "b", "da", "db"):
        torch.testing.assert_close(getattr(c, name), getattr(straight, name), rtol=0, atol=1e-6)
    assert angle_between(separation) == pytest.approx(math.pi / 2)
    assert least_energy(separation) == pytest.approx(1 + scale**2)
    assert kinetic_energy(path.linear, separation) == pytest.approx(1 + scale**2)


@scales
def test_a_gaussian_is_moved_at_the_price_of_its_spread(scale):
    separation = Separation(GAUSSIAN, scale)
    assert angle_between(separation) == 0
    assert least_energy(separation) == pytest.approx((1 - scale) ** 2)
    assert kinetic_energy(path.Tabulated(fit(separation)), separation) == pytest.approx((1 - scale) ** 2, abs=1e-4)


@scales
def test_a_gaussian_of_any_spread_has_the_energy_of_its_velocity(scale):
    """u = (d log sigma / dt) x, whose energy is the integral of sigma'^2, sigma^2 = a^2 + scale^2 b^2."""

    def slope(t: float) -> float:
        return (t * scale**2 - (1 - t)) / math.hypot(1 - t, scale * t)

    expected, _ = quad(lambda t: slope(t) ** 2, 0, 1)
    assert kinetic_energy(path.linear, Separation(GAUSSIAN, scale)) == pytest.approx(expected, rel=1e-4)


@sets
def test_the_energy_of_the_fitted_path_is_the_closed_form(points):
    separation = looked_at(points)
    for least_price in (1e-3, 1e-2, 1.0):
        fitted = path.Tabulated(fit(separation, least_price=least_price))
        closed = least_energy(separation, least_price)
        assert kinetic_energy(fitted, separation, least_price) == pytest.approx(closed, abs=1e-3)
    straight = path.Tabulated(fit(separation, least_price=1.0))(torch.tensor([0.3, 0.7], dtype=torch.float64))
    torch.testing.assert_close(straight.b, torch.tensor([0.3, 0.7], dtype=torch.float64))


@sets
def test_no_other_path_needs_less(points):
    separation = looked_at(points)
    least = kinetic_energy(path.Tabulated(fit(separation)), separation)
    assert least_energy(separation) <= least + 1e-6
    for other in (path.linear, path.trigonometric):
        assert least < kinetic_energy(other, separation)
    fitted = path.Tabulated(fit(separation))
    for number in range(6):
        shift = 0.05 * torch.randn(2, generator=generator(number), dtype=torch.float64)

        def moved(t: Tensor, shift: Tensor = shift) -> path.Coefficients:
            c, bump, slope = fitted(t), torch.sin(math.pi * t) ** 2, math.pi * torch.sin(2 * math.pi * t)
            a, b, da, db = (
                c.a + shift[0] * bump,
                c.b + shift[1] * bump,
                c.da + shift[0] * slope,
                c.db + shift[1] * slope,
            )
            return path.Coefficients(a=a, b=b, g=c.g, da=da, db=db, dg=c.dg, g_dg=c.g_dg)

        assert kinetic_energy(moved, separation) > least


@each(("name", "along"), [("circle", "straight"), ("cloud", "trigonometric"), ("wide cloud", "fitted")])
def test_the_formula_is_the_mean_of_the_squared_velocity(name, along):
    """E|u_t|^2 with the exact velocity of the flow to those points, by Monte Carlo: within 2 %."""
    points = SETS[name] - SETS[name].mean(0)
    separation = looked_at(points, draws=10_000)
    schedule = {"straight": path.linear, "trigonometric": path.trigonometric}.get(along)
    schedule = schedule or path.Tabulated(fit(separation))
    draws, random = 100_000, generator(7)
    t = (torch.arange(draws, dtype=torch.float64) + torch.rand(draws, generator=random)) / draws
    c = schedule(t).broadcast(points[:1])
    own = points[torch.randint(len(points), (draws,), generator=random)]
    x_t = c.a * torch.randn(own.shape, generator=random, dtype=torch.float64) + c.b * own
    likely = (c.b * x_t @ points.mT - c.b**2 / 2 * points.square().sum(1)) / c.a**2
    data = likely.softmax(1) @ points
    velocity = c.db * data + c.da * (x_t - c.b * data) / c.a
    energy = float(velocity.square().sum(1).mean()) / points.shape[1]
    assert kinetic_energy(schedule, separation) == pytest.approx(energy, rel=0.02)


def test_what_noise_hides_of_two_points_is_an_integral():
    """Of +1 and -1 in the noise 1 / r, E tanh(r y)^2 is known, y ~ N(r, 1)."""
    separation = estimate(torch.tensor([[1.0], [-1.0]]), draws=20_000, generator=generator())
    for ratio, known, price in list(zip(RATIOS.tolist(), separation.known, separation.prices, strict=True))[::8]:

        def density(y: float, ratio: float = ratio) -> float:
            return math.tanh(ratio * y) ** 2 * math.exp(-((y - ratio) ** 2) / 2) / math.sqrt(math.tau)

        explained, _ = quad(density, ratio - 10, ratio + 10, limit=200)
        assert float(known) == pytest.approx(explained, abs=0.005)
        assert float(price) == pytest.approx(1 - (1 + ratio**2) * (1 - explained), abs=0.01)


def test_a_mean_and_a_scale_are_taken_out():
    plain, moved = looked_at(circle()), looked_at(3 * circle() + 5)
    torch.testing.assert_close(plain.prices, moved.prices)
    assert (plain.scale, moved.scale) == pytest.approx((1, 3))
    assert mean_energy(path.linear) == pytest.approx(1)
    assert mean_energy(path.Tabulated(fit(plain))) > 1


def test_the_gap_to_the_straight_path_closes_as_points_move_apart():
    gaps = []
    for dimensions in (2, 64, 1024):
        separation = looked_at(cloud(dimensions), draws=500)
        straight = kinetic_energy(path.linear, separation)
        gaps.append((straight - least_energy(separation)) / straight)
    assert gaps[0] > 2 * gaps[1]
    assert gaps[1] > 2 * gaps[2]


@pytest.mark.parametrize("points", [torch.ones(5, 2), torch.zeros(1, 2), torch.tensor([[0.0], [math.nan]])])
def test_points_that_say_nothing_are_refused(points):
    with pytest.raises(ValueError, match=r"^points: "):
        estimate(points, draws=10, generator=generator())


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = fit(Separation(FAR_APART, 1.0), knots=10)
    for name in ("one", "other"):
        path.PathTable(made.weights, made.slopes, {"seed": 1, "draws": 2}).write(tmp_path / name)
    read = read_table(tmp_path / "one")
    assert torch.equal(read.weights, made.weights)
    assert torch.equal(read.slopes, made.slopes)
    assert read.made_by == {"seed": 1, "draws": 2}
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_table_of_both_ends_alone_is_read(tmp_path: Path) -> None:
    ends = torch.eye(2, dtype=torch.float64)
    path.PathTable(ends, torch.tensor([[-1.0, 1.0]] * 2, dtype=torch.float64), {}).write(tmp_path / "straight")
    assert torch.equal(read_table(tmp_path / "straight").weights, ends)


def test_the_table_of_the_contract_tests_is_that_of_a_circle():
    separation = looked_at(circle(), draws=2000)
    fitted = fit(separation, knots=100)
    torch.testing.assert_close(read_table(TABLE).weights, fitted.weights, rtol=0, atol=1e-6)


def damaged(folder: Path, how: str) -> Path:
    """A table with something wrong in it."""
    file, arrays, header = folder / "path.safetensors", load_file(TABLE), {"format": "flowfabric.path/1", "made_by": {}}
    match how:
        case "missing":
            return file
        case "torn":
            file.write_bytes(TABLE.read_bytes()[:-40])
            return file
        case "foreign":
            save_file({"x": torch.zeros(3)}, file)
            return file
        case "other format":
            header["format"] = "flowfabric.path/9"
        case "no slopes":
            del arrays["slopes"]
        case "single precision":
            arrays["weights"] = arrays["weights"].float()
        case "not finite":
            arrays["slopes"][3, 0] = math.nan
        case "lengths":
            arrays["slopes"] = arrays["slopes"][:-1].contiguous()
        case "ends":
            arrays["weights"][0, 1] = 0.5
        case "backwards":
            arrays["slopes"] = -arrays["slopes"]
    save_file(arrays, file, metadata={"header": json.dumps(header)})
    return file


@each(
    ("how", "field"),
    [
        ("missing", "table: cannot be read"),
        ("torn", "table: cannot be read"),
        ("foreign", "format: is None"),
        ("other format", "format: is flowfabric.path/9"),
        ("no slopes", "slopes: is missing"),
        ("single precision", "weights: is torch.float32"),
        ("not finite", "slopes: contains values that are not finite"),
        ("lengths", "slopes: has 100 times where weights has 101"),
        ("ends", "weights: begins and ends at"),
        ("backwards", "weights: turns back"),
    ],
)
def test_a_damaged_or_foreign_table_is_refused_in_one_line(tmp_path: Path, how: str, field: str) -> None:
    file = damaged(tmp_path, how)
    with pytest.raises(Refusal) as caught:
        read_table(file)
    assert str(caught.value).startswith(f"{file}: {field}")
    assert str(caught.value).endswith("; fit it again (python -m trainer fit-path)")
    assert "\n" not in str(caught.value)


def test_a_run_goes_on_only_along_its_own_path(tmp_path: Path) -> None:
    file = tmp_path / "path.safetensors"
    file.write_bytes(TABLE.read_bytes())
    config = path.TabulatedConfig.model_validate(path.TabulatedConfig.resolved({"path": file}))
    assert isinstance(config.build(), path.Affine)
    fit(Separation(FAR_APART, 1.0), knots=10).write(file)
    with pytest.raises(Refusal, match=r"digest: is .* but the file has"):
        config.build()


@sets
def test_schedulers_of_another_library_have_the_same_energies_and_ours_serves_there(points):
    """facebookresearch/flow_matching: its straight and cosine schedules under our functional, our table in its path."""
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler, CosineScheduler, Scheduler, SchedulerOutput

    separation = looked_at(points)

    def foreign(scheduler: Scheduler) -> path.Schedule:
        def schedule(t: Tensor) -> path.Coefficients:
            c = scheduler(t)
            return without_noise(c.sigma_t, c.alpha_t, c.d_sigma_t, c.d_alpha_t)

        return schedule

    for theirs, ours in ((CondOTScheduler(), path.linear), (CosineScheduler(), path.trigonometric)):
        assert kinetic_energy(foreign(theirs), separation) == pytest.approx(kinetic_energy(ours, separation))
    fitted = path.Tabulated(fit(separation))

    class Exported(Scheduler):
        def __call__(self, t: Tensor) -> SchedulerOutput:
            c = fitted(t)
            return SchedulerOutput(alpha_t=c.b, sigma_t=c.a, d_alpha_t=c.db, d_sigma_t=c.da)

        def snr_inverse(self, snr: Tensor) -> Tensor:
            raise NotImplementedError

    x_0, x_1 = torch.randn(2, 9, 3, dtype=torch.float64, generator=generator(3))
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    theirs = AffineProbPath(Exported()).sample(x_0=x_0, x_1=x_1, t=t)
    ours = path.Affine(fitted).sample(Pairs(x_0, x_1), t, generator=generator())
    torch.testing.assert_close(theirs.x_t, ours.x_t)
    torch.testing.assert_close(theirs.dx_t, ours.velocity)
