"""Writing on behind prompts: with a cache as without one, and wherever the tokens are."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from moe.collective_trace import read
from tests.each import each
from tests.ranks import run_ranks
from tests.trainer.model.language_models import SIZES, dense, mixture
from trainer.model.gpt import GPT
from trainer.sampling.text import generate, write_on

WORLD_SIZES = (2, 4)
PROMPTS = [b"def ", b"class Layer", b"x", b"import t", b"return"]
NUM_TOKENS = 4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def without_cache(model: GPT, prompt: bytes, written: bytes) -> Tensor:
    """Logits before each written byte, each from a forward pass over all that is before it."""
    texts = [torch.tensor([list(prompt + written[:number])]) for number in range(len(written))]
    with torch.no_grad():
        return torch.stack([model(text)[0, -1] for text in texts])


def observed(model: GPT, prompts: list[bytes], num_tokens: int) -> dict[tuple[int, int], Tensor]:
    """The logits from which every byte was chosen on this rank: always the likeliest one."""
    seen: dict[tuple[int, int], Tensor] = {}

    def chooser(_keys: Tensor) -> Any:
        def choose(sequences: Tensor, logits: Tensor, step: int) -> Tensor:
            for sequence, row in zip(sequences.tolist(), logits, strict=True):
                seen[sequence, step] = row
            return logits.argmax(dim=1)

        return choose

    write_on(model, prompts, num_tokens, 0, chooser)
    return seen


def test_a_cache_changes_no_prediction() -> None:
    model = dense(context=24).train()
    seen = observed(model, PROMPTS, NUM_TOKENS)
    written = [bytes(text) for text in generate(model, PROMPTS, NUM_TOKENS, temperature=0, generator=seeded(0))]
    assert model.training, "left as it was"
    model.eval()
    for number, (prompt, text) in enumerate(zip(PROMPTS, written, strict=True)):
        expected = without_cache(model, prompt, text)
        assert expected.std() > 0.1
        torch.testing.assert_close(torch.stack([seen[number, step] for step in range(NUM_TOKENS)]), expected)
        assert text == bytes(expected.argmax(dim=1).tolist())


def test_what_is_written_does_not_depend_on_the_other_prompts() -> None:
    model = dense(context=24)
    together = generate(model, PROMPTS, NUM_TOKENS, generator=seeded(3))
    assert generate(model, PROMPTS[:1], NUM_TOKENS, generator=seeded(3)) == together[:1]
    assert generate(model, PROMPTS[:1], NUM_TOKENS, generator=seeded(4)) != together[:1]
    assert generate(model, [], NUM_TOKENS, generator=seeded(3)) == []
    assert all(len(text) == NUM_TOKENS for text in together)


def test_a_vocabulary_of_thousands_is_written_from_and_what_lies_beyond_the_tokenizer_is_not() -> None:
    model = dense(context=24, vocabulary=1000)
    prompts = [[999, 3, 500], [700]]
    (coldest, _) = generate(model, prompts, 5, temperature=0, generator=seeded(0))
    text = torch.tensor([prompts[0]])
    for token in coldest:
        expected = model(text)[0, -1]
        assert int(expected.argmax()) == token
        text = torch.cat([text, torch.tensor([[token]])], dim=1)
    drawn = generate(model, prompts * 20, 10, temperature=3.0, generator=seeded(0), vocabulary=300)
    assert max(map(max, drawn)) < 300 <= max(coldest)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_bytes_are_drawn_from_the_models_distribution(temperature: float) -> None:
    model, number = dense(context=24), 4000
    (written,) = (generate(model, [b"ab"] * number, 1, temperature=temperature, generator=seeded(5)),)
    logits = without_cache(model.eval(), b"ab", b"x")[0]
    expected = number * (logits / temperature).softmax(dim=0)
    counts = torch.bincount(torch.tensor([text[0] for text in written]), minlength=256)
    likely = expected >= 5
    observed_counts = torch.cat([counts[likely], counts[~likely].sum()[None]])
    expected_counts = torch.cat([expected[likely], expected[~likely].sum()[None]]).clamp(min=1e-9)
    statistic = float(((observed_counts - expected_counts) ** 2 / expected_counts).sum())
    degrees = len(expected_counts) - 1
    assert degrees >= 5
    assert statistic < degrees + 4 * math.sqrt(2 * degrees) + 8


@each(
    ("prompts", "num_tokens", "temperature", "line"),
    [
        ([b"a", b""], 4, 1.0, "prompts: one is empty; give at least one token"),
        ([b"a" * 20], 5, 1.0, "num_tokens: 5 behind a prompt of 20 exceed the model's context 24; shorten one of them"),
        ([b"a"], 0, 1.0, "num_tokens: there is nothing to write (0); give 1 or more"),
        ([b"a"], 4, -0.5, "temperature: is negative (-0.5); give 0 or more"),
    ],
)
def test_impossible_wishes_are_refused_with_a_remedy(
    prompts: list[bytes], num_tokens: int, temperature: float, line: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        generate(dense(context=24), prompts, num_tokens, temperature=temperature, generator=seeded(0))
    assert str(error.value) == line


# on several ranks

ROUTES = (("home", 1), ("coherent", 1), ("coherent", 2))


def own_prompts(rank: int, world_size: int) -> list[bytes]:
    """The last rank has none."""
    return PROMPTS[rank :: world_size - 1] if rank < world_size - 1 else []


def on_a_rank(rank: int, world_size: int) -> dict[tuple[str, int], dict[str, Any]]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    prompts = own_prompts(rank, world_size) if world_size > 1 else PROMPTS
    found = {}
    for mode, top_k in ROUTES:
        model = mixture(mode, top_k, world_size, torch.float32, context=24)
        found[mode, top_k] = {
            **recorded(model, prompts),
            "drawn": generate(model, prompts, NUM_TOKENS, generator=seeded(20 + rank)),
        }
        if world_size == 1:
            model.eval()
            coldest = generate(model, prompts, NUM_TOKENS, temperature=0, generator=seeded(0))
            likeliest = [bytes(text) for text in coldest]
            found[mode, top_k]["logits"] = {
                prompt: without_cache(model, prompt, text) for prompt, text in zip(prompts, likeliest, strict=True)
            }
            found[mode, top_k]["likeliest"] = dict(zip(prompts, likeliest, strict=True))
    return found


def recorded(model: GPT, prompts: list[bytes]) -> dict[str, Any]:
    """The logits seen on this rank and what was sent, likeliest bytes first."""
    from trainer.distributed.groups import group_names
    from trainer.trace.recorder import Recorder

    with TemporaryDirectory() as folder:
        recorder = Recorder(
            Path(folder) / "trace.jsonl",
            steps=[1],
            ranks_per_node=1,
            group_names=group_names(),
            blocks=list(model.blocks),
        )
        with recorder.step(1):
            seen = observed(model, prompts, NUM_TOKENS)
        recorder.write()
        return {"seen": seen, "records": read(recorder.path)[1] if recorder.path.exists() else []}


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict[tuple[str, int], dict[str, Any]]]]:
    return {world_size: run_ranks(on_a_rank, world_size) for world_size in (1, *WORLD_SIZES)}


@each("world_size", WORLD_SIZES)
@each("top_k", [1, 2])
def test_moving_tokens_predict_what_one_process_predicts(results: dict[int, Any], world_size: int, top_k: int) -> None:
    expected = results[1][0]["coherent", top_k]["logits"]
    most = max(len(own_prompts(rank, world_size)) for rank in range(world_size))
    merged = {key: row for result in results[world_size] for key, row in result["coherent", top_k]["seen"].items()}
    assert len(merged) == len(PROMPTS) * NUM_TOKENS
    for rank in range(world_size):
        for number, prompt in enumerate(own_prompts(rank, world_size)):
            rows = torch.stack([merged[rank * most + number, step] for step in range(NUM_TOKENS)])
            assert expected[prompt].std() > 0.2
            torch.testing.assert_close(rows, expected[prompt], rtol=1e-5, atol=1e-5)
    if world_size == 2:
        assert len(results[2][1]["coherent", top_k]["seen"]) > 0, "tokens do move to the rank that has no prompt"


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_what_is_drawn_does_not_depend_on_where_it_is_drawn(results: dict[int, Any], world_size: int) -> None:
    for result in results[world_size]:
        assert result["coherent", 1]["drawn"] == result["home", 1]["drawn"]


def steps(records: list[Any]) -> list[list[Any]]:
    """The records behind the prompt's, step by step; a step ends behind the last block."""
    found: list[list[Any]] = [[]]
    for record in records:
        if record.group == "expert":
            found[-1].append(record)
            if record.layer is None and record.dtype == "uint8":
                found.append([])
    return found[2:-1]


@each("world_size", WORLD_SIZES)
@each("top_k", [1, 2])
def test_a_step_is_one_all_to_all_a_layer_and_one_all_gather(
    results: dict[int, Any], world_size: int, top_k: int
) -> None:
    layers, element = SIZES["num_layers"], 4
    pair = 2 * SIZES["num_kv_heads"] * (SIZES["hidden"] // SIZES["num_heads"]) * element
    row = SIZES["hidden"] * element + 4 * top_k + 4 * (1 + top_k)
    most = max(len(own_prompts(rank, world_size)) for rank in range(world_size))
    by_rank = [steps(result["coherent", top_k]["records"]) for result in results[world_size]]
    assert all(len(rank) == NUM_TOKENS - 1 for rank in by_rank)
    for step in range(NUM_TOKENS - 1):
        for rank in by_rank:
            ops = [(record.layer, record.op) for record in rank[step]]
            assert ops == [
                *((layer, "all_to_all") for layer in range(layers) for _ in range(top_k)),
                (None, "all_gather"),
            ]
        rows_by_rank = [0] * world_size
        for layer in range(layers):
            first = next(record for record in by_rank[0][step] if record.layer == layer)
            rows = [size // row for size in first.out_splits]
            assert sum(rows) == len(PROMPTS)
            assert list(first.out_splits) == [number * row for number in rows]
            rows_by_rank = [total + number for total, number in zip(rows_by_rank, rows, strict=True)]
        for rank in by_rank:
            gathered = rank[step][-1]
            assert gathered.bytes_in == max(rows_by_rank) * (pair + 4) + 8 * most * world_size


def test_at_home_a_step_is_two_all_to_alls_a_layer(results: dict[int, Any]) -> None:
    for result in results[2]:
        floats = [r for r in result["home", 1]["records"] if r.op == "all_to_all" and r.dtype == "float32"]
        assert len(floats) == NUM_TOKENS * SIZES["num_layers"] * 2
