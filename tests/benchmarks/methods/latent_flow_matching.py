"""Latent flow matching on 8 x 8 digits: python -m tests.benchmarks.methods.latent_flow_matching

Two autoencoders of 16 values: principal components of unit variance, and a small variational one that is trained here.
A perceptron of three layers learns their latents, told the class, an image with a hole in its middle, or a map of three
levels of brightness. What is drawn is compared with real digits; a Fréchet distance has two floors beside it, that of
what the autoencoder makes of the real digits, and that of real digits that were held out. Excess is over the first.
All is drawn by 5, 20 and 100 steps of Euler's method, of one evaluation each, or two where guidance is not 1; the bars
are for 20. The rival is the same perceptron on pixels, trained for as many steps.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, follow, frechet_distance, rows, train
from trainer.config.model.mlp import AutoencoderConfig
from trainer.config.run import RunConfig
from trainer.data import SPLITS, DigitsConfig
from trainer.evaluation.quality import ClassJudge
from trainer.flow import Condition
from trainer.flow.context import SemanticMap, Space
from trainer.model.autoencoder import Autoencoder
from trainer.model.conditioning import SpatialRescaler
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised
from trainer.sampling.flow import Coder, Latents
from trainer.task import FlowTask, ReconstructionTask

VALUES, CLASSES, BATCH = 16, 10, 256
EVALUATIONS, GUIDANCES = (5, 20, 100), (1.0, 1.5)
STEPS, INPAINTING_STEPS = 1200, 2400
"""With a hole to fill the network also learns what to make of the rest; after 1,200 steps its error still falls."""
MAP = SemanticMap(levels=3, block=2)
VAE = AutoencoderConfig(hidden=32, num_layers=2, latent_channels=4, factor=4, kl_weight=1e-3)
FLAT_VAE = VAE.model_copy(update={"latent_channels": 1, "factor": 2})
"""As many values, but each of them in the place of four pixels, so that a map keeps its meaning."""
OF_MAPS = "variational, 4 x 4, map: drawn, 20 steps"

Rows = dict[str, dict[str, list[float]]]


class Components(nn.Module):
    """The first principal components of images, as an autoencoder without noise."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        flat = images.flatten(1)
        self.mean, self.shape = flat.mean(0), images.shape[1:]
        self.directions = torch.linalg.svd(flat - self.mean, full_matrices=False).Vh[:VALUES]

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """Components [B, 16, 1, 1]."""
        return ((images.flatten(1) - self.mean) @ self.directions.T)[..., None, None], None

    def decode(self, latents: Tensor) -> Tensor:
        """Images."""
        return (latents.flatten(1) @ self.directions + self.mean).unflatten(1, self.shape)


class ToldOfMaps(nn.Module):
    """A perceptron beside the state and what a trained layer makes of a map."""

    def __init__(self, state: tuple[int, ...], seed: int) -> None:
        super().__init__()
        channels, height, width = state
        halvings = (8 // height).bit_length() - 1
        self.read = initialised(SpatialRescaler(MAP.levels, channels, halvings), seed)
        values = channels * height * width
        self.network = PlainNetwork(
            values, hidden=256, layers=3, seed=seed, num_classes=CLASSES, num_context_values=values
        )

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See `PlainNetwork`."""
        assert condition.context is not None
        read = self.read(x_t, condition.context)[:, x_t.shape[1] :]
        return self.network(x_t, t, replace(condition, context=read))


class Measurement:
    """All runs of one seed."""

    def __init__(self, seed: int, found: Rows) -> None:
        digits = DigitsConfig(held_out=360, size=8).open()
        learned, held_out = (digits.get(digits.indices(split)) for split in SPLITS)
        assert learned.labels is not None
        assert held_out.labels is not None
        self.images, self.labels = learned.x_1, learned.labels
        self.held_out, self.held_out_labels = held_out.x_1, held_out.labels
        self.seed, self.found = seed, found

    def run(self) -> None:
        """Trains and judges everything."""
        floor = frechet_distance(self.held_out.numpy(), self.images.numpy())
        self._note("360 real digits that were held out", frechet=floor)
        pixels = flow_task({}, model={"kind": "dit"})
        self._classes("pixels", pixels, pixels.parts.space, reconstructed=self.images)
        components, vae, flat = Components(self.images), self._trained(VAE), self._trained(FLAT_VAE)
        coders: dict[str, Coder] = {"components": components, "variational": vae, "variational, 4 x 4": flat}
        spaces = {name: self._space(coder) for name, coder in coders.items()}
        for name in ("components", "variational"):
            space = spaces[name]
            reconstructed = space.decode(space.encode(self.images, generator=self._generator()))
            self._note(f"{name}: reconstructed", frechet=frechet_distance(reconstructed.numpy(), self.images.numpy()))
            self._classes(name, flow_task({}, model={"kind": "dit"}), space, reconstructed)
            self._inpainting(name, space)
        self._maps("variational, 4 x 4", spaces["variational, 4 x 4"])

    def _classes(self, name: str, task: FlowTask, space: Space, reconstructed: Tensor) -> None:
        task.parts.space = space
        network = self._network(task, self._states(space).shape[1:], context_values=0)
        floor = frechet_distance(reconstructed.numpy(), self.images.numpy()) if name != "pixels" else 0.0
        for guidance, evaluations in product(GUIDANCES, EVALUATIONS):
            drawn = self._drawn(task, network, Condition(label=self.labels), guidance, evaluations)
            distance = frechet_distance(drawn.numpy(), self.images.numpy())
            figures = {"accuracy": self._accuracy(drawn, self.labels), "frechet": distance, "excess": distance - floor}
            self._note(f"{name}, guidance {guidance:g}, {evaluations} steps", **figures)

    def _inpainting(self, name: str, space: Space) -> None:
        task = flow_task({"context": {"kind": "inpainting", "mask": {"kind": "centre"}}}, model={"kind": "dit"})
        task.parts.space = space
        assert task.parts.context is not None
        seen = task.parts.context.draw(self.held_out, space, generator=self._generator())
        shape, known = self._states(space).shape[1:], seen.context[0].numel()
        network = self._network(task, shape, context_values=known, steps=INPAINTING_STEPS)
        unlabelled = torch.full((len(self.held_out),), CLASSES)
        condition = Condition(label=unlabelled, context=seen.context)
        filled = {
            **{f"drawn, {count} steps": self._drawn(task, network, condition, 1.0, count) for count in EVALUATIONS},
            "reconstructed": space.decode(space.encode(self.held_out, generator=self._generator())),
            "mean fill": self.images.mean(0).expand_as(self.held_out),
        }
        for how, images in filled.items():
            completed = seen.completed(images)
            wrong = (completed - self.held_out).square().masked_select(seen.hole).mean()
            self._note(
                f"{name}, inpainting: {how}",
                masked_mse=float(wrong),
                frechet=frechet_distance(completed.numpy(), self.images.numpy()),
                accuracy=self._accuracy(completed, self.held_out_labels),
            )

    def _maps(self, name: str, space: Space) -> None:
        task = flow_task({"context": MAP.model_dump()}, model={"kind": "dit"})
        task.parts.space = space
        assert task.parts.context is not None
        seen = task.parts.context.draw(self.held_out, space, generator=self._generator())
        states = self._states(space)
        untrained = ToldOfMaps(tuple(states.shape[1:]), self.seed)
        (first,) = task.draw([rows(self.images, self.labels)(BATCH, self._generator())], [self._generator()])
        task.loss(untrained, first).mean().backward()
        assert untrained.read.weight.grad is not None
        gradient = float(untrained.read.weight.grad.norm())
        network = self._fitted(task, untrained)
        unlabelled = torch.full((len(self.held_out),), CLASSES)
        condition = Condition(label=unlabelled, context=seen.context)
        wanted = MAP.block_levels(self.held_out)
        made = {
            **{f"drawn, {count} steps": self._drawn(task, network, condition, 1.0, count) for count in EVALUATIONS},
            "reconstructed": space.decode(space.encode(self.held_out, generator=self._generator())),
            "another digit (chance)": self.held_out.roll(1, 0),
        }
        for how, images in made.items():
            agreement = (MAP.block_levels(images) == wanted).double().mean()
            distance = frechet_distance(images.numpy(), self.images.numpy())
            self._note(f"{name}, map: {how}", agreement=float(agreement), frechet=distance)
        self._note(OF_MAPS, gradient=gradient)

    def _trained(self, config: AutoencoderConfig) -> Autoencoder:
        coder = initialised(Autoencoder(NetworkSpec(config=config, state_shape=(1, 8, 8))), self.seed)
        data = rows(self.images)
        document = {"run": {"dir": "unused"}, "optim": {"steps": 1, "global_batch": 1}, "model": config.model_dump()}
        task = ReconstructionTask(RunConfig.model_validate(document))
        trained = train(task, data, coder, steps=800, batch=128, lr=3e-3, seed=self.seed, ema=0.99)
        assert isinstance(trained, Autoencoder)
        return trained.requires_grad_(False)

    def _space(self, coder: Coder) -> Space:
        mean, log_variance = coder.encode(self.images)
        variance = torch.zeros_like(mean) if log_variance is None else log_variance.exp()
        shift = mean.mean((0, 2, 3))
        scale = ((mean - shift.reshape(-1, 1, 1)).square() + variance).mean((0, 2, 3)).sqrt()
        return Latents(coder, shift.tolist(), scale.tolist())

    def _states(self, space: Space) -> Tensor:
        return space.encode(self.images, generator=self._generator())

    def _network(self, task: FlowTask, state: tuple[int, ...], context_values: int, steps: int = STEPS) -> nn.Module:
        values = torch.Size(state).numel()
        sizes: dict[str, Any] = {"hidden": 256, "layers": 3, "num_classes": CLASSES}
        network = PlainNetwork(values, seed=self.seed, num_context_values=context_values, **sizes)
        return self._fitted(task, network, steps)

    def _fitted(self, task: FlowTask, network: nn.Module, steps: int = STEPS) -> nn.Module:
        if task.parts.context is not None:
            task.label_dropout = 1.0
        data = rows(self.images, self.labels)
        return train(task, data, network, steps=steps, batch=BATCH, lr=1e-3, seed=self.seed, ema=0.99)

    def _drawn(self, task: FlowTask, network: nn.Module, condition: Condition, guidance: float, steps: int) -> Tensor:
        assert condition.label is not None
        shape = self._states(task.parts.space).shape[1:]
        noise = torch.randn(len(condition.label), *shape, generator=self._generator())
        final = follow(task, network, noise, steps, condition=condition, guidance=guidance, seed=self.seed).final
        return task.parts.space.decode(task.parts.data_of(final))

    def _accuracy(self, images: Tensor, labels: Tensor) -> float:
        judge = ClassJudge(self.images.numpy(), self.labels.numpy())
        return judge.accuracy(images.numpy(), labels.numpy())

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1000 + self.seed)

    def _note(self, row: str, **figures: float) -> None:
        for name, value in figures.items():
            self.found[row][name].append(value)


def bars(found: Rows) -> list[Bar]:
    """What the method has to show."""

    def mean(row: str, figure: str) -> float:
        return fmean(found[row][figure])

    each = []
    for name in ("components", "variational"):
        told = f"{name}, guidance 1.5, 20 steps"
        drawn, fill = f"{name}, inpainting: drawn, 20 steps", f"{name}, inpainting: mean fill"
        each += [
            Bar(f"{name}: Fréchet excess", mean(f"{name}, guidance 1, 20 steps", "excess"), 0.3),
            Bar(f"{name}: accuracy at guidance 1.5", mean(told, "accuracy"), 0.95, at_least=True),
            Bar(f"{name}: masked MSE", mean(drawn, "masked_mse"), 0.8 * mean(fill, "masked_mse")),
            Bar(f"{name}: inpainted Fréchet", mean(drawn, "frechet"), 0.2 * mean(fill, "frechet")),
        ]
    least = min(found[OF_MAPS]["gradient"])
    return [
        *each,
        Bar("map: agreement", mean(OF_MAPS, "agreement"), 0.8, at_least=True),
        Bar("map: norm of the first gradient of the layer that reads it", least, 1e-6, at_least=True),
    ]


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    found: Rows = defaultdict(lambda: defaultdict(list))
    for seed in options.seeds:
        Measurement(seed, found).run()
    return show("latent flow matching on 8 x 8 digits", found, bars(found))


if __name__ == "__main__":
    sys.exit(main())
