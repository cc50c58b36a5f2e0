"""What grids are worth: figures of flows whose field is known, and of sets whose energy distance is."""

import numpy as np
import pytest
import torch

from tests.trainer.evaluation.test_evaluation import TOY
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.evaluation.quality import energy_distance
from trainer.evaluation.step_figures import measured, ratio
from trainer.model.build import build_model
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.fine_grid import Noises
from trainer.sampling.flow import FlowParts
from trainer.sampling.step_search import StepsRequest, endpoint_error, search


def flow_of(sections: dict[str, object]) -> TrainedFlow:
    """A flow whose network has small random weights everywhere, so that its paths bend."""
    config = RunConfig.model_validate({"run": {"dir": "unused"}, "optim": {"steps": 1, "global_batch": 3}, **sections})
    model = build_model(config, plan_layout(config, 1)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return TrainedFlow(config, FlowParts(config), model, "step_00000000")


SEGMENTED = {"sampler": {"kind": "segmented", "segments": 3, "within": {"kind": "euler", "steps": 1}}}
DIT = {"hidden": 16, "num_heads": 2, "label_dropout": 0.1}
FLOWS = {
    "plain": TOY,
    "segments": {**TOY, "model": {"kind": "blockwise_mlp", "segments": 3, "hidden": 16}, "sample": SEGMENTED},
    "approximated segments": {
        "data": {"kind": "digits"},
        "model": {
            **{"kind": "blockwise", "segments": 3, "trunk_layers": 1, "residual_layers": 1},
            **{"init_from": "trunk", "init_new": ["residual"], **DIT},
        },
        "flow": {"objective": {"kind": "feature_residual"}, "time": {"kind": "stratified", "segments": 3}},
        "sample": {**SEGMENTED, "guidance": 1.5},
    },
}


@pytest.mark.parametrize("name", FLOWS)
def test_figures_are_of_fresh_noises_and_of_equal_steps_as_samplers_take_them(name: str) -> None:
    flow = flow_of(FLOWS[name])
    guidance = flow.sample.guidance
    noises = Noises(flow, 60, guidance=guidance, seed=0)
    segments = 3 if "segments" in name else 1
    assert noises.segments == segments
    searched, fresh = torch.arange(20), torch.arange(20, 60)
    request = StepsRequest.model_validate({"run": "unused", "evaluations": (3, 6), "nodes": 12})
    found = search(noises.solutions(searched, 12), request)
    figures = measured(found, noises, searched, fresh, lambda _: None)
    assert set(figures.grids) == {3, 6}
    on_fresh = noises.solutions(fresh, 12)
    for evaluations, kinds in figures.grids.items():
        assert kinds["uniform"].times == pytest.approx(np.linspace(0, 1, evaluations + 1))
        assert kinds["endpoint"].search_error <= kinds["chord"].search_error * (1 + 1e-5)
        assert kinds["endpoint"].search_error <= kinds["uniform"].search_error * (1 + 1e-5)
        for kind in ("chord", "endpoint"):
            grid = found.grids[evaluations][kind]
            assert kinds[kind].times == tuple(node / 12 for node in grid)
            assert kinds[kind].error == pytest.approx(endpoint_error(on_fresh, grid), rel=1e-3)
            assert set(grid) >= {12 * edge // segments for edge in range(segments)}
        assert kinds["chord"].cost <= kinds["uniform"].cost


def test_the_fine_grid_has_a_hundred_nodes_or_the_next_multiple_of_the_segments() -> None:
    request = StepsRequest.model_validate({"run": "unused"})
    assert [request.nodes_for(segments) for segments in (1, 3, 4, 6)] == [100, 102, 100, 102]


def test_the_energy_distance_of_paired_sets_is_without_bias() -> None:
    draw = np.random.default_rng(0)
    both = draw.standard_normal((4000, 2))
    x, y = both[:2000], both[:2000] + draw.normal(scale=0.05, size=(2000, 2))
    paired = [energy_distance(x[rows], y[rows], paired=True) for rows in np.arange(2000).reshape(100, 20)]
    independent = energy_distance(both[2000:], y)
    apart = energy_distance(x, y, paired=True)
    assert abs(apart) < 1e-3, "noise of 0.05 changes a normal distribution by next to nothing"
    assert abs(independent) < 0.02
    assert np.mean(paired) == pytest.approx(apart, abs=float(3 * np.std(paired) / 10))
    assert energy_distance(x, x, paired=True) == pytest.approx(0, abs=1e-12)


def test_ratios_of_nothing_are_one() -> None:
    assert ratio(0.0, 0.0) == 1
    assert ratio(1.0, 2.0) == 0.5
