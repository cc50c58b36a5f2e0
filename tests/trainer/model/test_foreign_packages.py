"""Networks that diffusers and transformers build from settings, with random weights, against the same here.

Float32 on both sides. Run with -s, the tests print the largest differences.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.trainer.model.test_foreign import network
from trainer.__main__ import main
from trainer.flow import Condition

pytestmark = pytest.mark.slow

LANGUAGE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 128,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {"num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "Llama 3": ("llama", {"rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"}}),
    "tied Llama": ("llama", {"tie_word_embeddings": True}),
    "GPT-NeoX": ("gpt-neox", {}),
    "GPT-NeoX in two steps": ("gpt-neox", {"use_parallel_residual": False, "hidden_act": "gelu_fast"}),
}
DIT: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "in_channels": 4,
    "num_layers": 4,
    "sample_size": 16,
    "num_embeds_ada_norm": 10,
}


def stirred(built: Any) -> Any:
    """The network with norms and biases away from one and zero, where a new one has them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return built.eval()


def there_and_back(built: Any, kind: str, folder: Path) -> tuple[nn.Module, Path]:
    """The network here of a package's, and the folder that it goes out to, which must be as it came."""
    built.save_pretrained(folder / "theirs")
    assert main(["import-weights", str(folder / "theirs"), "--out", str(folder / "ours")]) == 0
    assert main(["export", str(folder / "ours"), "--to", kind, "--out", str(folder / "back")]) == 0
    (one,) = (folder / "theirs").glob("*.safetensors")
    given, returned = load_file(one), load_file(folder / "back" / one.name)
    assert given.keys() == returned.keys()
    assert all(torch.equal(returned[name], tensor) for name, tensor in given.items())
    return network(folder / "ours")[1].float(), folder / "back"


def told(case: str, expected: Tensor, found: Tensor) -> None:
    difference = float((expected - found).abs().max())
    print(f"{case}: largest difference {difference:.1e} at values up to {float(expected.abs().max()):.2f}")
    assert difference <= 1e-6


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_language_model_of_transformers(case: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    kind, changes = CASES[case]
    name = "Llama" if kind == "llama" else "GPTNeoX"
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**LANGUAGE, **changes})
    package = getattr(transformers, f"{name}ForCausalLM")
    theirs = stirred(package(config))
    ours, back = there_and_back(theirs, kind, tmp_path)
    tokens = torch.randint(512, (4, 128))
    expected = theirs(tokens).logits
    told(case, expected, ours(tokens))
    again = package.from_pretrained(back).eval()(tokens).logits
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-6 if "hidden_act" in changes else 0)


@pytest.mark.parametrize("outputs", [4, 8])
@torch.no_grad()
def test_a_diffusion_transformer_of_diffusers(outputs: int, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = stirred(diffusers.DiTTransformer2DModel(**DIT, out_channels=outputs))
    ours, back = there_and_back(theirs, "diffusers", tmp_path)
    images, labels = torch.randn(8, 4, 16, 16), torch.arange(8) + 3
    timesteps = torch.tensor([0, 1, 2, 77, 500, 997, 998, 999])
    expected = theirs(images, timesteps, labels).sample
    found = ours(images, 1 - (timesteps.double() + 1) / 1000, Condition(label=labels))
    told(f"DiT of {outputs} outputs", expected[:, :4], found)
    again = diffusers.DiTTransformer2DModel.from_pretrained(back).eval()
    assert torch.equal(again(images, timesteps, labels).sample, expected)
