"""Times at which samplers stop: equal steps, written times, files of searched grids."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.flow import path, sampler, target
from trainer.flow.condition import keyed_normal, keyed_uniform, random_keys
from trainer.flow.field import NetworkField
from trainer.flow.sampler.protocol import StepsFile

GRIDS = {2: (0.0, 0.3, 1.0), 4: (0.0, 0.1, 0.35, 0.7, 1.0), 6: (0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0)}
READ = TypeAdapter(sampler.Config)


def searched(folder: Path, **settings: Any) -> Path:
    """A file of grids."""
    file = folder / "steps.json"
    StepsFile(**{"sampler": "euler", "grids": GRIDS, **settings}).write(file)
    return file


def test_written_times_are_the_grid_and_decide_the_number_of_steps() -> None:
    config = READ.validate_python({"kind": "euler", "times": [0, 0.25, 1]})
    assert config.grid().tolist() == [0, 0.25, 1]
    assert config.calls() == {"network": 2}
    assert config.with_evaluations(2) == config
    assert config.with_evaluations(3) is None


def test_a_step_along_written_times_is_eulers(tmp_path: Path) -> None:
    config = READ.validate_python({"kind": "euler", "steps": 4, "times": str(searched(tmp_path))})
    linear = path.Linear()
    field = NetworkField(lambda x, t: x + t[:, None], target.Velocity().build(linear))
    drawn = config.build(linear).sample(field, torch.ones(1, 1), config.grid())
    x = 1.0
    for t, t_next in zip(GRIDS[4], GRIDS[4][1:], strict=False):
        x += (t_next - t) * (x + t)
    assert drawn.final.item() == pytest.approx(x, rel=1e-6)


def test_a_file_has_a_grid_for_each_number_of_evaluations(tmp_path: Path) -> None:
    config = sampler.Euler(steps=4, times=searched(tmp_path))
    for evaluations, times in GRIDS.items():
        changed = config.with_evaluations(evaluations)
        assert changed is not None
        assert changed.grid().tolist() == pytest.approx(times)
    assert config.with_evaluations(5) is None
    with pytest.raises(Refusal, match="has none for 5 evaluations; use one of 2, 4, 6"):
        config.model_copy(update={"steps": 5}).grid()


def test_a_segmented_sampler_takes_grids_of_its_own_segments_alone(tmp_path: Path) -> None:
    file = searched(tmp_path, segments=3)
    config = sampler.Segmented(segments=3, within=sampler.Euler(steps=2, times=file))
    assert config.grid().tolist() == pytest.approx(GRIDS[6])
    assert config.with_evaluations(6) == config
    assert config.with_evaluations(3) is None
    with pytest.raises(Refusal, match="segments: is 3, and the samples are drawn by 1"):
        sampler.Euler(steps=6, times=file).grid()


def test_grids_of_another_sampler_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="sampler: is euler, and the samples are drawn by heun"):
        sampler.Heun(steps=2, times=searched(tmp_path)).grid()


@each(
    ("settings", "said"),
    [
        ({"times": [0.0, 0.5]}, "end with 1"),
        ({"times": [0.1, 1.0]}, "begin with 0"),
        ({"times": [0.0, 0.6, 0.5, 1.0]}, "sort the times"),
        ({"times": [0.0, 0.5, 1.0], "steps": 3}, "leave out steps"),
        ({"kind": "first_order", "times": [0.0, 1.0], "trained_times": 4}, "leave out one of the two"),
        ({"kind": "segmented", "within": {"kind": "euler", "times": [0.0, 1.0]}}, "cover the whole path"),
    ],
)
def test_wrong_times_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        READ.validate_python({"kind": "euler", **settings})


@each(
    ("change", "said"),
    [
        ({"grids": {}}, "grids"),
        ({"grids": {"2": [0.0, 1.5]}}, "end with 1"),
        ({"grids": {"0": [0.0, 1.0]}}, "below 1"),
        ({"format": "flowfabric.steps/2"}, "format"),
        ({"sampler": None}, "sampler"),
        ({"beside": 1}, "beside"),
    ],
)
def test_a_wrong_file_is_refused_by_its_field(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = searched(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(Refusal, match=said) as refused:
        StepsFile.read(file)
    assert str(file) in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot be read"):
        sampler.Euler(steps=2, times=tmp_path / "none.json").grid()


def test_draws_of_an_example_depend_on_its_key_alone() -> None:
    keys = random_keys(6, torch.Generator().manual_seed(0))
    x = torch.empty(6, 2, 3)
    together = keyed_normal(x, keys, 1)
    assert torch.equal(together[2:4], keyed_normal(x[2:4], keys[2:4], 1))
    assert not torch.equal(together, keyed_normal(x, keys, 2))
    assert torch.equal(keyed_uniform(keys, 5, 0)[3:], keyed_uniform(keys[3:], 5, 0))


def test_keyed_draws_have_their_distributions() -> None:
    keys = random_keys(20_000, torch.Generator().manual_seed(0))
    z = keyed_normal(torch.empty(20_000, 3), keys, 0)
    assert z.mean().abs() < 0.02
    assert torch.allclose(torch.cov(z.T), torch.eye(3), atol=0.03)
    u = keyed_uniform(keys, 3, 0)
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.allclose(u.mean(0), torch.full((3,), 0.5), atol=0.01)
    assert torch.corrcoef(torch.cat([u, z], 1).T).fill_diagonal_(0).abs().max() < 0.03
