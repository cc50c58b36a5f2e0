"""Everything that the benchmark of FLAIR measures on 8 x 8 digits; see tests/benchmarks/methods/flair.py."""

import math
from collections import defaultdict
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from tests.benchmarks.methods.immiscible import digits
from tests.benchmarks.methods.inverse_rivals import guided, replacement
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, follow, rows, train
from trainer.config.model.mlp import AutoencoderConfig
from trainer.config.run import RunConfig
from trainer.evaluation.quality import energy_distance
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.context import BoxesConfig, Space
from trainer.flow.inverse import (
    Flair,
    FlairConfig,
    Weight,
    agreeing,
    calibrated,
    calibration_errors,
    calibration_levels,
    constant,
)
from trainer.flow.operator import AveragePool, Mask, MaskConfig, Operator
from trainer.flow.path import Linear
from trainer.flow.sampler import Field
from trainer.model.autoencoder import Autoencoder
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised
from trainer.sampling.flow import Latents
from trainer.task import ReconstructionTask

SHAPE, LEARNED, CALIBRATION = (1, 8, 8), 1500, 256
STEPS, BATCH, OCTAVES, EVALUATIONS, SETS = 4000, 256, 4, 50, 5
STEP_SIZES = (0.1, 0.2, 0.4, 0.8, 1.6)
VAE = AutoencoderConfig(hidden=32, num_layers=2, latent_channels=4, factor=4, kl_weight=1e-3)
TASKS: dict[str, Any] = {"4 x 4 hole": MaskConfig(), "half the resolution": AveragePool()}
BOXES = "two boxes"
FLAIR, SOFT, FRESH, CONSTANT = "FLAIR", "soft consistency", "no trajectory adjustment", "constant weight, same mean"
SETTINGS: dict[str, dict[str, Any]] = {
    FLAIR: {},
    SOFT: {"consistency": "soft"},
    FRESH: {"trajectory_adjustment": False},
    CONSTANT: {"weight": "constant"},
    "none of the three": {"consistency": "soft", "trajectory_adjustment": False, "weight": "constant"},
    "scale 1": {"scale": 1.0},
    "100 evaluations": {"steps": 100},
}
PINV, REPLACEMENT, GUIDANCE, MEAN, TRAINED = (
    "pseudo-inverse",
    "replacement",
    "gradient guidance",
    "mean fill",
    "trained",
)
Tables = dict[str, dict[str, dict[str, list[float]]]]
"""Figures by table, row and column, one for each seed."""


class Reader(nn.Module):
    """A perceptron that reads waves of the time and a context.

    Args:
        seed: of the initial weights.
        num_values: of a state.
        num_context_values: of a context.
    """

    def __init__(self, seed: int, num_values: int = 64, num_context_values: int = 0) -> None:
        super().__init__()
        beside = 2 * OCTAVES + num_context_values
        self.network = PlainNetwork(num_values, hidden=256, layers=3, seed=seed, num_context_values=beside)
        self.frequencies = math.pi * 2.0 ** torch.arange(OCTAVES)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See `PlainNetwork`."""
        angle = t.to(x_t.dtype)[:, None] * self.frequencies
        read = [angle.sin(), angle.cos()]
        if condition.context is not None:
            read.append(condition.context.flatten(1))
        return self.network(x_t, t, Condition(context=torch.cat(read, dim=1)))


class Measurement:
    """Everything of one seed.

    Args:
        seed: of the split, the networks and all draws.
        found: where figures go.
    """

    def __init__(self, seed: int, found: Tables) -> None:
        self.seed, self.found = seed, found
        order = torch.randperm(1797, generator=torch.Generator().manual_seed(seed))
        self.learned, self.truth = digits(centred=False)[order].reshape(-1, *SHAPE).split([LEARNED, 1797 - LEARNED])
        self.keys = fold_in(torch.tensor(1000 + seed), torch.arange(len(self.truth)))
        self.path = Linear()

    def run(self) -> None:
        """Trains and restores."""
        network = train(flow_task(), rows(self.learned), Reader(self.seed), **self._training(STEPS))
        field = field_of(network)
        errors = calibration_errors(field, self.learned[:CALIBRATION], self.path, self.keys[:CALIBRATION])
        for name, config in TASKS.items():
            self._in_pixels(name, self._operator(config), field, errors)
        self._boxes(field, errors)
        self._in_latents()

    def _in_pixels(self, task: str, operator: Operator, field: Field, errors: Tensor) -> None:
        observed = operator.apply(self.truth)
        self._note(task, "true images", self.truth, operator, energies=[self._energy(self.truth)])
        self._note(task, PINV, operator.pseudo_inverse(observed), operator)
        for name, settings in SETTINGS.items():
            config = settings_of(settings)
            solver = self._solver(config, errors)
            agreement = config.agreement(operator, observed)
            sets = [solver.solve(field, agreement, keys=fold_in(self.keys, number)).states for number in range(SETS)]
            self._note(task, name, sets[0], operator, [self._energy(one) for one in sets], ratio=solver.largest_ratio)
            if name == FLAIR:
                self._note(task, "mean of 4 restorations", torch.stack(sets[:4]).mean(0), operator)
        noises = [self._noise(number) for number in range(SETS)]
        replaced = [
            agreeing(operator, observed, replacement(field, noise, operator, observed, EVALUATIONS)) for noise in noises
        ]
        self._note(task, REPLACEMENT, replaced[0], operator, [self._energy(one) for one in replaced])
        tried = {size: guided(field, noises[0], operator, observed, EVALUATIONS, size=size) for size in STEP_SIZES}
        best = min(tried, key=lambda size: self._error(agreeing(operator, observed, tried[size])))
        drawn = [
            agreeing(operator, observed, guided(field, noise, operator, observed, EVALUATIONS, size=best))
            for noise in noises
        ]
        self._note(task, GUIDANCE, drawn[0], operator, [self._energy(one) for one in drawn], **{"step size": best})

    def _boxes(self, field: Field, errors: Tensor) -> None:
        operator = self._operator(MaskConfig(mask=BoxesConfig()))
        assert isinstance(operator, Mask)
        observed = operator.apply(self.truth)
        agreement = FlairConfig().agreement(operator, observed)
        solver = self._solver(FlairConfig(), errors)
        sets = [solver.solve(field, agreement, keys=fold_in(self.keys, number)).states for number in range(4)]
        task = flow_task({"context": {"kind": "inpainting", "mask": {"kind": "boxes"}}}, model={"kind": "dit"})
        network = train(task, rows(self.learned), Reader(self.seed, 64, 128), **self._training(STEPS))
        seen = Condition(context=torch.cat([observed, operator.hole.float()], dim=1))
        drawn = [follow(task, network, self._noise(number), EVALUATIONS, condition=seen).final for number in range(4)]
        filled = {
            FLAIR: sets[0],
            "FLAIR, mean of 4": torch.stack(sets).mean(0),
            REPLACEMENT: replacement(field, self._noise(0), operator, observed, EVALUATIONS),
            TRAINED: drawn[0],
            "trained, mean of 4": torch.stack(drawn).mean(0),
            MEAN: self.learned.mean(0).expand_as(self.truth),
        }
        for name, images in filled.items():
            completed = agreeing(operator, observed, images)
            wrong = (completed - self.truth).square().masked_select(operator.hole).mean()
            self._figures(BOXES, name, {"squared error over the hole": wrong, "energy": self._energy(completed)})

    def _in_latents(self) -> None:
        space = self._autoencoder()
        states = space.encode(self.learned, generator=self._generator(7))
        network = train(flow_task(), rows(states), Reader(self.seed, 16), **self._training(STEPS // 2))
        field = field_of(network)
        errors = calibration_errors(field, states[:CALIBRATION], self.path, self.keys[:CALIBRATION])
        chosen, weight = calibrated(errors, FlairConfig().scale), (1 / errors.mean(0))
        least = Weight(calibration_levels(), chosen.scale * (weight - weight.min()) / weight.mean(), chosen.scale)
        for task, config in TASKS.items():
            operator, table = self._operator(config), f"{task}, in latents"
            observed = operator.apply(self.truth)
            shown = space.decode(space.encode(self.truth, generator=self._generator(8)))
            self._note(table, "true images, decoded", shown, operator, [self._energy(shown)])
            initial = space.encode(operator.pseudo_inverse(observed), generator=self._generator(9))
            for name, own, iterations in (
                (FLAIR, chosen, 1),
                ("least weight taken away", least, 1),
                ("15 iterations", chosen, 15),
            ):
                settings = FlairConfig(iterations=iterations)
                agreement = settings.agreement(operator, observed, decode=space.decode, initial=initial)
                solver = Flair(self.path, own)
                found = solver.solve(field, agreement, keys=self.keys).states
                images = space.decode(found)
                told = {"ratio": solver.largest_ratio, "vanished": float(own.vanished)}
                self._note(table, name, images, operator, [self._energy(images)], **told)
                back = agreeing(operator, observed, images)
                self._note(table, f"{name}, put back", back, operator, [self._energy(back)])

    def _autoencoder(self) -> Space:
        coder = initialised(Autoencoder(NetworkSpec(config=VAE, state_shape=SHAPE)), self.seed)
        document = {"run": {"dir": "unused"}, "optim": {"steps": 1, "global_batch": 1}, "model": VAE.model_dump()}
        task = ReconstructionTask(RunConfig.model_validate(document))
        settings: dict[str, Any] = {"steps": 800, "batch": 128, "lr": 3e-3, "seed": self.seed, "ema": 0.99}
        trained = train(task, rows(self.learned), coder, **settings).requires_grad_(False)
        assert isinstance(trained, Autoencoder)
        mean, log_variance = trained.encode(self.learned)
        assert log_variance is not None
        shift = mean.mean((0, 2, 3))
        scale = ((mean - shift.reshape(-1, 1, 1)).square() + log_variance.exp()).mean((0, 2, 3)).sqrt()
        return Latents(trained, shift.tolist(), scale.tolist())

    def _solver(self, config: FlairConfig, errors: Tensor) -> Flair:
        if config.weight == "calibrated":
            return config.build(path=self.path, errors=errors)
        levels = torch.linspace(1, config.last, config.steps + 2, dtype=torch.float64)[1:-1]
        same = float(calibrated(errors, config.scale).at(levels).mean())
        adjusts = FlairConfig(trajectory_adjustment=config.trajectory_adjustment)
        return Flair(self.path, constant(same), adjusts)

    def _operator(self, config: Any) -> Operator:
        return config.build(SHAPE, torch.arange(len(self.truth)), seed=self.seed)

    def _training(self, steps: int) -> dict[str, Any]:
        return {"steps": steps, "batch": BATCH, "lr": 1e-3, "seed": self.seed}

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * number + self.seed)

    def _noise(self, number: int) -> Tensor:
        return torch.randn(self.truth.shape, generator=self._generator(100 + number))

    def _error(self, images: Tensor) -> float:
        return float((images - self.truth).square().mean())

    def _energy(self, images: Tensor) -> float:
        return energy_distance(images.flatten(1).numpy(), self.learned.flatten(1).numpy())

    def _note(
        self,
        table: str,
        row: str,
        images: Tensor,
        operator: Operator,
        energies: list[float] | None = None,
        **more: float,
    ) -> None:
        residual = (operator.apply(images) - operator.apply(self.truth)).square().mean()
        energy = {} if energies is None else {"energy": fmean(energies)}
        self._figures(table, row, {"squared error": self._error(images), "residual": residual, **energy, **more})

    def _figures(self, table: str, row: str, figures: dict[str, Any]) -> None:
        for name, value in figures.items():
            self.found[table][row][name].append(float(value))


def settings_of(settings: dict[str, Any]) -> FlairConfig:
    """A configuration at the number of evaluations of this benchmark."""
    return FlairConfig(**{"steps": EVALUATIONS, **settings})


def field_of(network: nn.Module) -> Field:
    """The field of a network that predicts velocities along straight paths."""
    return flow_task().parts.field(network, UNCONDITIONAL, 1.0)


def empty() -> Tables:
    """Tables that begin when a figure is noted."""
    return defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
