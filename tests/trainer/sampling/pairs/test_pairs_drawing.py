"""Pairs of teachers whose fields are known by formula."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trainer.data
from tests.trainer.commands import refused
from trainer.checkpoint import pretrained
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.sampling import pairs as pairs_run
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.sampling.pairs import TOGETHER, PairDrawing
from trainer.sampling.pairs_request import PairsRequest

PLACES = torch.tensor([[1.0, 0.0], [-2.0, 1.0], [0.5, 3.0]])
"""Where moon 0, moon 1 and what has no class are pulled to."""


class Pull(nn.Module):
    """v = strength (place of the class - x)."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x: Tensor, _t: Tensor, condition: Condition) -> Tensor:
        places = x.new_zeros(()) if condition.label is None else PLACES[condition.label]
        return self.strength * (places - x)


def configuration(flow: Mapping[str, Any] | None = None, **data: Any) -> RunConfig:
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "data": {"kind": "toy", **data},
        "flow": flow or {},
        "optim": {"steps": 1, "global_batch": 8},
    }
    return RunConfig.model_validate(document)


def drawn(config: RunConfig, numbers: Tensor, strength: float = 0.0, **asked: Any) -> dict[str, Tensor]:
    sampler = {"kind": "euler", "steps": asked.get("segments") or 1}
    request = PairsRequest.model_validate({"run": "unused", "num": 10_000, "sampler": sampler, "seed": 5, **asked})
    model: Any = Pull(strength).eval()
    arrays = PairDrawing(TrainedFlow(config, FlowParts(config), model)).draw(request, numbers, lambda _: None)
    return {name: torch.from_numpy(np.asarray(values)) for name, values in arrays.items()}


@pytest.mark.parametrize("segments", [None, 4])
def test_a_guided_teacher_goes_as_far_beyond_as_it_is_asked(segments: int | None) -> None:
    found = drawn(configuration(classes=True), torch.arange(40), 1.0, segments=segments, guidance=2.0)
    assert set(found["labels"].tolist()) == {0, 1}
    velocity = 2 * PLACES[found["labels"]] - PLACES[2] - found["x_0"]
    torch.testing.assert_close(found["x_1"], found["x_0"] + velocity / (segments or 1))


def test_segments_start_from_training_examples_alone() -> None:
    config, numbers = configuration(num_examples=20, held_out=20, classes=True), torch.arange(200)
    found = drawn(config, numbers, segments=4)
    start = found["interval"][:, :1]
    noised = start[:, 0] > 0
    examples = (
        (found["x_0"] - (1 - start) * FlowParts(config).starts(Condition(), numbers, seed=5, split="train")) / start
    )[noised]
    dataset = trainer.data.build(config.data)
    learned, kept = (dataset.get(dataset.indices(split)) for split in trainer.data.SPLITS)
    distance, nearest = (examples[:, None] - learned.x_1).norm(dim=-1).min(dim=1)
    assert float(distance.max()) < 1e-5
    assert float((examples[:, None] - kept.x_1).norm(dim=-1).min()) > 1e-3
    assert len(nearest.unique()) > 15
    assert learned.labels is not None
    assert torch.equal(found["labels"][noised], learned.labels[nearest])


def test_noise_of_the_path_is_normal_and_a_function_of_the_number_of_a_pair() -> None:
    """A one-sided interpolant starts at its own noise, and the first of two segments there."""
    config = configuration({"path": {"kind": "one_sided_interpolant"}})
    found = drawn(config, torch.arange(4000), segments=2)
    alone = drawn(config, torch.arange(1001, 1100), segments=2)
    for name, values in alone.items():
        assert torch.equal(values, found[name][1001:1100])
    noise = found["x_0"][::2].double()
    assert len(noise.unique(dim=0)) == 2000
    torch.testing.assert_close(noise.mean(dim=0), torch.zeros(2).double(), rtol=0, atol=0.1)
    torch.testing.assert_close(torch.cov(noise.T), torch.eye(2).double(), rtol=0, atol=0.15)


def test_the_data_are_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(num_examples=100)
    opened: list[Any] = []
    build = trainer.data.build
    monkeypatch.setattr(trainer.data, "build", lambda data: opened.append(data) or build(data))
    drawn(config, torch.arange(2 * TOGETHER + 1), segments=2)
    assert opened == [config.data]


def test_pairs_of_segments_say_in_which_units_their_starts_are() -> None:
    """Nothing moves, so that both ends are one state."""
    config = configuration({"data_scale": 4.0})
    found = drawn(config, torch.arange(40), segments=4)
    request = PairsRequest.model_validate({"run": "unused", "num": 40, "segments": 4, "sampler": {"kind": "euler"}})
    index = pairs_run._index(request, "weights", config)
    torch.testing.assert_close(found["x_0"], index.data_scale * found["x_1"])
    assert pairs_run._index(request.model_copy(update={"segments": None}), "weights", config).data_scale == 1


@pytest.mark.parametrize(
    ("part", "more", "said"),
    [
        ("context", (), "which no pair holds; give a run without"),
        (
            "latent",
            ("--segments", "2", "--sampler", "{kind: euler}"),
            "and latents of data are drawn anew at each step",
        ),
    ],
)
def test_teachers_of_what_no_pair_holds_are_refused(
    part: str,
    more: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = {
        "latent": {"path": "latents", "shape": (1, 8, 8), "image_shape": (1, 8, 8), "digest": "0"},
        "context": {"kind": "inpainting"},
    }
    document = {
        "run": {"dir": "r"},
        "model": {"hidden": 16, "num_heads": 2},
        "optim": {"steps": 1, "global_batch": 8},
        "flow": {part: parts[part]},
    }
    monkeypatch.setattr(pretrained, "newest_checkpoint", lambda folder: folder)
    monkeypatch.setattr(pretrained, "load_run", lambda *_: RunConfig.model_validate(document))
    line = refused(capsys, "pairs", "r", "--num-pairs", "4", "--out", tmp_path / "p", *more)
    had = "reads a context" if part == "context" else f"has a flow.{part}"
    assert line.startswith(f"run_dir: r {had}, {said}")
