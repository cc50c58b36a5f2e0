"""Networks of diffusers and transformers come in, compute the same, and go out bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.commands import contents, refused
from tests.trainer.model.foreign_networks import FILES, SETTINGS, computed, write
from trainer.__main__ import main
from trainer.checkpoint import export
from trainer.config.file import load_config
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.model.build import NETWORKS
from trainer.model.network import Network, NetworkSpec
from trainer.model.weight_files import index_of, open_weights, part_of
from trainer.training.preflight import preflight

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Llama as version 5 writes it": (
        "llama",
        {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 50_000.0, "rope_type": "default"}},
    ),
    "tied Llama": ("llama", {"tie_word_embeddings": True}),
    "GPT-NeoX": ("gpt-neox", {}),
    "GPT-NeoX in two steps": ("gpt-neox", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    "DiT": ("diffusers", {}),
    "DiT without variance": ("diffusers", {"out_channels": 3}),
    "published DiT": ("diffusers", {"alike": True, "_class_name": "Transformer2DModel"}),
}


def network(folder: Path) -> tuple[RunConfig, Network]:
    """The network of an imported folder, in float64."""
    config = load_config(folder / "config.yaml")
    spec = NetworkSpec(config=config.model, state_shape=config.state_shape, num_classes=config.data.num_classes)
    built = NETWORKS[type(config.model)](spec)
    with open_weights(folder / "model.safetensors") as weights:
        built.load_state_dict({name: weights.tensor(name) for name in weights.names})
    return config, built.double().eval()


def inputs(kind: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    if kind != "diffusers":
        return (torch.randint(300, (2, 20), generator=generator),)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.tensor([0.0, 1.0, 400.0, 999.0], dtype=torch.float64), torch.tensor([0, 4, 5, 2])


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_an_imported_network_computes_what_it_did_and_goes_out_as_it_came(case: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    tensors = write(tmp_path / "theirs", kind, **changes)
    assert main(["import-weights", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    assert {*contents(tmp_path / "ours")} == {"model.safetensors", "config.yaml", "README.md"}
    config, built = network(tmp_path / "ours")
    given = inputs(kind)
    settings = {**SETTINGS[kind], **changes, **({"rope_theta": 50_000.0} if kind == "llama" else {})}
    expected = computed(kind, settings, tensors, *given)
    assert expected.std() > 0.1
    if kind == "diffusers":
        images, timesteps, labels = given
        found = built(images, 1 - (timesteps + 1) / 1000, Condition(label=labels))
        # Their phases, of up to 999 radians, are float32.
        torch.testing.assert_close(found.double(), expected[:, :3], rtol=0, atol=1e-4)
        assert config.flow is not None
        assert (config.flow.path.kind, config.flow.target.kind) == ("diffusion_steps", "noise")
        assert getattr(config.model, "embeddings") == ("shared" if "alike" in changes else "each_block")  # noqa: B009
    else:
        torch.testing.assert_close(built(*given), expected, rtol=1e-12, atol=1e-12)
    assert main(["export", str(tmp_path / "ours"), "--to", kind, "--out", str(tmp_path / "back")]) == 0
    returned = load_file(tmp_path / "back" / FILES[kind])
    assert returned.keys() == tensors.keys()
    assert all(torch.equal(returned[name], tensor) for name, tensor in tensors.items())
    assert main(["import-weights", str(tmp_path / "back"), "--out", str(tmp_path / "ours_again")]) == 0
    again = load_config(tmp_path / "ours_again" / "config.yaml")
    assert again.model.model_dump(exclude={"init_from"}) == config.model.model_dump(exclude={"init_from"})
    assert (tmp_path / "ours_again" / "model.safetensors").read_bytes() == (
        tmp_path / "ours" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("kind", FILES)
def test_weights_in_halves_and_in_parts_come_and_go(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = write(tmp_path / "theirs", kind, torch.bfloat16)
    whole = tmp_path / "theirs" / FILES[kind]
    halves = {part_of(whole.name, number, 2): [*tensors][number::2] for number in range(2)}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, whole.with_name(file))
    weight_map = {name: file for file, names in halves.items() for name in names}
    index_of(whole).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    whole.unlink()
    monkeypatch.setattr(export, "PART_BYTES", 10_000)
    assert main(["import-weights", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")]) == 0
    assert len([*(tmp_path / "ours").glob("model-*.safetensors")]) > 2
    arguments = ("--to", kind, "--dtype", "bfloat16", "--out", str(tmp_path / "back"))
    assert main(["export", str(tmp_path / "ours"), *arguments]) == 0
    with open_weights(tmp_path / "back" / FILES[kind]) as weights:
        assert {*weights.names} == tensors.keys()
        assert all(torch.equal(weights.tensor(name), tensor) for name, tensor in tensors.items())
        assert {weights.dtype(name) for name in weights.names} == {"BF16"}


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "scaled positions": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        "rope_scaling: is {'type': 'linear', 'factor': 2.0}, for which networks here have no counterpart; "
        "give weights with plain rotary positions (rope_type default)",
    ),
    "scaled positions of version 5": (
        "llama",
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3"}},
        "rope_type: is 'llama3'",
    ),
    "a window": ("llama", {"sliding_window": 512}, "sliding_window: is 512"),
    "biases": ("llama", {"attention_bias": True}, "attention_bias: is True"),
    "quantised": ("llama", {"quantization_config": {"bits": 4}}, "before quantisation"),
    "heads of another width": ("llama", {"head_dim": 16}, "head_dim: is 16"),
    "another activation": ("llama", {"hidden_act": "relu"}, "hidden_act: is 'relu'"),
    "no size": ("llama", {"hidden_size": None}, "hidden_size: is missing"),
    "a size in words": ("llama", {"num_hidden_layers": "two"}, "num_hidden_layers: is not a whole number of 1 or more"),
    "a wrong size": ("llama", {"intermediate_size": 45}, "gate_proj.weight: has shape (44, 32), not (45, 32)"),
    "a layer more": ("llama", {"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight: is missing"),
    "a layer less": ("llama", {"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight: has no place"),
    "another family": (
        "llama",
        {"model_type": "mistral"},
        "network: is 'mistral', which is not read here; give one of",
    ),
    "half the biases": ("gpt-neox", {"attention_bias": False}, "attention_bias: is False"),
    "heads that do not divide": ("gpt-neox", {"num_attention_heads": 5}, "hidden"),
    "no biases": ("diffusers", {"attention_bias": False}, "attention_bias: is False"),
    "endless pictures": ("diffusers", {"sample_size": 2**62}, "sample_size: is 4611686018427387904"),
    "weights of norms": ("diffusers", {"norm_elementwise_affine": True}, "norm_elementwise_affine: is True"),
    "odd outputs": ("diffusers", {"out_channels": 4}, "out_channels: is 4"),
    "another norm": ("diffusers", {"norm_type": "ada_norm"}, "is 'DiTTransformer2DModel', which is not read here"),
}


@each("case", REFUSALS)
def test_what_has_no_counterpart_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, changes, words = REFUSALS[case]
    folder = tmp_path / "theirs"
    write(folder, kind)
    (folder / "config.json").write_text(json.dumps({**SETTINGS[kind], **changes}))
    before = contents(tmp_path)
    line = refused(capsys, "import-weights", folder, "--out", tmp_path / "ours")
    assert line.startswith(str(folder))
    assert words in line
    assert contents(tmp_path) == before


def test_folders_that_hold_no_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = write(tmp_path / "theirs", "llama")
    weights = tmp_path / "theirs" / "model.safetensors"
    one = next(iter(tensors))
    save_file({**tensors, one: torch.zeros(300, 32, dtype=torch.int8)}, weights)
    command = "import-weights", tmp_path / "theirs", "--out", tmp_path / "ours"
    assert "embed_tokens.weight: holds I8; give weights in float32" in refused(capsys, *command)
    weights.write_bytes(b"\x00" * 7)
    assert "weights: cannot be read" in refused(capsys, *command)
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "weights: are missing; save them with save_pretrained" in refused(capsys, *command)
    assert "config.json: network: cannot be read" in refused(
        capsys, "import-weights", tmp_path / "nowhere", "--out", tmp_path / "ours"
    )
    assert not (tmp_path / "ours").exists()


def test_networks_that_another_package_does_not_have_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("llama", "gpt-neox", "diffusers"):
        write(tmp_path / kind, kind)
        assert main(["import-weights", str(tmp_path / kind), "--out", str(tmp_path / f"our_{kind}")]) == 0
    out = tmp_path / "out"

    def line(kind: str, to: str, *more: str) -> str:
        return refused(capsys, "export", tmp_path / f"our_{kind}", "--to", to, "--out", out, *more)

    assert "model.norm: rms is nothing that a GPTNeoXForCausalLM has; train with model.norm=layer" in line(
        "llama", "gpt-neox"
    )
    assert "model.norm: layer is nothing that a LlamaForCausalLM has" in line("gpt-neox", "llama")
    assert "--to: a gpt network is not a DiTTransformer2DModel; use --to llama or gpt-neox" in line(
        "llama", "diffusers"
    )
    assert "--to: a dit network is not a LlamaForCausalLM; use --to diffusers" in line("diffusers", "llama")
    assert "--dtype: float16 goes with --to" in refused(
        capsys, "export", tmp_path / "our_llama", "--dtype", "float16", "--out", out
    )
    assert "--out: " in refused(capsys, "export", tmp_path / "our_llama", "--out", tmp_path / "our_llama")
    assert not out.exists()


def test_a_run_starts_from_an_imported_folder_that_means_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("theirs"), "llama")
    Path("theirs", "tokenizer.json").write_text("{}")
    assert main(["import-weights", "theirs", "--out", "ours"]) == 0
    assert Path("ours", "tokenizer.json").read_text() == "{}"
    train = "train on: python -m trainer train ours/config.yaml 'data={kind: text, path: ENCODED}'"
    assert capsys.readouterr().out.splitlines()[1:] == [
        "your data: python -m trainer encode-text TEXTS --tokenizer ours/tokenizer.json --out ENCODED",
        train,
    ]
    bytes_of_python = "data={kind: python_source, context: 64, held_out: 1000}"

    def start(*overrides: str) -> None:
        preflight(load_config("ours/config.yaml", (bytes_of_python, "run.dir=run", *overrides)), 1)

    start()
    start("model.init_from=ours/model.safetensors")
    with pytest.raises(Refusal) as foreign:
        start("model.init_from=theirs")
    assert str(foreign.value) == (
        "theirs: weights: have the names of another package; python -m trainer import-weights theirs --out DIR, and "
        "give DIR"
    )
    with pytest.raises(Refusal, match=r"model.rotary_base: is 50000.0, and this run has 10000.0; set model.rotary"):
        start("model.rotary_base=10000")
