"""Programs of exported networks compute what the networks do, in a process that cannot import the trainer."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.each import each
from tests.oracle.small_networks import CASES, DIT, GPT, MLP, arguments, experts, run_with_weights
from trainer.__main__ import main
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.pretrained import restore
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.distributed.groups import Launch, joined
from trainer.flow import Condition
from trainer.flow.field import NetworkField, guided
from trainer.flow.sampler import Euler
from trainer.model.autoencoder import Autoencoder
from trainer.sampling.flow import FlowParts

ONE = {"num_layers": 1}
EXPORTED: dict[str, dict[str, Any]] = {
    "dit of data, sparse_ot": {**CASES["dit of data"], **CASES["dit, sparse_ot"], "model": DIT | ONE},
    "dit of two fields, experts and a shared one": {
        **CASES["dit of two fields"],
        **CASES["dit of experts and a shared one"],
        "model": DIT | ONE,
    },
    "mlp of experts, sinkhorn": {**CASES["mlp of experts"], "moe": experts(kind="sinkhorn"), "model": MLP | ONE},
    "gpt of moving tokens": {"model": GPT | ONE, "moe": {**experts(kind="top_k"), "dispatch": "coherent"}},
    **{name: CASES[name] for name in ("dit", "gpt as Llama", "autoencoder")},
}
UNSUITED: dict[str, tuple[dict[str, Any], str]] = {
    "expert choice": ({"model": DIT, "moe": experts(kind="expert_choice")}, "its expert_choice router chooses"),
    "capacity": ({"model": DIT, "moe": experts(kind="top_k", capacity_factor=1.0)}, "its top_k router chooses"),
    "blockwise": ({"model": {"kind": "blockwise", "hidden": 32}}, "a blockwise chooses its blocks by the time"),
    "chain": ({"model": {"kind": "causal_transition", **DIT}}, "a causal_transition draws one token after the other"),
    "captions": (
        {
            "model": {"kind": "encoded_dit", **DIT},
            "flow": {"coupling": {"kind": "encoded"}, "captions": {"path": "unused", "width": 6, "digest": "0"}},
        },
        "paths of an encoded_dit begin at",
    ),
}
WITHOUT_TRAINER = """
import json, os, sys
sys.modules.update(dict.fromkeys(("trainer", "moe", "netsim", "megatron")))
for folder, script in json.load(sys.stdin):
    os.chdir(folder)
    exec(script, {})
"""
EXECUTED = """
import torch
from safetensors.torch import load_file, save_file
given = load_file("given.safetensors")
found = {}
for name in ("program.pt2", "encode.pt2", "decode.pt2"):
    if f"{name}.0" not in given:
        continue
    program = torch.export.load(name).module()
    inputs = [given[key] for key in sorted(given) if key.startswith(name)]
    outputs = program(*inputs)
    for number, output in enumerate([outputs] if isinstance(outputs, torch.Tensor) else outputs):
        found[f"{name}.{number}"] = output.contiguous()
save_file(found, "found.safetensors")
"""


@dataclass(frozen=True)
class Exported:
    """A run that was exported, and what its programs should compute and have computed."""

    folder: Path
    config: RunConfig
    network: Any
    expected: dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


def network_of(folder: Path, config: RunConfig) -> Any:
    return restore(config, Layout.single(config), newest_checkpoint(folder))


def expected_of(config: RunConfig, network: Any) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Inputs and outputs of each program."""
    given = arguments(config)
    if isinstance(network, Autoencoder):
        mean, log_variance = network.encode(*given)
        return {"encode.pt2": (given, (mean, log_variance)), "decode.pt2": ((mean,), (network.decode(mean),))}
    if config.flow is None:
        return {"program.pt2": (given, (network(*given),))}
    x, t, label = given
    field = NetworkField(guided(network, Condition(label=label), Condition(), 1.0), FlowParts(config).target)
    return {"program.pt2": (given, (field(x, t),))}


@pytest.fixture
def _alone() -> Iterator[None]:
    with joined(Launch(0, 0, 1, 1)):
        yield


@torch.no_grad()
def exported_to(folder: Path, case: str) -> Exported:
    with joined(Launch(0, 0, 1, 1)):
        config = run_with_weights(folder, EXPORTED[case])
        network = network_of(folder / "run", config)
        expected = expected_of(config, network)
    out = folder / "exported"
    assert main(["export", str(folder / "run"), "--program", "--out", str(out)]) == 0
    given = {f"{name}.{number}": one for name, (inputs, _) in expected.items() for number, one in enumerate(inputs)}
    save_file({name: tensor.contiguous() for name, tensor in given.items()}, out / "given.safetensors")
    return Exported(out, config, network, expected)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Every case, its programs and the lines of some of their cards executed in one process without the trainer."""
    found = {case: exported_to(tmp_path_factory.mktemp("run"), case) for case in EXPORTED}
    scripts = [(str(one.folder), EXECUTED) for one in found.values()]
    for case in ("dit", "gpt as Llama", "autoencoder"):
        folder = found[case].folder
        reading, drawing = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        save = "torch.save(samples, 'samples.pt')" if case == "dit" else ""
        scripts += [(str(folder), reading + "assert weights"), (str(folder), drawing + save)]
    command = [sys.executable, "-c", WITHOUT_TRAINER]
    subprocess.run(command, input=json.dumps(scripts), text=True, check=True, timeout=300)
    return found


@each("case", EXPORTED)
def test_a_program_computes_what_the_network_does_without_the_trainer(case: str, exported: dict[str, Exported]) -> None:
    found = load_file(exported[case].folder / "found.safetensors")
    for name, (_, outputs) in exported[case].expected.items():
        for number, output in enumerate(outputs):
            assert output.std() > 0.01
            torch.testing.assert_close(found[f"{name}.{number}"], output, rtol=1e-5, atol=1e-5)


def test_the_card_draws_with_the_program(exported: dict[str, Exported]) -> None:
    """Lines of other cards have run to their end; those of a flow give its samples."""
    config, network, folder = exported["dit"].config, exported["dit"].network, exported["dit"].folder
    parts, x = FlowParts(config), torch.randn(4, *config.state_shape, generator=torch.Generator().manual_seed(0))
    label = torch.arange(4) % config.data.num_classes
    nothing = Condition(label=torch.full_like(label, config.data.num_classes))
    field = NetworkField(guided(network, Condition(label=label), nothing, 1.5), parts.target)
    assert isinstance(config.sample, FlowSample)
    euler = Euler(steps=getattr(config.sample.sampler, "steps", 0))
    with torch.no_grad():
        expected = parts.data_of(euler.build(parts.path).sample(field, x, euler.grid()).final)
    drawn = torch.load(folder / "samples.pt")
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@each("case", UNSUITED)
@pytest.mark.usefixtures("_alone")
def test_what_is_no_program_is_refused_by_name(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections, reason = UNSUITED[case]
    run_with_weights(tmp_path, sections)
    out = tmp_path / "exported"
    assert main(["export", str(tmp_path / "run"), "--program", "--out", str(out)]) == 2
    assert f"--program: {reason}" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), "--out", str(out)]) == 0
    assert reason in (out / "README.md").read_text()


@pytest.mark.usefixtures("_alone")
def test_a_network_that_torch_refuses_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: Any, **__: Any) -> None:
        raise RuntimeError("it depends on data\nmore")

    monkeypatch.setattr(torch.export, "export", export)
    run_with_weights(tmp_path, CASES["mlp"])
    assert main(["export", str(tmp_path / "run"), "--program", "--out", str(tmp_path / "exported")]) == 2
    assert "--program: torch.export refuses this network (it depends on data)" in capsys.readouterr().err
