"""Pairs whose points are latents of images, and the student that learns from them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import ROOT
from tests.trainer.commands import refused, trained
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.sampling.flow import PairedLatents, StoredLatents
from trainer.sampling.trained import opened

SMALL = ("optim.steps=2", "optim.warmup_steps=0", "optim.global_batch=8", "evaluate.every=2", "sample.every=null")


class Halving:
    """Decodes latents to half of them."""

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return 2 * images, None

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / 2

    def to(self, _: torch.device) -> Any:
        return self


def test_states_of_pairs_are_not_encoded_again() -> None:
    space, states = PairedLatents(Halving(), [1.0], [4.0]), torch.ones(2, 1, 3, 3)
    assert torch.equal(space.encode(states, generator=torch.Generator()), states)
    assert torch.equal(space.shown(states, generator=torch.Generator()), (4 * states + 1) / 2)


@pytest.mark.slow
def test_a_student_learns_the_latents_that_its_teacher_has_drawn(tmp_path: Path, capsys: Any) -> None:
    autoencoder = trained(
        tmp_path / "autoencoder", str(ROOT / "configs/runs/digits_autoencoder.yaml"), *SMALL, "model.hidden=8"
    )
    latents = tmp_path / "latents"
    assert main(["encode", str(autoencoder), "--out", str(latents)]) == 0
    method = str(ROOT / "configs/methods/latent_flow_matching.yaml")
    own = (*SMALL, "model.hidden=16", "model.num_layers=1", "sample.per_class=1")
    teacher = trained(tmp_path / "teacher", method, *own, f"data.path={latents}")
    pairs, fine = tmp_path / "pairs", ("--sampler", "{kind: euler, steps: 10}")
    asked = ("pairs", str(teacher), "--num-pairs", "40", *fine, "--out", str(pairs))
    assert "are drawn anew at each step" in refused(capsys, *asked, "--nodes", "0,0.5,1", "--begin", "data")
    assert main([*asked, "--nodes", "0,0.3,1"]) == 0
    index = json.loads((pairs / "index.json").read_text())
    config = load_config(teacher / "config.yaml")
    assert config.flow is not None
    assert config.flow.latent is not None
    assert (index["shape"], index["latents"]) == ([*config.state_shape], config.flow.latent.digest)
    data = f"data={{kind: pairs, path: {pairs}, held_out: 8}}"
    learning = (*own, "data=null", data, "flow.coupling={kind: paired}", "sample.sampler={kind: euler, steps: 2}")
    assert "flow.latent: is null" in refused(capsys, "check", method, *learning)
    student = trained(tmp_path / "student", method, *learning, f"flow.latent.path={latents}")
    with opened(student) as flow:
        assert isinstance(flow.parts.space, PairedLatents)
    with opened(student, config.data) as flow:
        assert isinstance(flow.parts.space, StoredLatents)
    out = tmp_path / "evaluation.json"
    compared = ("--data-from", str(teacher), "--evaluations", "2", "--num", "20", "--out", str(out))
    assert main(["evaluate", str(student), *compared]) == 0
