"""Windows of a user's tokens: which tokens they hold, in which order they come, and what a run is told of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.commands import GPT
from tests.trainer.data.texts import config, encoded, small_tokenizer, stories, tokens
from trainer import data, load_config
from trainer.config.rules.plan import plan_layout
from trainer.data import Loader, Split, TextConfig
from trainer.data.order import keyed_order
from trainer.data.text.tokens import ByteTokenizer
from trainer.data.text_windows import Text, run_tokenizer, tokenizer_file
from trainer.model.flops import training_flops


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stories as bytes, in shards of about 150 tokens."""
    path = tmp_path_factory.mktemp("text")
    from trainer.data.text import encode
    from trainer.data.text.inputs import chunks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "chunks", partial(chunks, size=64))
        return encoded(path / "out", stories(path / "in"), shard_tokens=150)


@pytest.fixture(scope="module")
def of_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stories as tokens of a tokenizer of 300."""
    path = tmp_path_factory.mktemp("tokens")
    tokenizer = small_tokenizer(path / "tokenizer.json")
    return encoded(path / "out", stories(path / "in"), tokenizer=tokenizer)


@each("split", data.SPLITS)
@each("context", [1, 7, 40, 400])
def test_windows_overlap_by_one_token_across_documents_and_shards(folder: Path, split: Split, context: int) -> None:
    assert len(list(folder.glob("train_*.bin"))) > 5
    source = Text(config(folder, context=context))
    windows, stream = source.get(source.indices(split)).x_1, tokens(folder, split)
    assert windows.dtype == torch.int64
    assert windows.shape == (source.count(split), context + 1) == ((len(stream) - 1) // context, *source.shape)
    spelled = [int(windows[0, 0]), *windows[:, 1:].flatten().tolist()]
    assert spelled == stream[: len(spelled)]


def test_windows_come_by_their_numbers_in_any_order(folder: Path) -> None:
    section = config(folder, context=20, held_out=100)
    one, other = data.build(section), data.build(section)
    ids = torch.cat([one.indices(split) for split in data.SPLITS])
    assert ids.tolist() == list(range(len(ids)))
    assert one.count("held_out") == (100 - 1) // 20
    some = torch.tensor([5, len(ids) - 1, 2, 5])
    assert torch.equal(one.get(some).x_1, other.get(ids).x_1[some])


@contextmanager
def no_lists(source: Text) -> Iterator[None]:
    def indices(split: Split) -> Any:
        raise AssertionError(split)

    source.indices = indices
    yield
    del source.indices


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_epochs_are_shuffles_that_no_number_of_ranks_changes(folder: Path, world_size: int) -> None:
    source = Text(config(folder, context=16))
    length, batch = source.count("train"), 8

    def dealt(world_size: int, steps: range) -> list[int]:
        with no_lists(source):
            loaders = [
                Loader(source, global_batch=batch, micro_batch=2, rank=rank, world_size=world_size, seed=3)
                for rank in range(world_size)
            ]
            return [
                number
                for step in steps
                for loader in loaders
                for local in range(loader.accumulation)
                for number in loader.batch(step, local).ids.tolist()
            ]

    steps = range(-(-2 * length // batch))
    every = dealt(world_size, steps)
    assert every == dealt(1, steps)
    first, second = every[:length], every[length : 2 * length]
    assert sorted(first) == sorted(second) == list(range(length))
    assert first != second
    assert first != sorted(first)
    assert dealt(world_size, steps[7:9]) == every[7 * batch : 9 * batch], "a step alone"


@each("length", [1, 2, 17, 1024, 1025, 4096, 4097])
def test_a_computed_shuffle_gives_every_number_once(length: int) -> None:
    order = keyed_order(torch.arange(length), length, key=5)
    assert sorted(order.tolist()) == list(range(length))
    some = torch.randint(length, (20,))
    assert torch.equal(keyed_order(some, length, key=5), order[some])


def test_computed_shuffles_look_drawn() -> None:
    length, keys = 4, 1200
    orders = np.array([keyed_order(torch.arange(length), length, key=key).tolist() for key in range(keys)])
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24, "every permutation"
    expected = keys / 24
    assert ((counts - expected) ** 2 / expected).sum() < 23 + 5 * np.sqrt(2 * 23)
    large = keyed_order(torch.arange(20_000), 20_000, key=1).double()
    assert abs(torch.corrcoef(torch.stack([torch.arange(20_000).double(), large]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([large[1:], large[:-1]]))[0, 1]) < 0.03


def test_a_shuffle_of_trillions_needs_no_list() -> None:
    length = 10**13 + 7
    positions = torch.tensor([0, 1, length - 1, length // 2])
    order = keyed_order(positions, length, key=9)
    assert len(set(order.tolist())) == 4
    assert bool(((order >= 0) & (order < length)).all())


def test_the_network_has_the_vocabulary_of_the_data(of_tokens: Path, folder: Path) -> None:
    def resolved(path: Path, *overrides: str) -> Any:
        section = f"data={{kind: text, path: {path}, context: 32}}"
        return load_config(GPT, [section, "parallel.expert=1", "moe=null", *overrides])

    run = resolved(of_tokens)
    assert run.model.vocabulary == run.data.vocabulary == 300
    assert resolved(folder).model.vocabulary == 256
    larger = resolved(of_tokens, "model.vocabulary=320")
    assert larger.model.vocabulary == 320
    plan_layout(larger, 1)
    flops = [training_flops(config) or 0 for config in (run, larger)]
    assert flops[1] - flops[0] == 6 * 32 * run.model.hidden * 20, "a multiply-add for each token, element and new word"
    with pytest.raises(ValueError, match=r"model.vocabulary: 256 is less than the 300 tokens of the data; leave it"):
        plan_layout(resolved(of_tokens, "model.vocabulary=256"), 1)


def test_prompts_are_counted_in_tokens(of_tokens: Path) -> None:
    prompt = "Story 1: la la la la la la la la end."
    count = len(run_tokenizer(config(of_tokens, context=8)).encode(prompt.encode()))
    assert count < len(prompt) / 2
    settings = [f"data={{kind: text, path: {of_tokens}, context: 8}}", "moe=null", "parallel.expert=1"]
    settings += ["model.context=40", f"sample={{every: 1, prompts: ['{prompt}'], num_tokens: {40 - count}}}"]
    plan_layout(load_config(GPT, settings), 1)
    with pytest.raises(ValueError, match=rf"sample.num_tokens: .* after a prompt of {count} exceed .* 40; use at most"):
        plan_layout(load_config(GPT, [*settings, f"sample.num_tokens={41 - count}"]), 1)


def test_the_tokenizer_of_a_run_is_the_one_that_encoded_its_text(of_tokens: Path, folder: Path, tmp_path: Path) -> None:
    section = config(of_tokens, context=8)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file(section) or b"")
    text = "Story 5: é".encode()
    assert run_tokenizer(section, tmp_path).encode(text) == run_tokenizer(section).encode(text)
    small_tokenizer(tmp_path / "tokenizer.json", vocabulary=290)
    with pytest.raises(Refusal, match=r"data.tokenizer: has another SHA-256 .*; bring back"):
        run_tokenizer(section, tmp_path)
    assert isinstance(run_tokenizer(config(folder, context=8)), ByteTokenizer)
    assert tokenizer_file(config(folder, context=8)) is None


def test_a_folder_is_refused_where_it_is_not_what_the_run_began_with(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    section = config(copy)
    shard = sorted(copy.glob("train_*.bin"))[2]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(Refusal, match=r"train_00002.bin: shard: has \d+ bytes but the index says \d+ tokens"):
        Text(section)
    shard.unlink()
    with pytest.raises(Refusal, match=r"train_00002.bin: shard: cannot be read \(No such file"):
        Text(section)
    encoded(tmp_path / "other", stories(tmp_path / "in"), held_out=0.3)
    shutil.copy(tmp_path / "other" / "index.json", copy / "index.json")
    with pytest.raises(Refusal, match=r"data.digest: is .* the index says"):
        Text(section)
    (copy / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"path: .*index.json: .*write the folder again"):
        config(copy)
    (copy / "index.json").unlink()
    with pytest.raises(ValueError, match=r"path: .*cannot be read .* encode-text has finished"):
        config(copy)


@each(
    ("settings", "problem"),
    [
        ({"context": 5000}, r"context: 5000 is not below the \d+ tokens of the train documents in .*; use a shorter"),
        ({"context": 1000}, r"context: 1000 is not below the \d+ tokens of the held_out documents .* --held-out"),
        ({"context": 64, "held_out": 64}, r"held_out: 64 tokens hold no window of context 64 and one; use at least 65"),
        ({"size": 8}, "size"),
    ],
)
def test_wrong_settings_are_refused(folder: Path, settings: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        config(folder, **settings)


def test_a_resolved_section_needs_no_folder(folder: Path) -> None:
    section = config(folder, context=32)
    written = section.model_dump(mode="json")
    assert TextConfig.resolved(written | {"path": "gone"}) == written | {"path": "gone"}
    assert (section.shape, section.num_classes, section.class_names) == ((33,), 0, ())
