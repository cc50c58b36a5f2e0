"""What every control keeps: the law of strength 0, the order of a list, and all samplers."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from moe.seeds import fold_in
from tests.benchmarks.methods.plain_loop import PlainNetwork
from tests.each import each
from tests.trainer.flow.own_controls import NeedsPicture, Shifted, TakesPicture, Wind
from tests.trainer.flow.test_sampler import STRAIGHT, gaussian, known
from trainer.flow import UNCONDITIONAL, Condition, control, path, sampler, target
from trainer.flow.control import ControlInputs, controlled
from trainer.flow.field import NetworkField, guided
from trainer.flow.sampler.protocol import StepsFile
from trainer.flow.target import Quantity

NUM, VALUES = 4, 3
KEYS = fold_in(torch.tensor(1), torch.arange(NUM))
OWN = __name__.rpartition(".")[0] + ".own_controls"
WITHIN: list[sampler.AnyConfig] = [
    sampler.Euler(steps=6),
    sampler.Heun(steps=6),
    sampler.Dopri5(),
    sampler.FirstOrder(steps=6),
    sampler.EulerMaruyama(steps=6),
    sampler.StochasticHeun(steps=6),
]
SAMPLERS: list[sampler.AnyConfig] = [
    *WITHIN,
    sampler.Euler(times=(0.0, 0.1, 0.15, 0.5, 0.9, 1.0), steps=5),
    sampler.Renoise(steps=6),
    *(TypeAdapter(sampler.Config).validate_python({"kind": "segmented", "segments": 2, "within": w}) for w in WITHIN),
]
samplers = each("config", SAMPLERS, ids=lambda config: config.kind)


def draws(seed: int) -> Tensor:
    return torch.randn(NUM, VALUES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def read(document: dict[str, Any]) -> control.AnyConfig:
    return TypeAdapter(control.Config).validate_python(document)


def built(document: dict[str, Any], flow_path: path.Path = STRAIGHT) -> control.Control:
    return read(document).build(ControlInputs(flow_path, UNCONDITIONAL, lambda: None, draws(2)))


PULL, TRANSPORT = {"kind": "pull", "strength": 0.7, "stop": 0.5}, {"kind": "transport", "strength": 0.4, "longest": 1.5}
WIND = {"class": f"{OWN}:Wind", "strength": 0.3}
COST = {"kind": "cost_gradient", "cost": {"class": f"{OWN}:FarOut"}, "strength": 0.2}
EVERY = [PULL, TRANSPORT, WIND, COST]


def network_field(guidance: float = 2.5) -> NetworkField:
    """A small network with classes, guided by two passes in one batch."""
    network = PlainNetwork(VALUES, hidden=16, layers=2, seed=0, num_classes=3).double()
    label = torch.tensor([0, 1, 2, 1])
    nothing = Condition(label=torch.full((NUM,), 3))
    return NetworkField(guided(network, Condition(label=label), nothing, guidance), target.Velocity().build(STRAIGHT))


FIELDS = {"gaussian": known(gaussian(1.0, 0.5)), "network": network_field()}


@torch.no_grad()
def drawn(config: sampler.AnyConfig, over: sampler.Field) -> Tensor:
    return config.build(STRAIGHT).sample(over, draws(1), config.grid(), keys=KEYS).x


@each("name", FIELDS)
@each("config", SAMPLERS, ids=lambda config: config.kind)
def test_at_strength_0_every_sampler_draws_the_same_bits(config, name):
    nothing = [built({**document, "strength": 0}) for document in EVERY]
    assert controlled(FIELDS[name], nothing) is FIELDS[name]
    assert torch.equal(drawn(config, controlled(FIELDS[name], nothing)), drawn(config, FIELDS[name]))
    mixed = controlled(FIELDS[name], [nothing[0], built(WIND), nothing[1]])
    assert torch.equal(drawn(config, mixed), drawn(config, controlled(FIELDS[name], [built(WIND)])))


@samplers
def test_with_a_file_of_steps_the_law_holds_too(config, tmp_path: Path):
    if not isinstance(config, sampler.Euler | sampler.FirstOrder | sampler.EulerMaruyama):
        return
    file = tmp_path / "steps.json"
    StepsFile(sampler=config.kind, grids={3: (0.0, 0.2, 0.45, 1.0)}).write(file)
    searched = type(config)(steps=3, times=file)
    nothing = [built({**document, "strength": 0}) for document in EVERY]
    assert torch.equal(drawn(searched, controlled(FIELDS["network"], nothing)), drawn(searched, FIELDS["network"]))
    pulled = drawn(searched, controlled(FIELDS["network"], [built(PULL)]))
    torch.testing.assert_close(pulled, drawn(searched, known(pulled_by_hand(FIELDS["network"]))))


def pulled_by_hand(inner: sampler.VelocityField) -> sampler.VelocityField:
    """v + s ((y - x) / (1 - t) - v) with the strength 0.7 of `PULL` before t = 0.5."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        v, time = inner(x, t), t[:, None]
        return torch.where(time < 0.5, v + 0.7 * ((draws(2) - x) / (1 - time) - v), v)

    return velocity


@each("name", FIELDS)
@each("config", SAMPLERS, ids=lambda config: config.kind)
def test_every_sampler_follows_the_changed_velocity(config, name):
    pulled = drawn(config, controlled(FIELDS[name], [built(PULL)]))
    by_hand = drawn(config, known(pulled_by_hand(FIELDS[name])))
    torch.testing.assert_close(pulled, by_hand, rtol=0, atol=1e-3 if "dopri5" in str(config) else 1e-6)
    assert not torch.allclose(pulled, drawn(config, FIELDS[name]), atol=1e-3)


@each("document", EVERY)
def test_all_quantities_follow_from_the_changed_velocity(document):
    """On the straight path x_1 = x + (1 - t) v, x_0 = x - t v, and the score is (t v - x) / (1 - t)."""
    x, t = draws(3), torch.linspace(0.05, 0.9, NUM, dtype=torch.float64)
    over = built(document).over(FIELDS["network"])
    velocity, data, noise, score = over.estimate(x, t, "velocity", "data", "noise", "score")
    time = t[:, None]
    assert torch.equal(velocity, over(x, t))
    torch.testing.assert_close(data, x + (1 - time) * velocity)
    torch.testing.assert_close(noise, x - time * velocity)
    torch.testing.assert_close(score, (time * velocity - x) / (1 - time))


def test_on_a_quarter_circle_the_pull_follows_the_path():
    """x = cos x_0 + sin x_1: the velocity through x and a given x_1; data and noise by solving linear equations."""
    circle = path.TrigonometricConfig().build()

    @dataclass(frozen=True)
    class Still(sampler.Field):
        def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
            return torch.zeros_like(x) * t[:, None]

        def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
            return tuple(self(x, t) for _ in quantities)

    x, t = draws(3), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    over = built(PULL, circle).over(Still())
    velocity, data, noise = over.estimate(x, t, "velocity", "data", "noise")
    for row, turn in enumerate(math.pi / 2 * t):
        a, b, rate = turn.cos(), turn.sin(), math.pi / 2
        source = (x[row] - b * draws(2)[row]) / a
        torch.testing.assert_close(velocity[row], 0.7 * rate * (a * draws(2)[row] - b * source))
        system = torch.stack([torch.stack([a, b]), rate * torch.stack([-b, a])])
        ends = torch.linalg.solve(system, torch.stack([x[row], velocity[row]]))
        torch.testing.assert_close(torch.stack([noise[row], data[row]]), ends)


def test_each_control_of_a_list_changes_what_those_before_it_made():
    x, t = draws(3), torch.full((NUM,), 0.2, dtype=torch.float64)
    plain = FIELDS["network"]
    one, other = built(PULL), built(WIND)
    towards = (draws(2) - x) / 0.8
    first = controlled(plain, [one, other])(x, t)
    torch.testing.assert_close(first, 0.3 * plain(x, t) + 0.7 * towards + 0.3)
    last = controlled(plain, [other, one])(x, t)
    torch.testing.assert_close(last, 0.3 * (plain(x, t) + 0.3) + 0.7 * towards)
    assert torch.equal(first, other.over(one.over(plain))(x, t))


@each("document", EVERY)
@each("guidance", [1.0, 2.5])
def test_a_control_changes_the_guided_field_row_by_row(document, guidance):
    """Guidance asks the network for twice the rows; a control sees the examples alone."""
    x, t = draws(3), torch.full((NUM,), 0.2, dtype=torch.float64)
    whole = built(document).over(network_field(guidance))(x, t)
    network = PlainNetwork(VALUES, hidden=16, layers=2, seed=0, num_classes=3).double()
    for row, label in enumerate([0, 1, 2, 1]):
        here, now = x[row : row + 1], t[row : row + 1]

        def alone(x: Tensor, t: Tensor, label: int = label) -> Tensor:
            named, none = (network(x, t, Condition(label=torch.tensor([number]))) for number in (label, 3))
            return none + guidance * (named - none)

        inputs = ControlInputs(STRAIGHT, UNCONDITIONAL, lambda: None, draws(2)[row : row + 1])
        by_itself = read(document).build(inputs).over(known(alone))(here, now)
        torch.testing.assert_close(whole[row : row + 1], by_itself)


@each("document", EVERY)
def test_a_field_in_segments_stays_one_under_a_control(document):
    @dataclass(frozen=True)
    class Parts(NetworkField):
        segment: int | None = None
        asked: list[int | None] = field(default_factory=list)

        def within(self, segment: int, /) -> "Parts":
            return Parts(self.predict, self.target, segment, self.asked)

        def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
            self.asked.append(self.segment)
            return super().__call__(x, t)

    parts = Parts(gaussian(1.0, 0.5), target.Velocity().build(STRAIGHT))
    sampler.Segmented(segments=3, within=sampler.Euler()).sample(
        built(document).over(parts), draws(1), torch.linspace(0, 1, 7)
    )
    assert parts.asked == [0, 0, 1, 1, 2, 2]


def test_single_precision_stays_so_on_a_grid_of_double_precision():
    plain = known(lambda x, _: x)
    for document in (PULL, TRANSPORT, COST):
        over = built(document).over(plain)
        assert over(draws(1).float(), torch.full((NUM,), 0.2, dtype=torch.float64)).dtype == torch.float32


def test_a_user_s_control_gets_what_its_constructor_asks_for():
    picture, condition = draws(2), Condition(label=torch.arange(NUM))
    inputs = ControlInputs(STRAIGHT, condition, lambda: None, picture)
    wind = read(WIND).build(inputs)
    assert isinstance(wind, Wind)
    assert wind.condition is condition
    assert isinstance(wind.over(FIELDS["network"]), Shifted)
    needs = read({**WIND, "class": f"{OWN}:NeedsPicture"}).build(inputs)
    assert isinstance(needs, NeedsPicture)
    assert needs.picture is picture


def test_who_needs_a_picture_says_so_and_is_refused_without_one():
    own = {name: {**WIND, "class": f"{OWN}:{name}"} for name in ("NeedsPicture", "TakesPicture")}
    nothing = ControlInputs(STRAIGHT, UNCONDITIONAL, lambda: None)
    for document in (PULL, TRANSPORT, own["NeedsPicture"]):
        assert read(document).needs_picture
        with pytest.raises(ValueError, match=r"^.*: it leads to a picture, .*; use the edit verb"):
            read(document).build(nothing)
    for document in (WIND, COST, own["TakesPicture"]):
        assert not read(document).needs_picture
    assert isinstance(read(own["TakesPicture"]).build(nothing), TakesPicture)


@pytest.mark.parametrize("document", [PULL, TRANSPORT])
def test_paths_with_noise_of_their_own_are_refused(document):
    noisy = path.StochasticInterpolantConfig().build()
    with pytest.raises(ValueError, match=r"^(pull|transport): .* noise of its own; use a run"):
        built(document, noisy)


@each(
    "document",
    [
        {"kind": "pull", "strength": 1.1},
        {"kind": "pull", "strength": True},
        {"kind": "pull", "start": 0.5, "stop": 0.25},
        {"kind": "pull", "end": "noise"},
        {"kind": "transport", "strength": -0.1},
        {"kind": "transport", "longest": 0},
        {"kind": "transport", "stop": 1.5},
        {"kind": "push"},
        {"class": f"{OWN}:NoControl"},
        {"class": f"{OWN}:Wind"},
        {"class": f"{OWN}:Wind", "strength": 1, "path": "linear"},
    ],
)
def test_wrong_settings_are_refused(document):
    with pytest.raises(ValidationError):
        read(document)
