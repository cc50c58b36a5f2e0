"""Correspondences: maps that are made finer, their errors, what the evaluate verb writes and shows."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from tests.forked import ROOT
from tests.trainer.commands import refused
from tests.trainer.task.test_correspondence import config, surfaces
from tests.trainer.untrained import save_untrained
from trainer.__main__ import main
from trainer.config.sample import SurfaceSample
from trainer.data.surface_files import Surface, read_surface
from trainer.data.surface_pairs import analytic_pair, icosphere
from trainer.data.surfaces import Pair
from trainer.evaluation.correspondence import (
    Points,
    functional_map,
    matched,
    mirror_images,
    own_map,
    point_map,
    upsampled,
)
from trainer.evaluation.correspondence_page import show_pairs

HARD = {"eigenfunctions": 30, "waves": 60, "signatures": 60, "analytic": {"halvings": 2, "seed": 12}}


def points(side: Any) -> Points:
    return Points(torch.from_numpy(side.chosen_areas).float(), torch.from_numpy(side.functions[side.chosen]).float())


@pytest.mark.parametrize("upsampling", ["nearest", "entropic"])
def test_from_true_points_a_map_stays_true(upsampling: str) -> None:
    pair = surfaces(config({**HARD, "analytic": {"halvings": 2, "bend": 0.0}})).pair(0)
    assert pair.truth is not None
    first, second = points(pair.first), points(pair.second)
    place = np.argsort(pair.first.chosen)
    begun = place[pair.truth[pair.second.chosen]]
    sample = SurfaceSample.model_validate({"upsampling": upsampling})
    found = point_map(first, second, upsampled(first, second, begun, sample))
    places = pair.first.surface.vertices[pair.first.chosen]
    assert np.linalg.norm(places[found] - places[begun], axis=1).mean() < 0.12


def test_the_map_of_a_renumbered_surface_is_the_identity_up_to_signs() -> None:
    made = analytic_pair(0, halvings=2, bend=0.0)[0]
    pair = surfaces(config(HARD)).pair(0)
    order = np.random.default_rng(0).permutation(len(made.vertices))
    first = Points(torch.from_numpy(pair.first.spectrum.areas).float(), torch.from_numpy(pair.first.functions).float())
    signs = torch.tensor([1.0, -1.0]).repeat(15)
    second = Points(first.areas[order], first.functions[order] * signs)
    plan = torch.nn.functional.one_hot(torch.from_numpy(order), len(order)).float()
    carries = functional_map(first, second, plan, 30)
    torch.testing.assert_close(carries, signs.diag(), atol=1e-3, rtol=0)
    assert np.array_equal(point_map(first, second, carries), order)


def test_maps_are_measured_plain_and_up_to_the_mirror() -> None:
    run = config(HARD)
    pair = surfaces(run).pair(0)
    features = pair.first.signatures, pair.second.signatures
    sample = SurfaceSample(landmarks=5)
    found = matched(pair, features, sample, temperature=0.07, mirror="x")
    names = [(one.begins, one.by) for one in found.matches]
    assert len(set(names)) == len(names) == 10
    assert (found.own.begins, found.own.by) == ("features", "entropic upsampling")
    errors = {name: one.errors for name, one in zip(names, found.matches, strict=True)}
    assert found.random is not None
    assert found.random == pytest.approx(0.47, abs=0.04)
    signatures, landmarks = (errors[begins, "nearest neighbour"] for begins in ("signatures", "distances to landmarks"))
    assert signatures is not None
    assert landmarks is not None
    assert landmarks.mean() < 0.5 * signatures.mean() < 0.5 * found.random
    for one in found.matches:
        assert one.errors is not None
        assert one.mirrored is not None
        assert (one.mirrored <= one.errors).all()
    unknown = matched(Pair(pair.first, pair.second, None), features, sample, temperature=0.07, mirror=None)
    assert unknown.random is None
    assert [one.errors for one in unknown.matches] == [None] * 7, "and landmarks are not given"


def test_mirror_images_of_a_sphere_are_its_own_vertices() -> None:
    vertices, _ = icosphere(1)
    image = mirror_images(vertices + 3, 1)
    np.testing.assert_allclose(vertices[image], vertices * [1, -1, 1], atol=1e-9)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = config(
        {"analytic": {"halvings": 1, "pairs": 2}}, run={"dir": folder}, sample={"num": 2, "landmarks": 3, "first": 4}
    )
    save_untrained(run, 1)
    return folder


def test_the_verb_writes_figures_and_a_page(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "figures.json", tmp_path / "page.html"
    assert main(["evaluate", str(run_dir), "--out", str(out), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    assert "vertices drawn by chance are off by" in said
    found = json.loads(out.read_text())
    jsonschema.validate(found, json.loads((ROOT / "configs" / "schemas" / "correspondence.schema.json").read_text()))
    assert found["format"] == "flowfabric.correspondence/1"
    assert len(found["pairs"]) == 2
    assert len(found["maps"]) == 10
    assert all(0 <= one["error"] < 1 and one["error_up_to_mirror"] is None for one in found["maps"])
    document = page.read_text()
    assert "Colours carried over" in document
    assert "functional map of the first pair" in document
    assert "<script" not in document
    again = tmp_path / "again.html"
    main(["evaluate", str(run_dir), "--out", str(out), "--page", str(again)])
    assert again.read_text() == document


def test_options_of_flows_are_refused(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "evaluate", run_dir, "--likelihood", 9, "--out", tmp_path / "o.json")
    assert said.startswith("--likelihood: ")
    assert "learns features and follows no flow; leave it out" in said
    assert "use the evaluate verb" in refused(capsys, "sample", run_dir, "--out", tmp_path / "s.png")


def test_colours_are_written_beside_the_picture(tmp_path: Path) -> None:
    pair = surfaces(config()).pair(0)
    own, _ = own_map(pair, (pair.first.signatures, pair.second.signatures), SurfaceSample(first=4))
    show_pairs([(pair, own)], tmp_path / "step")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    read = read_surface(tmp_path / "step_0_map.ply")
    assert isinstance(read, Surface)
    assert np.array_equal(read.triangles, pair.second.surface.triangles)
