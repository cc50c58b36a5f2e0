"""Dividing a run over its ranks, and what does not divide."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.placement.placement import Placement
from tests.each import each
from tests.trainer.commands import contents, refused
from tests.trainer.config.mistakes import Document, configuration, language_model
from trainer.__main__ import main
from trainer.config.layout import Layout
from trainer.config.rules.cautions import cautions
from trainer.config.rules.plan import describe, plan_layout
from trainer.config.run import RunConfig


@each("world_size", [2, 4, 8, 16])
@each("micro_batch", [None, 1, 3])
def test_every_example_of_a_step_has_a_place(world_size: int, micro_batch: int | None) -> None:
    layout = plan_layout(configuration(optim={"micro_batch": micro_batch}), world_size)
    assert layout.micro_batch * layout.accumulation * world_size == 48
    assert layout.micro_batch == (micro_batch or 48 // world_size)
    assert layout.expert_parallel * layout.expert_data_parallel == world_size


def test_without_a_placement_experts_stand_in_order() -> None:
    layout = plan_layout(configuration(), 4)
    for layer in range(3):
        np.testing.assert_array_equal(layout.slot_to_expert(layer), np.arange(8))
    assert plan_layout(configuration(moe=None, parallel={"expert": 1}), 2).placement is None


def test_one_process_holds_a_whole_network_however_it_was_trained(tmp_path: Path) -> None:
    """Neither the batch nor the placement of training matter, and no file of the latter is read."""
    trained = configuration(moe={"placement": tmp_path / "gone.json"}, optim={"global_batch": 7, "micro_batch": 5})
    layout = Layout.single(trained)
    assert (layout.world_size, layout.expert_parallel, layout.tensor_parallel, layout.data_parallel) == (1, 1, 1, 1)
    for layer in range(3):
        np.testing.assert_array_equal(layout.slot_to_expert(layer), np.arange(8))
    np.testing.assert_array_equal(layout.hops, [[0.0]])
    assert Layout.single(configuration(moe=None, parallel={"tensor": 2})).placement is None


def test_the_line_for_a_person_says_how_the_run_is_divided() -> None:
    config = configuration(optim={"micro_batch": 3})
    line = describe(config, plan_layout(config, 4))
    assert "4 ranks = expert 2 x expert data 2, 4 of 8 experts a rank and layer, home dispatch" in line
    assert "batch 48 = 3 x 4 micro x 4; ZeRO 1, fp32" in line
    dense = configuration(moe=None, parallel={"expert": 1})
    assert describe(dense, plan_layout(dense, 1)).startswith("1 rank; ")
    tensor = configuration(moe=None, parallel={"expert": 1, "tensor": 2})
    assert describe(tensor, plan_layout(tensor, 4)).startswith("4 ranks = tensor 2 x data 2; ")


def test_language_models_have_every_dispatch() -> None:
    for dispatch in ("home", "copies", "coherent"):
        layout = plan_layout(language_model(moe={"dispatch": dispatch}), 4)
        assert layout.placement is not None
        assert layout.placement.dispatch == dispatch


LIMITED = {"dispatch": "capped", "router": {"kind": "sparse_ot"}}


def test_capped_dispatch_sends_the_same_under_any_placement(tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    random_placement(2).write(path)
    config = configuration(moe={**LIMITED, "placement": path})
    (line,) = cautions(config, plan_layout(config, 2))
    assert line.startswith(f"moe.placement: {path} changes nothing in what capped dispatch sends")
    assert line.endswith("or set moe.dispatch=home")
    config = configuration(moe=LIMITED)
    assert cautions(config, plan_layout(config, 2)) == []
    assert "capped dispatch" in describe(config, plan_layout(config, 2))


def random_placement(seed: int) -> Placement:
    """Eight experts of three layers on two ranks, each layer shuffled."""
    generator = np.random.default_rng(seed)
    layers = [generator.permutation(8).reshape(2, 4).tolist() for _ in range(3)]
    document = Placement.contiguous(3, 8, 2, 1).model_dump()
    return Placement.model_validate({**document, "rank_experts": layers})


def test_a_placement_says_where_each_expert_lives(tmp_path: Path) -> None:
    placement = random_placement(0)
    placement.write(tmp_path / "placement.json")
    layout = plan_layout(configuration(moe={"placement": tmp_path / "placement.json"}), 4)
    for layer in range(3):
        np.testing.assert_array_equal(layout.slot_to_expert(layer), np.ravel(placement.rank_experts[layer]))
        assert sorted(layout.slot_to_expert(layer)) == list(range(8))


def test_a_placement_for_another_dispatch_is_allowed_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config_path = tmp_path / "placement.json", tmp_path / "run.yaml"
    config = configuration(moe={"placement": path, "dispatch": "copies"}, evaluate={"every": None})
    lines: list[str] = []
    for made_for in ("copies", "home", "coherent"):
        random_placement(2).model_copy(update={"dispatch": made_for}).write(path)
        lines = cautions(config, plan_layout(config, 2))
        if made_for == "copies":
            assert lines == []
        else:
            assert lines[0].startswith(f"moe.placement: {path} was made for {made_for} dispatch")
            assert "--objective copies" in lines[0]
    config_path.write_text(config.to_yaml())
    assert main(["check", str(config_path), "--world-size", "2"]) == 0
    assert capsys.readouterr().err == f"{lines[0]}\n"


def hierarchical(**sections: Any) -> RunConfig:
    return configuration(
        parallel={"expert": 4}, **{**sections, "moe": {"dispatch": "hierarchical"} | sections.get("moe", {})}
    )


def test_nodes_of_hierarchical_dispatch_come_from_the_placement_else_from_the_launch(tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    Placement.contiguous(3, 8, 2, 2, dispatch="hierarchical").write(path)
    for config, ranks_per_node, expected in (
        (hierarchical(moe={"placement": path}), 4, 2),
        (hierarchical(trace={"ranks_per_node": 2}), 4, 2),
        (hierarchical(), 2, 2),
        (hierarchical(), 4, None),  # one node
        (hierarchical(), 8, None),
        (hierarchical(), 1, None),  # one rank a node
        (configuration(parallel={"expert": 4}, moe={"placement": path, "dispatch": "copies"}), 2, None),
    ):
        layout = plan_layout(config, 8, ranks_per_node=ranks_per_node)
        assert layout.relay_ranks == expected
        assert ("hierarchical dispatch over 2 nodes of 2;" in describe(config, layout)) == (expected is not None)


def with_replicas(folder: Path, rows: list[list[int]]) -> Path:
    document = random_placement(3).model_dump()
    Placement.model_validate({**document, "rank_experts": [rows] * 3}).write(folder / "placement.json")
    return folder / "placement.json"


def test_replicas_are_laid_out_with_homes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, config_path = with_replicas(tmp_path, [[0, 1, 4, 2, 3], [0, 4, 5, 6, 7]]), tmp_path / "run.yaml"
    config = configuration(moe={"placement": path, "replicas": "least_loaded", "expert_hidden": 24})
    layout = plan_layout(config, 2)
    assert layout.placement is not None
    assert layout.placement.rank_experts == (((0, 1, 2, 3, 4), (4, 5, 6, 7, 0)),) * 3
    assert cautions(config, layout) == []
    assert "4 of 8 experts a rank and layer, home dispatch, 1 replica more (least_loaded)" in describe(config, layout)

    config_path.write_text(config.to_yaml())
    assert main(["check", str(config_path), "--world-size", "2"]) == 0
    expert_bytes = 2 * 24 * config.model.hidden * 4
    a_rank, sent = (f"{replicas * expert_bytes / 1e6:,.3g} MB" for replicas in (3, 6))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("replicas: "))
    assert line.startswith(f"replicas: 3 on a rank over all layers, {a_rank} of borrowed weights until")
    assert f"every micro batch {sent} of weights" in line


def test_replicas_that_a_run_cannot_use_are_refused(tmp_path: Path) -> None:
    path = with_replicas(tmp_path, [[0, 1, 2, 3, 4], [4, 5, 6, 7, 0]])
    gpt = {
        "model": {"kind": "gpt", "hidden": 64, "num_layers": 3, "num_heads": 4, "context": 12},
        "data": {"context": 12},
    }
    with pytest.raises(
        ValueError, match=r"rank_experts: has replicas \(10 slots for 8 experts\).*coherent.*without repl"
    ):
        plan_layout(configuration(**gpt, moe={"placement": path, "dispatch": "coherent"}), 2)
    path = with_replicas(tmp_path, [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]])
    assert plan_layout(configuration(moe={"placement": path}), 2).placement is not None
    document = Placement.contiguous(3, 6, 3, 1).model_dump()
    rows = [[[0, 1, 2], [3, 4, 5], [3, 4, 5]]] * 3
    Placement.model_validate({**document, "rank_experts": rows}).write(path)
    uneven = configuration(
        moe={"placement": path, "num_experts": 6}, parallel={"expert": 3}, optim={"global_batch": 48}
    )
    with pytest.raises(ValueError, match=r"rank_experts\.0: no choice of homes .* ranks 2 of 6 experts .*; put some"):
        plan_layout(uneven, 3)


def test_a_choice_among_replicas_that_are_not_there_is_allowed_with_a_word() -> None:
    config = configuration(moe={"replicas": "least_loaded"})
    (line,) = cautions(config, plan_layout(config, 2))
    assert line.startswith("moe.replicas: least_loaded chooses among replicas, and the placement has none; place with")


def changed(**values: Any) -> Callable[[Document], str]:
    return lambda document: json.dumps({**document, **values})


def other(num_layers: int, num_experts: int, nodes: int, ranks: int) -> Callable[[Document], str]:
    return lambda _: Placement.contiguous(num_layers, num_experts, nodes, ranks).model_dump_json()


def without(key: str) -> Callable[[Document], str]:
    return lambda document: json.dumps({name: value for name, value in document.items() if name != key})


def with_layer_0(rows: list[Any]) -> Callable[[Document], str]:
    return lambda document: json.dumps({**document, "rank_experts": [rows, *document["rank_experts"][1:]]})


MALFORMED: dict[str, tuple[Callable[[Document], str], str, str, str]] = {
    "empty": (lambda _: "", "document", "not JSON", "moe place"),
    "truncated": (lambda document: json.dumps(document)[:-20], "document", "not JSON", "moe place"),
    "YAML": (lambda _: "format: flowfabric.placement/1\n", "document", "not JSON", "moe place"),
    "a list": (lambda _: "[]", "document", "dictionary", "moe place"),
    "no format": (without("format"), "format", "missing", "flowfabric.placement/1"),
    "later version": (changed(format="flowfabric.placement/2"), "format", "placement/2", "moe place"),
    "no experts": (without("rank_experts"), "rank_experts", "missing", "moe place"),
    "unknown key": (changed(owner="me"), "owner", "me", "moe place"),
    "unknown dispatch": (changed(dispatch="teleport"), "dispatch", "teleport", "moe place"),
    "number as text": (changed(num_experts="8"), "num_experts", "'8'", "moe place"),
    "not a number": (changed(cost_matrix=[[0, float("nan")], [1, 0]]), "document", "NaN", "moe place"),
    "cost of another group": (changed(cost_matrix=[[0]]), "cost_matrix", "2 x 2", "moe place"),
    "layer missing": (changed(num_layers=4), "rank_experts", "3 layers where num_layers is 4", "moe place"),
    "rank missing": (with_layer_0([[0, 1, 2, 3, 4, 5, 6, 7]]), "rank_experts.0", "1 ranks", "moe place"),
    "uneven": (with_layer_0([[0, 1, 2, 3, 4], [5, 6, 7]]), "rank_experts.0", "[3, 5]", "moe place"),
    "expert twice": (with_layer_0([[0, 1, 2, 3], [4, 5, 6, 6]]), "rank_experts.0", "expert 6", "moe place"),
    "expert out of range": (with_layer_0([[0, 1, 2, 3], [4, 5, 6, 8]]), "rank_experts.0", "expert 8", "moe place"),
    "negative expert": (with_layer_0([[0, 1, 2, 3], [4, 5, 6, -1]]), "rank_experts.0.1.3", "-1", "moe place"),
    "half an expert": (with_layer_0([[0, 1, 2, 3], [4, 5, 6, 7.5]]), "rank_experts.0.1.3", "7.5", "moe place"),
    "one rank in two groups": (changed(ep_ranks=[[0, 1], [1, 2]]), "ep_ranks", "two places", "moe place"),
    "a model with other layers": (other(2, 8, 2, 1), "num_layers", "is 2 but the run has 3", "place this run"),
    "a model with other experts": (other(3, 16, 2, 1), "num_experts", "is 16 but the run has 8", "place this run"),
    "another group": (other(3, 8, 2, 2), "num_nodes x ranks_per_node", "is 4 but the run has 2", "place this run"),
}


@each("case", MALFORMED)
def test_a_malformed_placement_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, field, problem, remedy = MALFORMED[case]
    path, config = tmp_path / "placement.json", tmp_path / "run.yaml"
    path.write_text(spoil(random_placement(1).model_dump(mode="json")))
    config.write_text(configuration().to_yaml())
    before = contents(tmp_path)
    line = refused(capsys, "check", config, f"moe.placement={path}", "--world-size", 2)
    assert line.startswith(f"{path}: {field}: ")
    assert problem in line
    assert remedy in line
    assert contents(tmp_path) == before


def test_a_placement_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(configuration().to_yaml())
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for path, field in ((tmp_path / "bytes.json", "document"), (tmp_path / "none.json", "file"), (tmp_path, "file")):
        line = refused(capsys, "check", config, f"moe.placement={path}", "--world-size", 2)
        assert line.startswith(f"{path}: {field}: ")


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_tensor_ranks_see_the_same_examples(tensor: int) -> None:
    sections = {"run": {"dir": "unused"}, "model": {}, "optim": {"steps": 1, "global_batch": 8}}
    layout = plan_layout(RunConfig.model_validate(sections | {"parallel": {"tensor": tensor}}), 4)
    assert layout.data_parallel * tensor == 4
    assert layout.expert_data_parallel * tensor == 4
    assert [layout.data_rank(rank) for rank in range(4)] == [rank // tensor for rank in range(4)]
    assert layout.micro_batch * layout.accumulation * layout.data_parallel == 8
