"""Which parts of a flow go together: all of them tried, those accepted trained, those refused shown not to work."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, product, starmap
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.benchmarks import compositions
from tests.each import each
from tests.trainer.flow.paths import AFFINE, ALL, NOISY
from tests.trainer.flow.paths import name as path_name
from tests.trainer.flow.unions import OF_LETTERS, members
from trainer.config.model.mlp import AutoencoderConfig
from trainer.config.rules.cautions import of_composition
from trainer.config.rules.composition import ALTERNATIVES, QUANTITIES, Composition, reasons
from trainer.config.rules.objection import message, refuse
from trainer.config.rules.pairing import of_context
from trainer.config.rules.partners import ADVICE, name, objections, partners
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.data import build as build_data
from trainer.flow import UNCONDITIONAL, Condition, control, coupling, objective, path, sampler, target
from trainer.flow.coupling import Pairs
from trainer.flow.target.conversion import convert
from trainer.model.autoencoder import Autoencoder
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised
from trainer.sampling.flow import Latents
from trainer.task import FlowTask

SIZE = 8
HEADS: dict[str, dict[str, Any]] = {
    "plain": {"model": {"kind": "mlp"}, "data": {"kind": "toy"}},
    "guided": {"model": {"kind": "mlp"}, "data": {"kind": "toy", "classes": True}, "sample": {"guidance": 1.5}},
    "context": {"data": {"kind": "digits"}, "flow": {"context": {"kind": "inpainting"}}},
    "latent": {
        "data": {"kind": "digits"},
        "flow": {"latent": {"path": "latents", "shape": (2, 2, 2), "image_shape": (1, 8, 8), "digest": "0"}},
    },
}
"""What stands between network and field; that of two fields follows from the target."""

PATHS = tuple(
    next(known for known in AFFINE if known.kind == "tabulated") if one.kind == "tabulated" else one
    for one in ALTERNATIVES["path"]
    if one.kind not in OF_LETTERS
)
TARGETS = tuple(one for one in ALTERNATIVES["target"] if one.kind not in OF_LETTERS)

STEADY = [one for one in AFFINE if not isinstance(one, path.VariancePreservingConfig | path.DiffusionStepsConfig)]
"""Paths of two ends whose velocity is finite at both."""

COUPLINGS = tuple(one for one in ALTERNATIVES["coupling"] if not (one.labels_in_state or one.encodes_captions))
"""Others have states with a label beside the data, or begin at captions; what goes with them is in test_states."""
couplings = pytest.mark.parametrize("coupled", COUPLINGS, ids=lambda one: one.kind)
paths = pytest.mark.parametrize("along", PATHS, ids=lambda one: one.kind)
targets = each("predicted", TARGETS, ids=lambda one: one.kind)
whole = pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["cover", "whole"])
"""All compositions, or so many that every two of their parts are together in one."""


DEFAULT = Composition(
    coupling.Independent(), path.LinearConfig(), target.Velocity(), objective.Regression(), sampler.Euler(steps=2)
)


def complaint(parts: Composition) -> str | None:
    """The first objection, as a person reads it."""
    return next(starmap(message, objections(parts)), None)


def composition(**parts: Any) -> Composition:
    return replace(DEFAULT, **parts)


def configuration(parts: Composition, head: str) -> RunConfig:
    flow = {name: getattr(parts, name).model_dump(mode="json") for name in ("coupling", "path", "target", "objective")}
    sections = HEADS[head]
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "dit", "hidden": 16, "num_heads": 4},
        "optim": {"steps": 1, "global_batch": 8},
        **sections,
        "flow": {**flow, **sections.get("flow", {})},
        "sample": {**sections.get("sample", {}), "sampler": parts.sampler.model_dump()},
    }
    return RunConfig.model_validate(document)


class Tiny(nn.Module):
    """One layer over state, time, class and context, shaped by the first call."""

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.layer: nn.Linear | None = None

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predicts as a `Target` says."""
        read = [x_t.flatten(1), t[:, None]]
        read += [] if condition.label is None else [condition.label[:, None].float()]
        read += [] if condition.context is None else [condition.context.flatten(1)]
        seen = torch.cat(read, dim=1)
        if self.layer is None:
            self.layer = nn.Linear(seen.shape[1], self.num_fields * x_t[0].numel())
        return self.layer(seen).reshape(len(x_t), self.num_fields * x_t.shape[1], *x_t.shape[2:])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def latents() -> Latents:
    config = AutoencoderConfig(hidden=8, num_layers=2, latent_channels=2, factor=4)
    return Latents(
        initialised(Autoencoder(NetworkSpec(config=config, state_shape=(1, 8, 8))), 0).eval(), (0.0, 0.0), (1.0, 1.0)
    )


def task_of(config: RunConfig) -> FlowTask:
    """The task of a configuration whose autoencoder is in no folder."""
    assert config.flow is not None
    if config.flow.latent is None:
        return FlowTask(config)
    task = FlowTask(config.model_copy(update={"flow": config.flow.model_copy(update={"latent": None})}))
    task.parts.space = latents()
    return task


@cache
def examples(head: str) -> Batch:
    data = build_data(configuration(composition(), head).data)
    return data.get(torch.arange(SIZE))


def assert_it_trains_and_draws(parts: Composition, head: str) -> None:
    config, batch = configuration(parts, head), examples(head)
    task = task_of(config)
    if isinstance(parts.coupling, coupling.Paired):
        batch = Batch(batch.x_1, batch.labels, batch.ids, x_0=torch.randn(batch.x_1.shape, generator=generator(1)))
    (drawn,) = task.draw([batch], [generator(2)])
    network = Tiny(task.parts.target.num_fields)
    task.loss(network, drawn)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    losses = task.loss(network, drawn).per_example
    weights = torch.ones(SIZE) if drawn.log_weight is None else drawn.log_weight.softmax(0) * SIZE
    (losses * weights).mean().backward()
    optimizer.step()
    assert bool(losses.isfinite().all())
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    guidance = getattr(config.sample, "guidance", 1.0)
    with torch.no_grad():
        field = task.parts.field(network, drawn.condition, guidance)
        start = torch.randn(drawn.sample.x_t.shape, generator=generator(3))
        follows = parts.sampler.build(task.parts.path)
        found = follows.sample(field, start, parts.sampler.grid(), keys=torch.arange(SIZE))
    assert bool(task.parts.space.decode(found.final).isfinite().all())


def every_partner(parts: Composition) -> list[Composition]:
    """The compositions with each partner that a complaint lists, after a look that it lists them."""
    (broken, _), refusal = next(reasons(parts)), complaint(parts)
    assert refusal is not None
    found = []
    for part, fitting in partners(parts, broken).items():
        assert all(name(one) in refusal.partition("; use ")[2] for one in fitting)
        found += [replace(parts, **{part: one}) for one in fitting]
    assert found
    assert all(complaint(other) != refusal for other in found)
    return found


@cache
def accepted_before_sampling() -> list[tuple[Any, Any, Any]]:
    """Paths, targets and couplings of which none speaks against another; first those that have nearly all pairs."""
    every = [
        one
        for one in product(PATHS, TARGETS, COUPLINGS)
        if complaint(composition(path=one[0], target=one[1], coupling=one[2])) is None
    ]
    return sorted(every, key=lambda one: one[2] != in_turn(COUPLINGS, (PATHS, one[0]), (TARGETS, one[1])))


def in_turn(values: Sequence[Any], *others: tuple[Sequence[Any], Any]) -> Any:
    """One of some values; another one where one of the others moves on by one in its sequence."""
    return values[sum(sequence.index(one) for sequence, one in others) % len(values)]


@whole
@couplings
@paths
def test_what_is_accepted_trains_and_draws_and_what_is_refused_names_its_partners(along, coupled, whole):
    given = (PATHS, along), (COUPLINGS, coupled)
    for predicted, head in product(TARGETS, HEADS):
        if not whole and head != in_turn([*HEADS], *given, (TARGETS, predicted)):
            continue
        parts = composition(path=along, target=predicted, coupling=coupled)
        refusal = complaint(parts)
        if refusal is None:
            if not (head == "latent" and isinstance(coupled, coupling.Paired)):
                assert_it_trains_and_draws(parts, head)
            continue
        with pytest.raises(ValueError, match=r"^flow\.(coupling|target)\.kind: .* does not go with flow\."):
            plan_layout(configuration(parts, head), 1)
        every_partner(parts)


@each("along", ALL, ids=path_name)
@targets
def test_settings_are_judged_as_kinds_are(along, predicted):
    """Whatever the settings, a target that is accepted tells the velocity of the points that it is made of."""
    parts, t = composition(path=along, target=predicted), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    refusal = complaint(parts)
    x_0, x_1 = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator())
    built = along.build()
    sample = built.sample(Pairs(x_0, x_1), t, generator=generator(1))
    if refusal is None:
        told = predicted.build(built)
        velocity = told.convert(told.make(sample), sample.x_t, t, "velocity")
        torch.testing.assert_close(velocity, sample.velocity, rtol=1e-6, atol=1e-6)
        return
    if isinstance(predicted, target.VelocityAndNoise):
        assert sample.mirror is None
        both = torch.cat([sample.velocity, sample.noise], 1)
        with pytest.raises(ValueError, match="adds no noise of its own"):
            target.VelocityAndNoise().build(built).convert(both, sample.x_t, t, "score")
        return
    if isinstance(predicted, target.VPrediction):
        c = built.coefficients(t).broadcast(x_0)
        v = c.b * sample.x_0 - c.a * sample.x_1
        assert not torch.allclose(c.b * sample.x_t - c.a * v, sample.x_1)
        return
    told = predicted.build(built)
    with pytest.raises(ValueError, match="noise of its own"):
        told.convert(told.make(sample), sample.x_t, t, "velocity")


@each("along", STEADY, ids=path_name)
@each("drawn", [sampler.Euler(steps=10), sampler.Heun(steps=5)], ids=lambda one: one.kind)
def test_what_tells_one_end_alone_is_told_of_where_a_sampler_asks_at_the_other(along, drawn):
    """Perfect predictions of pairs x_1 = x_0 / 2 end where the velocity itself would, or are spoken against."""
    built, x_0 = along.build(), torch.tensor([[1.0]], dtype=torch.float64)

    def end(predicted: target.Config) -> float:
        told = predicted.build(built)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            c = built.coefficients(t).broadcast(x)
            start = x / (c.a + c.b / 2)
            sample = built.sample(Pairs(start, start / 2), t, generator=generator())
            return told.convert(told.make(sample), x, t, "velocity")

        times = drawn.grid().double()
        return float(drawn.build(built).sample(cast(sampler.Field, velocity), x_0, times).final)

    for predicted in TARGETS:
        parts = composition(path=along, target=predicted, sampler=drawn)
        broken = next(reasons(parts), None)
        line = None if broken else next(starmap(message, of_composition(configuration(parts, "plain"))), None)
        if broken is None and line is None:
            assert end(predicted) == pytest.approx(end(target.Velocity()), abs=1e-6)
        elif not isinstance(predicted, target.VelocityAndNoise | target.VPrediction):
            assert abs(end(predicted) - end(target.Velocity())) > 0.01
            assert line is None or "flow.target.kind velocity" in line.partition("; use ")[2]


@each("coupled", COUPLINGS, ids=lambda one: one.kind)
@each("along", PATHS, ids=lambda one: one.kind)
def test_a_coupling_is_refused_where_no_source_point_is_used(along, coupled):
    x_0, x_1, other = torch.randn(3, 5, 2, generator=generator())
    t = torch.linspace(0.1, 0.9, 5)
    one, same = (along.build().sample(Pairs(start, x_1), t, generator=generator(1)) for start in (x_0, other))
    unused = torch.equal(one.x_t, same.x_t) and torch.equal(one.velocity, same.velocity)
    refusal = complaint(composition(path=along, coupling=coupled))
    assert (refusal is not None) == (unused and coupled.kind != "independent")
    assert refusal is None or "no source point lies on this path" in refusal


@each("coupled", COUPLINGS, ids=lambda one: one.kind)
def test_the_source_tells_the_score_only_where_it_is_independent(coupled):
    """Of a source with E|x_0|^2 = d, E[(-x_0 / a) x_t] is Stein's -d just when source and data are uncorrelated."""
    draws, size, t = 200, 32, torch.tensor(0.5)
    built, random = coupling.build(coupled), generator()
    products, lengths = [], []
    for _ in range(draws):
        x_1 = torch.randn(size, 2, generator=random)
        given = x_1.clone() if isinstance(coupled, coupling.Paired) else None
        pairs = built.draw(x_1, UNCONDITIONAL, x_0=given, generator=random)
        weights = torch.full((size,), 1 / size) if pairs.log_weight is None else pairs.log_weight.softmax(0)
        x_t = (1 - t) * pairs.x_0 + t * pairs.x_1
        products.append((weights * (-pairs.x_0 / (1 - t) * x_t).sum(1)).sum())
        lengths.append((weights * pairs.x_0.square().sum(1)).sum())
    wrong = abs(float(torch.stack(products).mean() + torch.stack(lengths).mean()))
    stochastic = sampler.EulerMaruyama(steps=2)
    refusal = complaint(composition(coupling=coupled, sampler=stochastic))
    if refusal is None:
        assert wrong < 0.1
    else:
        assert wrong > 0.3
        assert "independent of the data" in refusal
    assert complaint(composition(coupling=coupled, target=target.Score())) is None, "its velocity is right"
    without = stochastic.model_copy(update={"diffusion": (0.0, 0.0)})
    noisy = composition(
        path=path.StochasticInterpolantConfig(), target=target.VelocityAndNoise(), coupling=coupled, sampler=stochastic
    )
    assert complaint(noisy) is None
    assert complaint(composition(coupling=coupled, sampler=without)) is None


@whole
@pytest.mark.parametrize(
    "drawn", [one for one in ALTERNATIVES["sampler"] if one.kind != "causal_transition"], ids=lambda one: one.kind
)
def test_every_sampler_draws_from_what_it_is_allowed_to_and_says_what_it_goes_with(drawn, whole):
    drawn = drawn.model_copy(update={"steps": 3}) if hasattr(drawn, "steps") else drawn
    drawn = sampler.Dopri5(rtol=0.1, atol=0.1) if isinstance(drawn, sampler.Dopri5) else drawn
    accepted, seen = 0, set()
    for along, predicted, coupled in accepted_before_sampling():
        parts = composition(path=along, target=predicted, coupling=coupled, sampler=drawn)
        refusal = complaint(parts)
        if refusal is None:
            accepted += 1
            pairs = set(combinations((along.kind, predicted.kind, coupled.kind), 2))
            if whole or not pairs <= seen:
                assert_it_trains_and_draws(parts, "plain")
            seen |= pairs
            continue
        assert refusal.startswith(f"sample.sampler.kind: {drawn.kind}")
        assert "use sample.sampler.kind euler" in refusal
        every_partner(parts)
    assert accepted > 0


@each("along", ALL, ids=path_name)
@each("space", ["data", "velocity"])
def test_a_space_is_compared_where_the_prediction_tells_it(along, space):
    """An accepted space turns a perfect prediction into no error at all; a refused one cannot be computed."""
    x_0, x_1 = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator())
    t, built = torch.tensor([0.2, 0.4, 0.5, 0.6, 0.8], dtype=torch.float64), along.build()
    sample = built.sample(Pairs(x_0, x_1), t, generator=generator(1))
    for predicted in TARGETS:
        if complaint(composition(path=along, target=predicted)) is not None:
            continue
        told = predicted.build(built)
        minimised = objective.Regression(space=space)
        regression = minimised.build(objective.ObjectiveInputs(told))

        def loss(told: target.Target = told, regression: objective.Objective = regression) -> Tensor:
            return regression.loss(lambda *_: told.make(sample), sample, UNCONDITIONAL).per_example

        refusal = complaint(composition(path=along, target=predicted, objective=minimised))
        if refusal is None:
            assert float(loss().max()) < 1e-12
        else:
            assert f"leaves the {space} open" in refusal
            with pytest.raises(ValueError, match="path: "):
                loss()


@each("along", ALL, ids=path_name)
def test_antithetic_points_need_noise_to_reverse(along):
    refusal = complaint(composition(path=along, objective=objective.Regression(antithetic=True)))
    x = torch.randn(2, 4, 2, generator=generator())
    mirror = along.build().sample(Pairs(x[0], x[1]), torch.full((4,), 0.5), generator=generator()).mirror
    assert (refusal is None) == (mirror is not None) == (along in NOISY)
    assert refusal is None or "use flow.objective.kind regression, " in refusal


def test_every_kind_of_every_part_is_among_the_alternatives():
    of_features = {objective.Aligned, objective.FeatureResidual}  # what they ask of a network is in blockwise
    of_maps = {objective.MongeMap}  # replaces no other: sampler and times are its own; in test_refusals.py
    taught = {objective.VelocityDistillation, objective.ConsistencyDistillation}  # in test_distillation.py
    of_heads = {"objective": {objective.Transition}, "sampler": {sampler.Transition}}
    encoding = {objective.EncodedSource}  # with its coupling and networks in test_refusals.py
    of_chains = {objective.CausalTransition}  # with its sampler in test_refusals.py
    for part, union in (
        ("coupling", coupling.Config),
        ("path", path.Config),
        ("target", target.Config),
        ("objective", objective.Config),
        ("sampler", sampler.Config),
    ):
        found = {type(one) for one in ALTERNATIVES[part]}
        elsewhere = of_features | of_maps | taught | encoding | of_chains if part == "objective" else set()
        elsewhere |= of_heads.get(part, set())
        elsewhere |= {coupling.Ends} if part == "coupling" else set()  # of reactions alone; in test_refusals.py
        assert found | elsewhere == set(members(union))
    within = next(type(one) for one in ALTERNATIVES["sampler"] if one.kind == "segmented").model_fields["within"]
    others = {sampler.Segmented, sampler.Renoise, sampler.CausalTransition}  # of no segment
    assert {type(one) for one in ALTERNATIVES["sampler"]} == {*get_args(within.annotation), *others}
    assert {type(one) for one in compositions.SAMPLERS} == set(get_args(within.annotation)), "the cover lacks some"


def test_latents_are_learned_from_pairs_of_the_same_latents_alone(tmp_path: Path) -> None:
    parts = composition(coupling=coupling.Paired())
    config = configuration(parts, "latent")
    batch = examples("latent")
    pairs = Batch(batch.x_1, batch.labels, batch.ids, x_0=torch.randn(batch.x_1.shape))
    with pytest.raises(ValueError, match=r"x_0: shape .* is not that of x_1"):
        task_of(config).draw([pairs], [generator()])
    data = {"kind": "pairs", "path": tmp_path, "held_out": 1, "shape": (1, 8, 8), "num_classes": 0, "segments": None}

    def learning(**changes: Any) -> RunConfig:
        return RunConfig.model_validate({**config.model_dump(), "data": {**data, "digest": "0", **changes}})

    with pytest.raises(ValueError, match=r"^flow\.latent: is latents, .* hold no latents; leave it out$"):
        refuse(of_context(learning()))
    refuse(of_context(learning(shape=(2, 2, 2), latents="0")))
    with pytest.raises(
        ValueError, match=r"^flow\.latent: .* hold latents of a folder whose index is 1; give it the path"
    ):
        refuse(of_context(learning(shape=(2, 2, 2), latents="1")))


def test_a_path_without_coefficients_goes_with_what_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bent(path.Affine):
        affine = False

        def coefficients(self, t: Tensor) -> path.Coefficients:
            raise ValueError(f"path: not of the form a x_0 + b x_1 + g z at {t}; predict the velocity")

    monkeypatch.setattr("trainer.config.rules.composition.built", lambda _: Bent(path.linear))
    plain = composition(coupling=coupling.Assignment(), objective=objective.Regression(space="velocity"))
    assert complaint(plain) is None
    reasons = {
        "without coefficients of the path": {"target": target.Noise()},
        "v_prediction is defined on": {"target": target.VPrediction()},
        "no noise of its own": {"target": target.VelocityAndNoise()},
        "leaves the data open": {"objective": objective.Regression(space="data")},
        "needs the coefficients of the path": {"objective": objective.FeatureResidual()},
        "it needs the data": {"sampler": sampler.FirstOrder(steps=2)},
        "it needs the score": {"sampler": sampler.EulerMaruyama(steps=2)},
    }
    for reason, parts in reasons.items():
        refusal = complaint(composition(**parts))
        assert refusal is not None
        assert reason in refusal


@each("along", ALL, ids=path_name)
@targets
def test_advice_is_given_where_an_error_of_the_prediction_grows_without_bound(along, predicted):
    """The growth of an error near an end, by finite differences of the conversion at 0.012 and 0.12 from it."""
    if complaint(composition(path=along, target=predicted)) is not None:
        return
    built = along.build()
    told, x = predicted.build(built), torch.zeros(2, 1, dtype=torch.float64)

    def growth(t: Tensor) -> Tensor:
        value = torch.zeros(2, told.num_fields, dtype=torch.float64)
        none, one = (told.convert(value + shift, x, t, "velocity") for shift in (0.0, 1.0))
        return (one - none).abs()[:, 0]

    for rule, drawn, end in zip(ADVICE, (sampler.Euler(), sampler.Heun()), (0.0, 1.0), strict=True):
        near, far = growth(torch.tensor([abs(end - 0.012), abs(end - 0.12)], dtype=torch.float64)).tolist()
        advised = any(rule(composition(path=along, target=predicted, sampler=drawn)))
        assert advised == (near > 6 * far and near > 30)


CONTROL = control.CostGradientConfig.model_validate({"cost": {"subjects": [[0], [1]]}})


@each("along", PATHS, ids=lambda one: one.kind)
def test_controls_go_with_samplers_whose_quantities_follow_from_the_velocity(along: path.Config) -> None:
    """What a control changes is the velocity; whether it gives the rest is found by converting one."""
    built, x, t = along.build(), torch.randn(4, 2, generator=generator()), torch.linspace(0.2, 0.8, 4)
    for drawn in ALTERNATIVES["sampler"]:
        parts = composition(
            path=along, target=target.VelocityAndNoise() if built.has_noise else target.Velocity(), sampler=drawn
        )
        if complaint(parts) is not None:
            continue
        asked = QUANTITIES.get(type(drawn), ("velocity",))
        try:
            for quantity in asked:
                convert(torch.ones_like(x), x, t, built, source="velocity", to=quantity)
            possible = True
        except ValueError:
            possible = False
        refusal = complaint(replace(parts, controls=(CONTROL,)))
        assert (refusal is None) == possible
        if refusal is not None:
            assert refusal.startswith("sample.controls: [cost_gradient] does not go with sample.sampler.kind ")
            assert "use sample.controls []" in refusal


@pytest.mark.parametrize(
    ("learned", "drawn"),
    [(objective.Transition(), sampler.Transition()), (objective.CausalTransition(), sampler.CausalTransition())],
    ids=["transition", "causal_transition"],
)
def test_controls_are_refused_where_samples_follow_no_velocity(learned: Any, drawn: Any) -> None:
    parts = composition(objective=learned, sampler=drawn)
    assert complaint(parts) is None
    refusal = complaint(replace(parts, controls=(CONTROL,)))
    assert refusal is not None
    assert "draws by a head, which follows none" in refusal
    assert refusal.count("\n") == 0
    assert refusal.split("; use ")[1].startswith("sample.controls []")
    named = partners(replace(parts, controls=(CONTROL,)), ("controls", "sampler", "objective")).get("sampler", ())
    assert all(complaint(replace(parts, sampler=one, controls=(CONTROL,))) is None for one in named)
