"""Pairs that hold the states of a teacher at the nodes of a grid."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.commands import contents, refused
from tests.trainer.data.test_pairs import written
from tests.trainer.sampling.pairs.test_pairs import TINY, TOY, read
from tests.trainer.sampling.pairs.test_pairs_drawing import configuration, drawn
from tests.trainer.untrained import save_untrained
from trainer import data
from trainer.__main__ import main
from trainer.config.file import load_config, resolve
from trainer.config.rules.cautions import cautions
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import PairsConfig
from trainer.flow import Condition
from trainer.flow.sampler import Euler
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.flow import FlowParts
from trainer.sampling.pairs_request import PairsRequest, places_of
from trainer.sampling.trained import opened
from trainer.task import FlowTask

NODES, NUM, STEPS, SEED = (0.0, 0.1, 0.35, 1.0), 50, 20, 3
FINE = f"{{kind: euler, steps: {STEPS}}}"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = load_config(TOY, [*TINY, f"run.dir={tmp_path_factory.mktemp('teacher') / 'run'}"])
    save_untrained(config, 3)
    return config.run.dir


def words(teacher: Path, out: Path, *more: str) -> list[str]:
    chosen = ["--num-pairs", str(NUM), "--shard-examples", "16", "--sampler", FINE, "--seed", str(SEED)]
    return ["pairs", str(teacher), "--out", str(out), *chosen, "--nodes", ",".join(map(str, NODES)), *more]


@pytest.fixture(scope="module")
def folder(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "p"
    assert main(words(teacher, out)) == 0
    return out


def request(**asked: Any) -> PairsRequest:
    document = {"run": "unused", "num": NUM, "sampler": {"kind": "euler", "steps": STEPS}, **asked}
    return PairsRequest.model_validate(document)


def test_pairs_are_neighbouring_states_of_the_teachers_own_trajectories(teacher: Path, folder: Path) -> None:
    batch, intervals = read(folder).get(torch.arange(NUM)), len(NODES) - 1
    number, example = torch.arange(NUM) % intervals, torch.arange(NUM) // intervals
    with opened(teacher) as flow:
        labels = torch.arange(int(example[-1]) + 1) % 8
        followed = flow.follow(
            Condition(labels), torch.arange(len(labels)), Euler(steps=STEPS), guidance=1, seed=SEED, split="train"
        )
    at_nodes = followed.x[[round(node * STEPS) for node in NODES]]
    torch.testing.assert_close(batch.x_0, at_nodes[number, example], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(batch.x_1, at_nodes[number + 1, example], rtol=1e-6, atol=1e-6)
    assert torch.equal(batch.labels, labels[example])
    torch.testing.assert_close(batch.interval, torch.tensor([*pairwise(NODES)])[number])
    assert read(folder).data_points("train").tolist() == [
        row for row in read(folder).indices("train").tolist() if row % intervals == intervals - 1
    ]


def student(folder: Path, **sections: Any) -> RunConfig:
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp", "label_dropout": 0.0},
        "data": {"kind": "pairs", "path": str(folder), "held_out": 5},
        "optim": {"steps": 1, "global_batch": 10},
        "flow": {"coupling": {"kind": "paired"}, "time": {"kind": "grid", "steps": 1}},
        **sections,
    }
    return RunConfig.model_validate(resolve(document).document)


def test_a_student_learns_the_chords_at_their_starts(tmp_path: Path) -> None:
    written(tmp_path / "p", nodes=NODES)
    config = student(tmp_path / "p")
    plan_layout(config, 1)
    batch = data.build(config.data).get(torch.arange(30))
    (learned,) = FlowTask(config).draw([batch], [torch.Generator().manual_seed(0)])
    assert batch.interval is not None
    assert batch.x_0 is not None
    start, end = batch.interval.unbind(1)
    assert torch.equal(learned.sample.t, start)
    torch.testing.assert_close(learned.sample.x_t, batch.x_0, rtol=1e-6, atol=1e-6)
    chord = (batch.x_1 - batch.x_0) / (end - start)[:, None]
    assert float((learned.sample.velocity - chord).norm() / chord.norm()) < 1e-6


def test_pairs_from_data_begin_at_noised_examples() -> None:
    """Along v = place - x, Euler's method shrinks the distance to the place by 1 - h in each fine step."""
    config, numbers = configuration(num_examples=20, held_out=20), torch.arange(60)
    fine = {"kind": "euler", "steps": STEPS}
    found = drawn(config, numbers, 1.0, nodes=NODES, begin="data", sampler=fine)
    start, end = found["interval"].unbind(1)
    torch.testing.assert_close(found["interval"], torch.tensor([*pairwise(NODES)])[numbers % 3])
    steps = ((end - start) * STEPS).round()
    torch.testing.assert_close(found["x_1"], found["x_0"] * (1 - 1 / STEPS) ** steps[:, None])
    noise = FlowParts(config).starts(Condition(), numbers, seed=5, split="train")
    first = start == 0
    assert torch.equal(found["x_0"][first], noise[first])
    dataset = data.build(config.data)
    examples = ((found["x_0"] - (1 - start)[:, None] * noise) / start[:, None])[~first]
    known = dataset.get(dataset.indices("train")).x_1
    assert float((examples[:, None] - known).norm(dim=-1).min(dim=1).values.max()) < 1e-5


def test_pairs_do_not_depend_on_those_beside_them() -> None:
    config, fine = configuration(classes=True), {"kind": "euler", "steps": STEPS}
    for begin in ("noise", "data"):
        found = drawn(config, torch.arange(100), 0.5, nodes=NODES, begin=begin, sampler=fine)
        alone = drawn(config, torch.arange(31, 77), 0.5, nodes=NODES, begin=begin, sampler=fine)
        for name, values in alone.items():
            torch.testing.assert_close(values, found[name][31:77], rtol=1e-6, atol=1e-6)


def test_a_file_of_steps_gives_the_nodes(teacher: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:
    """The pairs are those of the times written out, byte for byte."""
    file = tmp_path / "steps.json"
    StepsFile(sampler="euler", grids={3: NODES, 2: (0.0, 0.07, 1.0)}).write(file)
    asked = ("--nodes", str(file), "--evaluations")
    assert main(words(teacher, tmp_path / "p", *asked, "3")) == 0
    assert contents(tmp_path / "p") == contents(folder)
    assert "steps.json: grids: has none for 4 evaluations; use one of 2, 3" in refused(
        capsys, *words(teacher, tmp_path / "q", *asked, "4")
    )
    said = refused(capsys, *words(teacher, tmp_path / "q", *asked, "2"))
    assert "steps.json: grids.2: 0.07 is not a time of the sampler's grid of 20 steps; use" in said
    said = refused(capsys, *words(teacher, tmp_path / "q", *asked, "3", "--guidance", "2"))
    assert "steps.json: guidance: is 1, and the teacher is followed with 2; use one guidance" in said
    with pytest.raises(Refusal, match="write it with python -m trainer steps"):
        request(nodes=str(tmp_path / "none.json"), evaluations=2).resolved()


def test_the_index_says_the_nodes_and_a_run_goes_on_with_them(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    assert index["segments"] is None
    assert index["nodes"] == index["made_by"]["nodes"] == pytest.approx(NODES)
    config = student(folder)
    assert isinstance(config.data, PairsConfig)
    assert config.data.edges == pytest.approx(NODES)
    shard = load_file(folder / "shard_00000.safetensors")
    assert {float(time) for time in shard["interval"].flatten()} == {*index["nodes"]}
    changed = config.data.model_copy(update={"nodes": (0.0, 0.5, 1.0)})
    with pytest.raises(Refusal, match=r"data\.nodes: is \(0\.0, 0\.5, 1\.0\) but the index says"):
        data.build(changed)


@each(
    ("asked", "problem"),
    [
        ({"nodes": [0, 0.5, 1], "segments": 2}, "segments: 2 cut time into equal parts"),
        ({"nodes": [0, 0.5, 1], "dtype": "float16"}, "dtype: float16 is too coarse"),
        ({"nodes": [0, 0.5]}, r"nodes: \[0.0, 0.5\] does not lead from 0 to 1"),
        ({"nodes": [0, 0.51, 1]}, r"nodes: 0.51 is not a time of the sampler's grid of 20 steps"),
        ({"nodes": [0, 0.5, 1], "sampler": {"kind": "dopri5"}}, r"nodes: 0.5 is not a time .* of 1 steps"),
        ({"nodes": [0, 0.5, 1], "evaluations": 2}, "evaluations: 2 go with a file"),
        ({"nodes": "steps.json"}, "evaluations: must be given"),
        ({"evaluations": 2}, "evaluations: 2 choose a grid"),
        ({"begin": "data"}, "begin: data is for nodes"),
        ({"nodes": [0, 0.5, 1], "num": 1}, "1 pairs leave some of the 2 intervals without one"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(asked: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        request(**asked)


def test_states_that_are_too_close_are_refused() -> None:
    grid = torch.linspace(0, 1, 2001)
    with pytest.raises(ValueError, match=r"0\.5 and 0\.5005 are less than 0\.001 apart"):
        places_of((0.0, 0.5, 0.5005, 1.0), grid)
    assert places_of((0.0, 0.5, 0.501, 1.0), grid) == (0, 1000, 1002, 2000)


def test_a_node_at_an_edge_of_segments_is_the_edge_that_the_network_knows() -> None:
    """Thirds are rounded differently in a file, in a grid of 9 steps and in a network."""
    asked = {"kind": "segmented", "segments": 3, "within": {"kind": "euler", "steps": 3}}
    resolved = request(nodes=[0, 0.11111111, 0.33333333, 0.66666669, 1], sampler=asked)
    starts = [float(times[0]) for times in resolved.parts()]
    assert torch.equal(torch.tensor(starts)[2:], torch.arange(1, 3) / 3)


def blockwise(folder: Path, segments: int, **time: Any) -> RunConfig:
    sampler = {"kind": "segmented", "segments": segments, "within": {"kind": "euler", "steps": 1}}
    return student(
        folder,
        model={"kind": "blockwise_mlp", "segments": segments},
        sample={"sampler": sampler},
        flow={"coupling": {"kind": "paired"}, "time": {"kind": "grid", "steps": 1, **time}},
    )


def test_blocks_of_a_segment_learn_chords_within_it(teacher: Path, tmp_path: Path) -> None:
    for name, nodes in (("halves", "0,0.2,0.5,1"), ("none", "0,0.2,0.55,1")):
        assert main(words(teacher, tmp_path / name, "--nodes", nodes)) == 0
    plan_layout(blockwise(tmp_path / "halves", 2), 1)
    with pytest.raises(
        ValueError, match=r"model\.segments: 2 segments meet at 0\.5, which is not one of the nodes .*0\.55"
    ):
        plan_layout(blockwise(tmp_path / "none", 2), 1)


def test_a_student_samples_with_its_teachers_grid_whatever_guidance_that_was_searched_with(tmp_path: Path) -> None:
    """The guidance of the teacher is in the pairs, and the steps are meant to stay."""
    file = tmp_path / "steps.json"
    StepsFile(sampler="euler", guidance=2.0, grids={3: NODES}).write(file)
    sample = {"sampler": {"kind": "euler", "steps": 3, "times": str(file)}}
    for name, nodes in (("parts", NODES), ("whole", None)):
        written(tmp_path / name, nodes=nodes)
        config = student(tmp_path / name, sample=sample)
        if nodes is not None:
            assert cautions(config, plan_layout(config, 1)) == []
            continue
        with pytest.raises(Refusal, match=r"guidance: is 2, and the samples are drawn with 1"):
            plan_layout(config, 1)
