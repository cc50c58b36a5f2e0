"""Runs with adapters and their bases: merged, exported, asked as references, begun with, and refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from tests.each import each, rows
from tests.forked import command
from tests.trainer.commands import contents, refused
from tests.trainer.model.test_networks import configuration
from tests.trainer.untrained import save_untrained, untrained_run
from trainer.__main__ import main
from trainer.checkpoint.intact import newest_checkpoint, weights_file
from trainer.checkpoint.pretrained import pinned, restore
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.model.adapted import without_adapters
from trainer.model.network import Network
from trainer.sampling.trained import Reference

NETWORK: dict[str, Any] = {"kind": "dit", "hidden": 16, "num_heads": 2, "num_layers": 2}
SECTIONS: dict[str, Any] = {
    "data": {"kind": "digits", "held_out": 1700},
    "sample": {"per_class": 1, "sampler": {"kind": "euler", "steps": 2}},
}


def adapting(base: Path, **settings: Any) -> dict[str, Any]:
    return {**NETWORK, "adapters": {"kind": "low_rank", "base": str(base), "rank": 2, "alpha": 6, **settings}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("base") / "run", {**SECTIONS, "model": NETWORK})


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    """A run whose adapters have values of their own."""
    folder = base.parent / "adapted"
    document = {"run": {"dir": folder}, "optim": {"steps": 10, "global_batch": 8}, **SECTIONS, "model": adapting(base)}
    save_untrained(pinned(RunConfig.model_validate(document)), 10, seed=5)
    return folder


def network_of(folder: Path) -> Network:
    checkpoint = newest_checkpoint(folder)
    config = load_config(checkpoint / "config.yaml")
    return restore(config, Layout.single(config), checkpoint)


@torch.no_grad()
def predicted(network: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x_t, t = torch.randn(20, 1, 8, 8, generator=generator), torch.rand(20, generator=generator)
    return network(x_t, t, Condition(torch.arange(20) % 10))


def test_the_merged_run_predicts_and_draws_what_the_adapted_one_does(base: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert main(["export", str(run), "--merged", "--out", str(out)]) == 0
    expected, merged = predicted(network_of(run)), predicted(network_of(out))
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(predicted(network_of(base)), expected, atol=1e-2)
    own, plain = (load_config(newest_checkpoint(each) / "config.yaml") for each in (out, base))
    assert own.model == plain.model
    assert main(["sample", str(out), "--out", str(tmp_path / "grid.png")]) == 0
    assert weights_file(out) == newest_checkpoint(out) / "ema.safetensors"
    again = configuration(adapting(out), **SECTIONS)
    assert pinned(again).model.adapters.base.digest == Reference(newest_checkpoint(out)).digest  # pyright: ignore[reportOptionalMemberAccess]


def test_exported_adapters_are_told_as_such_and_can_be_begun_with(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert {name.rpartition(".")[2] for name in load_file(out / "model.safetensors")} == {"A_RI", "B_OR"}
    card = (out / "README.md").read_text()
    assert "parameters are adapters alone, of kind low_rank and rank 2" in card
    assert Reference(newest_checkpoint(base)).digest in card
    config = tmp_path / "run.json"
    document = {"run": {"dir": str(tmp_path / "run")}, "optim": {"steps": 1, "global_batch": 8}, **SECTIONS}
    config.write_text(json.dumps({**document, "model": {**adapting(base), "init_from": str(out)}}))
    capsys.readouterr()
    assert main(["check", str(config)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "parameters of adapters are trained" in told
    assert "are frozen, those of" in told
    assert "give a run with the same adapters" in refused(capsys, "check", config, f"model.init_from={base}")
    line = refused(capsys, "check", config, "model.adapters.alpha=4")
    assert "model.adapters.alpha: is 6.0, and this run has 4.0; give a run with the same" in line


def test_a_reference_to_a_run_with_adapters_has_them_and_switches_off_to_the_base(base: Path, run: Path) -> None:
    reference = Reference.of_run(ReferenceConfig(run=run))
    network = reference.model(torch.device("cpu"))
    assert torch.equal(predicted(network), predicted(network_of(run)))
    with without_adapters(network):
        assert torch.equal(predicted(network), predicted(network_of(base)))


def test_a_base_that_has_changed_since_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = untrained_run(tmp_path / "base", {**SECTIONS, "model": NETWORK})
    document = {"run": {"dir": tmp_path / "run"}, "optim": {"steps": 1, "global_batch": 8}, **SECTIONS}
    config = pinned(RunConfig.model_validate({**document, "model": adapting(base)}))
    save_untrained(config, 1)
    save_untrained(load_config(newest_checkpoint(base) / "config.yaml"), 20, seed=1)
    with pytest.raises(Refusal, match=r"model\.adapters\.base\.digest: is \w+ but the run began with \w+; bring"):
        pinned(config)
    line = refused(capsys, "sample", tmp_path / "run", "--out", tmp_path / "x.png")
    assert "model.adapters.base.digest: is " in line


REFUSED = """
model.adapters.base=runs/none | runs/none: model.adapters.base: is no folder of a run; give the
model.adapters.base=configs | holds neither a checkpoint nor exported weights
model.adapters.base=RUN | model.adapters.base: has adapters itself; merge them
model.hidden=32 | has shape (16, 4), not (32, 4); give the run with the same
model.num_heads=4 | model.num_heads: is 2, and this run has 4; set model.num_
model.kind=gpt & data={kind: python_source} & sample={kind: text}
| model.kind: is dit, not gpt; give the run with the same model settings to model.adapters.base
model.adapters.on=[qvk] | model.adapters.on: qvk is in the name of no linear layer; use qkv or
model.adapters.rank=40
| model.adapters.rank: 40 is larger than blocks.0.qkv, a layer of 16 inputs and 48 outputs; use at most 16
moe={num_experts: 4, expert_hidden: 8}
| moe: experts are not adapted, and adapters freeze all else; remove the section, or model.adapters
parallel.tensor=2 | parallel.tensor: 2 ranks cannot share frozen matrices with adapters; use 1
model.adapters.rank=0 | model.adapters.rank:
model.adapters.ranks=4 | model.adapters.ranks: is not a known key
"""


@each(("settings", "told"), rows(REFUSED))
def test_what_adapters_cannot_do_is_one_line_and_leaves_nothing(
    base: Path, run: Path, tmp_path: Path, settings: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"run": {"dir": str(tmp_path / "run")}, "optim": {"steps": 1, "global_batch": 8}, **SECTIONS}
    config = tmp_path / "run.json"
    config.write_text(json.dumps({**document, "model": adapting(base)}))
    before = contents(tmp_path)
    words = settings.replace("RUN", str(run)).split(" & ")
    assert told in refused(capsys, "check", config, *words, "--world-size", 2)
    assert contents(tmp_path) == before


def test_exports_that_make_no_sense_are_refused(
    base: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = refused(capsys, "export", run, "--to", "diffusers", "--out", out)
    assert "diffusers has no adapters beside a network; python -m trainer export" in line
    line = refused(capsys, "export", run, "--merged", "--to", "diffusers", "--out", out)
    assert "does not go with --merged; leave it out" in line
    assert "model.adapters: is not there to be merged" in refused(capsys, "export", base, "--merged", "--out", out)
    routed = untrained_run(base.parent / "routed", {**SECTIONS, "model": adapting(base, kind="routed")})
    line = refused(capsys, "export", routed, "--merged", "--out", out)
    assert "model.adapters.kind: is routed, which makes another network of the base for each task; leave" in line
    assert "contains other things" in refused(capsys, "export", run, "--merged", "--out", base)
    words = ("export", run, "--merged", "--out", base, "--overwrite")
    assert "already holds checkpoints" in refused(capsys, *words)
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_a_merged_run_is_finished_and_goes_on_as_another(run: Path, tmp_path: Path) -> None:
    out, more = tmp_path / "merged", tmp_path / "more"
    assert main(["export", str(run), "--merged", "--out", str(out)]) == 0
    before = contents(out / "checkpoints")
    finished = command("train", str(out / "config.yaml"))
    assert "finished at step 10; nothing to do" in finished.stderr
    assert contents(out / "checkpoints") == before
    trained = command("train", str(out / "config.yaml"), f"model.init_from={out}", f"run.dir={more}", "optim.steps=1")
    assert trained.returncode == 0, trained.stderr
    assert main(["export", str(more), "--out", str(tmp_path / "exported")]) == 0
