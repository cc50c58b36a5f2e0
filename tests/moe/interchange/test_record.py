"""Texts through tiny random mixtures of transformers: choices equal those computed from the models' own logits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moe.interchange.documents import read_texts
from moe.interchange.hugging_face import record_routing
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.interchange.commands import printed, refusal

transformers: Any = pytest.importorskip("transformers", reason="the extra flowfabric[hf] is not installed")
tokenizers: Any = pytest.importorskip("tokenizers", reason="the extra flowfabric[hf] is not installed")

TEXTS = ["the cat sat on the mat", "a", "no cat is a mat, no mat is a cat; the mat sat", "on and on and on"]
SIZES = {
    **{"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 24},
}
DEEPSEEK = {
    **SIZES,
    **{"moe_intermediate_size": 8, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
    **{"first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4},
    **{"v_head_dim": 8, "n_shared_experts": 1, "head_dim": 4},
}


def save(folder: Path, model: Any, *, tokeniser: bool = True) -> Path:
    """A model as `save_pretrained` leaves it, with a tokeniser of bytes and a few merges made on the spot."""
    model.save_pretrained(folder)
    if tokeniser:
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet))
        transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    return folder


def mixture(kind: str, seed: int = 0) -> Any:
    """A tiny random model."""
    config: Callable[..., Any] = getattr(transformers, f"{kind}Config")
    sizes = {
        "Mixtral": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
        "Olmoe": {**SIZES, "num_experts": 8, "num_experts_per_tok": 3},
        "Qwen3Moe": {**SIZES, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8},
        "Phimoe": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
        "JetMoe": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
        "DeepseekV3": DEEPSEEK,
        "Llama4Text": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 16},
        "Llama": SIZES,
    }[kind]
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config(**sizes))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "gate" in name or "router" in name:  # apart from each other, for clear choices
            torch.nn.init.normal_(tensor.data)
    return model


def largest(logits: Tensor, model: Any, _: int) -> Tensor:
    """Plain top-k, the strongest first."""
    return logits.topk(model.config.num_experts_per_tok, dim=1).indices


def grouped(logits: Tensor, model: Any, layer: int) -> Tensor:
    """DeepSeek-V3's choice, written anew: sigmoids and biases, the best two of each group choose the groups."""
    bias = model.model.layers[layer + 1].mlp.gate.e_score_correction_bias
    score = logits.sigmoid()
    chosen = []
    for token, biased in zip(score, score + bias, strict=True):
        groups = biased.reshape(4, 2).sum(dim=1).topk(2).indices.tolist()
        allowed = [expert for group in groups for expert in (2 * group, 2 * group + 1)]
        best = sorted(allowed, key=lambda expert: -biased[expert])[:3]
        chosen.append(sorted(best, key=lambda expert: -token[expert]))
    return torch.tensor(chosen)


def from_logits(model: Any, folder: Path, choose: Callable[[Tensor, Any, int], Tensor]) -> np.ndarray:
    """Choices of all texts, one at a time and without padding, [tokens, layers, k]."""
    tokenise = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for text in TEXTS:
        ids = torch.tensor([tokenise(text)["input_ids"][:24]])
        with torch.no_grad():
            logits = model.eval()(input_ids=ids, output_router_logits=True).router_logits
        layers = [choose(one.reshape(ids.numel(), -1), model, layer) for layer, one in enumerate(logits)]
        found.append(torch.stack(layers, dim=1))
    return torch.cat(found).numpy()


@each(
    "kind, choose, blocks",
    [
        ("Mixtral", largest, (0, 1, 2)),
        ("Olmoe", largest, (0, 1, 2)),
        ("Qwen3Moe", largest, (0, 1, 2)),
        ("DeepseekV3", grouped, (1, 2)),
        ("Llama4Text", largest, (0, 1, 2)),
    ],
)
def test_choices_are_those_of_the_models_own_logits(
    kind: str, choose: Callable[[Tensor, Any, int], Tensor], blocks: tuple[int, ...], tmp_path: Path
) -> None:
    model = mixture(kind)
    folder = save(tmp_path / "tiny", model)
    wanted = from_logits(model, folder, choose)
    for batch in (1, 3):
        trace = record_routing(folder, TEXTS, ranks=2, batch=batch).result
        assert isinstance(trace, RoutingTrace)
        np.testing.assert_array_equal(trace.expert_ids, wanted)
    assert trace.weights is not None
    assert (np.diff(trace.weights, axis=2) <= 0).all()
    plain = from_logits(model, folder, largest)
    assert (kind == "DeepseekV3") == bool((np.sort(plain) != np.sort(wanted)).any())
    header = trace.header
    assert (header.moe_layers, header.model, header.hidden, header.element_bytes) == (blocks, "tiny", 16, 4)
    assert header.num_experts == {"Mixtral": 4, "Olmoe": 8, "Qwen3Moe": 6, "DeepseekV3": 8, "Llama4Text": 4}[kind]


def test_a_router_that_shows_its_scores_is_not_heard_besides_its_experts(tmp_path: Path) -> None:
    trace = record_routing(save(tmp_path / "tiny", mixture("Phimoe")), TEXTS).result
    assert isinstance(trace, RoutingTrace)
    assert (trace.header.num_layers, trace.header.moe_layers) == (3, (0, 1, 2))


def test_the_verb_writes_the_same_bytes_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "tiny", mixture("Mixtral"))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS))
    command = ("record", "--model", folder, "--texts", texts, "--ranks", 2, "--batch", 2)
    said = printed(capsys, *command, "--out", tmp_path / "one.npz")
    printed(capsys, *command, "--out", tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert "3 layers, 4 experts, 2 choices a token, 2 ranks; 4 of 4 texts" in said
    trace = RoutingTrace.read(tmp_path / "one.npz")
    assert trace.sequence is not None
    assert trace.position is not None
    np.testing.assert_array_equal(trace.source_rank, trace.sequence % 2)
    starts = np.flatnonzero(trace.position == 0)
    np.testing.assert_array_equal(trace.sequence[starts], [0, 1, 2, 3])


def test_recording_ends_after_so_many_tokens_and_texts_at_the_positions_of_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "tiny", mixture("Mixtral"))
    (tmp_path / "texts.txt").write_text(f"{'xyz ' * 30}\n\n{TEXTS[0]}\n{TEXTS[1]}\n")
    out = tmp_path / "out.npz"
    command = ("record", "--model", folder, "--texts", tmp_path / "texts.txt", "--out", out)
    said = printed(capsys, *command, "--max-tokens", 27)
    assert "27 tokens" in said
    assert "2 of 3 texts; 1 of them cut at the positions of the model" in said
    trace = RoutingTrace.read(out)
    assert trace.sequence is not None
    np.testing.assert_array_equal(np.bincount(trace.sequence), [24, 3])


def test_folders_that_are_no_mixture_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("some words\n")
    rest = ("--texts", tmp_path / "texts.txt", "--out", tmp_path / "out.npz")
    assert "folder: is none" in refusal(capsys, "record", "--model", tmp_path / "nowhere", *rest)
    dense = save(tmp_path / "dense", mixture("Llama"))
    assert "model_type: llama has no layers with experts" in refusal(capsys, "record", "--model", dense, *rest)
    deaf = save(tmp_path / "deaf", mixture("JetMoe"))
    assert "jetmoe: its experts are not passed" in refusal(capsys, "record", "--model", deaf, *rest)
    bare = save(tmp_path / "bare", mixture("Mixtral"), tokeniser=False)
    assert "tokeniser: has no tokeniser" in refusal(capsys, "record", "--model", bare, *rest)
    pickled = save(tmp_path / "pickled", mixture("Mixtral"))
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "pickles are not read" in refusal(capsys, "record", "--model", pickled, *rest)


def test_damage_to_a_folder_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "texts.txt").write_text("some words\n")
    folder = save(tmp_path / "tiny", mixture("Mixtral"))
    command = ("record", "--model", folder, "--texts", tmp_path / "texts.txt", "--out", tmp_path / "out.npz")
    weights = load_file(folder / "model.safetensors")
    gate = next(name for name in weights if "gate" in name)
    save_file({name: one for name, one in weights.items() if name != gate}, folder / "model.safetensors")
    assert "weights: lack 1 tensors of the model" in refusal(capsys, *command)
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "model: cannot be loaded" in refusal(capsys, *command)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "a.B"}, "model_type": "own"}))
    assert "cannot be loaded" in refusal(capsys, *command)
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))
    assert "cannot be loaded" in refusal(capsys, *command)
    (folder / "tokenizer.json").write_text("{")
    assert "tokeniser: cannot be loaded" in refusal(capsys, *command)


def test_numbers_below_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("some words\n")
    command = ("record", "--model", tmp_path, "--texts", tmp_path / "texts.txt", "--out", tmp_path / "out.npz")
    for flag in ("--ranks", "--max-tokens", "--batch"):
        assert f"{flag}: must be at least 1 (0)" in refusal(capsys, *command, flag, 0)


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "texts.txt").write_text("some words\n")
    command = ("record", "--model", tmp_path, "--texts", tmp_path / "texts.txt", "--out", tmp_path / "out.npz")
    assert "--model: the package transformers is not installed here; pip install" in refusal(capsys, *command)


def test_texts_are_lines_or_json_lines(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text(' one \n\n{"text": 2}\n')
    assert read_texts(tmp_path / "texts.txt") == ["one", '{"text": 2}']
    (tmp_path / "texts.jsonl").write_text('{"text": " one\\ntwo"}\n\n{"text": ""}\n')
    assert read_texts(tmp_path / "texts.jsonl") == [" one\ntwo"]
    for content, told in (
        (b"{}", "line 1: text: is not text"),
        (b"{", "line 1: is not JSON"),
        (b"\xff", "is not UTF-8 text"),
        (b"\n", "contains no texts"),
        (b"[1]", "line 1: text: is not text"),
    ):
        (tmp_path / "texts.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=told):
            read_texts(tmp_path / "texts.jsonl")
