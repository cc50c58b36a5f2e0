import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.data.test_loader import Numbers
from trainer.config.file import resolve
from trainer.config.rules.objection import refuse
from trainer.config.rules.pairing import of_mixture
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import (
    BadExamples,
    Batch,
    CaptionsConfig,
    Dataset,
    Loader,
    MixtureConfig,
    Split,
    build,
    first_data_points,
)
from trainer.data.derived import Sourced, counts_of
from trainer.data.mixture import Mixture, MixtureFile
from trainer.data.order import BLOCK, Dealing
from trainer.data.picture import AugmentConfig, augmented
from trainer.data.protocol import SOURCE_BIT, TooManyBadExamples, id_of, source_of
from trainer.data.text_windows import run_tokenizer
from trainer.task import NextTokenTask

SCHEMA = json.loads(Path("configs/schemas/mixture.schema.json").read_text())
SHARES = st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any)
TOY = {"kind": "toy", "name": "moons", "held_out": 7}


class Endless(Numbers):
    """Example i, of any number, is an image of i."""

    endless = True

    def indices(self, split: Split) -> Tensor:
        return torch.arange(2**62, 2**62 + 3) if split == "held_out" else torch.arange(0)


class Keyed(Numbers):
    """Examples that nobody lists."""

    keyed_order = True

    def indices(self, split: Split) -> Tensor:
        assert split == "held_out"
        return torch.arange(self.num_examples, self.num_examples + 2)

    def count(self, split: Split) -> int:
        return self.num_examples if split == "train" else 2


class Spoiled(Numbers):
    """Example 6 cannot be read."""

    def get(self, indices: Tensor) -> Batch:
        if 6 in indices:
            raise BadExamples({6: "six.png cannot be read"})
        return super().get(indices)


def mixed(shares: dict[str, float] | None, **sources: Dataset) -> Any:
    section = {name: {"kind": "digits"} for name in sources}
    config = MixtureConfig.model_validate({"kind": "mixture", "sources": section, "shares": shares})
    return Mixture(config, sources)


def dealt(dataset: Dataset, num: int, *, seed: int = 0, batch: int = 1, **changes: Any) -> list[int]:
    loader = Loader(dataset, global_batch=batch, micro_batch=batch, rank=0, world_size=1, seed=seed, **changes)
    return [one for step in range(num // batch) for one in loader.batch(step, 0).ids.tolist()]


@given(weights=SHARES, seed=st.integers(0, 2**62), blocks=st.integers(1, 5), start=st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_dealing_is_the_plain_count_of_who_came_before(weights: list[int], seed: int, blocks: int, start: int) -> None:
    """The reference walks over the positions one by one, with a counter for each source."""
    shares = [weight / sum(weights) for weight in weights]
    dealing = Dealing(shares, seed)
    num = blocks * dealing.block
    sources, places = dealing.places(0, num)
    counters: Counter[int] = Counter()
    for source, place in zip(sources.tolist(), places.tolist(), strict=True):
        assert place == counters[source]
        counters[source] += 1
        assert shares[source] > 0
    for block in range(blocks + 1):
        so_far = Counter(sources[: block * dealing.block].tolist())
        for source, share in enumerate(shares):
            assert abs(so_far[source] - share * block * dealing.block) <= 1 + 1e-6
    cut = num // 3
    again = [torch.cat(parts) for parts in zip(dealing.places(0, cut), dealing.places(cut, num), strict=True)]
    assert torch.equal(again[0], sources)
    assert torch.equal(again[1], places)
    far, late = dealing.places(start, start + 250), dealing.places(start + 100, start + 101)
    assert (int(far[0][100]), int(far[1][100])) == (int(late[0]), int(late[1]))
    for source, share in enumerate(shares):
        own = far[1][far[0] == source]
        assert torch.equal(own, torch.arange(len(own)) + (own[0] if len(own) else 0))
        assert not len(own) or abs(int(own[0]) - share * start) <= dealing.block + 2


def test_shares_in_percent_are_exact_in_every_block_and_seeds_change_the_order() -> None:
    shares = [0.07, 0.5, 0.43]
    dealing = Dealing(shares, 3)
    assert dealing.block == BLOCK
    for block in (0, 1, 10**9):
        sources, _ = dealing.places(block * BLOCK, (block + 1) * BLOCK)
        assert sources.bincount().tolist() == [7, 50, 43]
    one, other = (Dealing(shares, seed).places(0, 500)[0] for seed in (3, 4))
    assert not torch.equal(one, other)
    assert not torch.equal(one[:100], one[100:200])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_mixture_is_dealt_alike_on_any_number_of_ranks_and_micro_batches(world_size: int) -> None:
    dataset = mixed({"a": 0.3, "b": 0.6, "c": 0.1}, a=Numbers(22), b=Keyed(2000), c=Endless(1))
    expected = dealt(dataset, 8 * 24)
    for micro in (2, 3):
        for step in (7, 2):  # any step by itself, as after a kill
            ids: list[int] = []
            for rank in range(world_size):
                loader = Loader(dataset, global_batch=24, micro_batch=micro, rank=rank, world_size=world_size, seed=0)
                for local in range(loader.accumulation):
                    batch = loader.batch(step, local)
                    assert batch.sources is not None
                    assert torch.equal(batch.sources, source_of(batch.ids)[0])
                    assert torch.equal(batch.x_1.flatten(), source_of(batch.ids)[1].float())
                    ids += batch.ids.tolist()
            assert ids == expected[step * 24 : (step + 1) * 24]


def test_every_example_of_a_source_comes_once_before_any_comes_twice() -> None:
    """Also where an epoch ends within a block, and at the same places as the source's own loader deals it alone."""
    dataset = mixed({"a": 0.25, "b": 0.55, "c": 0.2}, a=Numbers(62), b=Keyed(1500), c=Endless(1))
    sources, own = source_of(torch.tensor(dealt(dataset, 4000, batch=50)))
    for number, (name, size) in enumerate({"a": 31, "b": 1500, "c": None}.items()):
        seen = own[sources == number].tolist()
        assert len(seen) == pytest.approx(dataset.mix.shares[number] * 4000, abs=1)
        for begin in range(0, len(seen), size or len(seen)):
            epoch = seen[begin : begin + (size or len(seen))]
            assert len(set(epoch)) == len(epoch)
        alone = dealt(dataset.mix.sources[name], len(seen), seed=derive_seed(0, "source", name), batch=len(seen))
        assert seen == alone


def test_ids_carry_the_source_and_those_of_the_first_are_its_own() -> None:
    own = torch.tensor([0, 5, 2**47, 2**62, 2**62 + 9])
    for number in (0, 1, 2**14 - 1):
        ids = id_of(number, own)
        assert (ids >= 0).all()
        assert [part.tolist() for part in source_of(ids)] == [[number] * 5, own.tolist()]
    assert torch.equal(id_of(0, own), own)
    assert int(id_of(3, torch.tensor(7))) == 3 * 2**SOURCE_BIT + 7


def test_held_out_examples_are_those_of_every_source() -> None:
    dataset = mixed({"a": 0.5, "b": 0.5}, a=Numbers(10), b=Endless(1))
    assert dataset.count("held_out") == 8
    ids = dealt(dataset, 8, batch=2, split="held_out")
    assert sorted(ids) == sorted([1, 3, 5, 7, 9, *(2**62 + 2**SOURCE_BIT + k for k in range(3))])
    batch = dataset.get(torch.tensor(ids))
    assert batch.sources is not None
    assert batch.sources.tolist() == [int(one >= 2**61) for one in ids]
    assert torch.equal(batch.ids, torch.tensor(ids))


def test_first_examples_are_mixed_as_the_shares_say_and_none_comes_twice() -> None:
    dataset = mixed({"a": 0.25, "b": 0.75, "c": 0.0}, a=Numbers(2000), b=Endless(1), c=Numbers(10))
    first = first_data_points(dataset, "train", 400)
    assert source_of(first)[0].bincount().tolist() == [100, 300]
    everything = first_data_points(dataset, "train", 10**9)
    assert len(everything.unique()) == len(everything) == 4000
    held_out = source_of(first_data_points(dataset, "held_out", 500))[0].bincount(minlength=3)
    assert held_out.tolist() == pytest.approx([1000 / 2.016, 3 / 2.016, 5 / 2.016], abs=1)


def test_shares_follow_the_sizes_where_none_are_given() -> None:
    assert mixed(None, a=Numbers(20), b=Keyed(30)).mix.shares == (0.25, 0.75)
    with pytest.raises(ValueError, match=r"^data\.shares: b is endless and has no size; give each source a share$"):
        mixed(None, a=Numbers(20), b=Endless(1))
    with pytest.raises(
        ValueError, match=r"^data\.shares: by size: a has 1e-06, and less than 0\.0001 is not dealt; give"
    ):
        mixed(None, a=Numbers(2), b=Keyed(999_999))


def test_a_bad_example_is_replaced_by_the_next_of_its_source() -> None:
    dataset = mixed({"a": 0.5, "b": 0.5}, a=Numbers(20), b=Spoiled(20))
    good = mixed({"a": 0.5, "b": 0.5}, a=Numbers(20), b=Numbers(20))
    bad, stands_in = (int(id_of(1, torch.tensor(own))) for own in (6, 8))
    expected = [stands_in if one == bad else one for one in dealt(good, 200, batch=20)]
    loader = Loader(dataset, global_batch=20, micro_batch=20, rank=0, world_size=1, seed=0, max_bad_share=0.1)
    batches = [loader.batch(step, 0) for step in range(10)]
    assert [one for batch in batches for one in batch.ids.tolist()] == expected
    assert {reason for batch in batches for reason in batch.replaced} == {"six.png cannot be read"}
    with pytest.raises(TooManyBadExamples, match="1 of 20 examples cannot be read, more than 0"):
        dealt(dataset, 40, batch=20)


def test_each_source_is_augmented_in_its_own_way() -> None:
    class Cropped(Numbers):
        augment = AugmentConfig(flip=0.5, crop=1)

        def get(self, indices: Tensor) -> Batch:
            pixels = fold_in(indices, 3)[:, None] + torch.arange(16)
            return Batch((pixels % 97).float().reshape(-1, 1, 4, 4), None, indices)

    class Plain(Cropped):
        augment = None

    dataset = mixed({"a": 0.5, "b": 0.5}, a=Cropped(40), b=Plain(40))
    loader = Loader(dataset, global_batch=30, micro_batch=30, rank=0, world_size=1, seed=5)
    batch: Any = loader.batch(4, 0)
    positions = torch.arange(120, 150)
    plain = dataset.get(batch.ids)
    first = plain.sources == 0
    assert torch.equal(batch.x_1[~first], plain.x_1[~first])
    assert Cropped.augment is not None
    changed = augmented(Cropped.augment, plain.x_1[first], batch.ids[first], positions[first], seed=5)
    assert torch.equal(batch.x_1[first], changed)
    assert not torch.equal(changed, plain.x_1[first])
    assert torch.equal(batch.sources, plain.sources)


def run(**data: Any) -> Any:
    document = {"run": {"dir": "r"}, "optim": {"steps": 1, "global_batch": 8}, "data": {"kind": "mixture", **data}}
    return RunConfig.model_validate({**document, "model": {"kind": "mlp" if "toy" in str(data) else "dit"}})


def test_sources_of_a_model_have_its_kind_and_labels_may_be_their_numbers() -> None:
    config = run(sources={"small": {}, "few": {"held_out": 900}}, labels="source")
    assert [part.kind for part in config.data.parts] == ["digits", "digits"]
    assert (config.data.num_classes, config.data.class_names) == (2, ("small", "few"))
    again = RunConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    dataset: Any = build(config.data)
    batch = dataset.get(dataset.indices("train")[:2000])
    assert batch.labels is not None
    assert torch.equal(batch.labels, batch.sources)
    own: Any = build(run(sources={"small": {}, "few": {"held_out": 900}}).data)
    digits: Any = build(run(sources={"small": {}}).data)
    assert torch.equal(own.get(own.indices("train")[:1437]).labels, digits.get(digits.indices("train")).labels)


@each(
    ("data", "message"),
    [
        (
            {"sources": {"a": {}, "b": {"size": 16}}},
            r"sources\.b: its shape is \[1, 16, 16\], and that of a is \[1, 8, 8\]",
        ),
        (
            {"sources": {"a": TOY, "b": {**TOY, "classes": True}}},
            r"its num_classes is 2, and that of a is 0; give .* set",
        ),
        ({"sources": {"a": {}}, "shares": {"a": 0.5}}, r"shares: sum to 0\.5, not to 1; write such as \{a: 1\}"),
        ({"sources": {"abc": {}, "b": {}}, "shares": {"abd": 1}}, r"shares\.abd: is no source; write abc"),
        ({"sources": {"a": {}, "b": {}}, "shares": {"a": 1}}, r"shares: b has none; give each source one, 0 to leave"),
        ({"sources": {"a": {}, "b": {}}, "shares": {"a": 0.99999, "b": 1e-5}}, r"shares: b has 1e-05, and less than"),
        ({"sources": {"a": TOY}}, r"shares: a is endless and has no size; give each source a share"),
        ({"sources": {"a": {}, "b": {"kind": "mixture", "sources": {}}}}, r"sources\.b\n.* tag 'mixture' found"),
        (
            {"sources": {"a": {"kind": "python_source"}}},
            r"data\.sources\.a\.kind: python_source is not for a dit model",
        ),
        ({"sources": {"a-b": {}}}, "should match pattern"),
    ],
)
def test_sources_that_do_not_fit_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**data)


def test_data_sets_that_cannot_be_dealt_are_refused() -> None:
    class Distant(Numbers):
        def indices(self, split: Split) -> Tensor:
            return torch.tensor([2**50 + (split == "held_out")])

    class HeldOut(Numbers):
        def indices(self, split: Split) -> Tensor:
            return torch.arange(9 if split == "held_out" else 0)

    class Shaped(Numbers):
        def groups(self, split: Split) -> tuple[Tensor, ...]:
            return self.indices(split)[:2], self.indices(split)[2:]

    for source, message in (
        (Distant(4), r"^data\.sources\.b: an id of it, 1125899906842624, is negative or 2\*\*48 or more"),
        (Shaped(20), r"^data\.sources\.b: its examples have several shapes"),
        (mixed(None, a=Numbers(4)), r"^data\.sources\.b: is a mixture, or has source points, itself"),
        (HeldOut(9), r"^data\.sources\.b: has no training example; give it the share 0"),
    ):
        with pytest.raises(ValueError, match=message):
            mixed({"a": 0.5, "b": 0.5}, a=Numbers(4), b=source)


def test_a_file_gives_the_shares(tmp_path: Path) -> None:
    path = tmp_path / "mixture.json"
    made = MixtureFile(format="flowfabric.mixture/1", shares={"a": 0.25, "b": 0.75}, figures={"measure": "loss"})
    made.write(path)
    assert MixtureFile.read(path) == made
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    config = run(sources={"a": {}, "b": {}}, shares=str(path))
    path.unlink()
    again: Any = RunConfig.model_validate(config.model_dump(mode="json"))
    assert again.data.shares == {"a": 0.25, "b": 0.75}


@each(
    ("text", "message"),
    [
        ("{", "file: cannot be read (it is not JSON"),
        ('{"format": "flowfabric.mixture/2", "shares": {"a": 1}}', "format: "),
        ('{"format": "flowfabric.mixture/1"}', "shares: is missing; add it"),
        ('{"format": "flowfabric.mixture/1", "shares": {"a": NaN}}', "shares.a: must be a finite number (nan)"),
        ('{"format": "flowfabric.mixture/1", "shares": {"a": 0.5}}', "shares: sum to 0.5, not to 1"),
        ('{"format": "flowfabric.mixture/1", "shares": {"a": -1, "b": 2}}', "shares.a: must be greater than or equal"),
        ('{"format": "flowfabric.mixture/1", "shares": {"a": 1}, "share": 3}', "share: is not a known key"),
    ],
)
def test_a_malformed_file_of_shares_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mixture.json"
    path.write_text(text)
    with pytest.raises(Refusal) as caught:
        MixtureFile.read(path)
    assert str(caught.value).startswith(f"{path}: {message}") or message in str(caught.value)
    with pytest.raises(Refusal):
        MixtureFile.read(tmp_path / "none.json")


def words(**changes: Any) -> dict[str, Any]:
    """Text whose index has been read."""
    said = {"vocabulary": 300, "bytes_per_token": 3.0, "tokenizer": "a" * 64, "digest": "b" * 16}
    return {"kind": "text", "path": "unused", "context": 8, **said, **changes}


def test_text_of_several_folders_has_one_tokenizer_and_bits_by_the_bytes_of_each(tmp_path: Path) -> None:
    document = {
        "run": {"dir": tmp_path},
        "model": {"kind": "gpt", "hidden": 16, "context": 8},
        "optim": {"steps": 1, "global_batch": 8},
        "data": {"kind": "mixture", "sources": {"a": words(), "b": words(bytes_per_token=4.0)}},
    }
    resolved = resolve(document)
    assert not resolved.unresolved
    config: Any = RunConfig.model_validate(resolved.document)
    assert (config.model.vocabulary, config.data.tokenizer) == (300, "a" * 64)
    plan_layout(config, 1)
    with pytest.raises(Refusal, match="tokenizer"):
        run_tokenizer(config.data)

    tokens, sources = torch.zeros(3, 9, dtype=torch.int64), torch.tensor([1, 0, 1])
    batch = Batch(tokens, None, torch.arange(3), sources=sources)
    task = NextTokenTask(config)
    (drawn,) = task.draw([batch], [torch.Generator()])
    figures = task.examine(lambda read, _: torch.full(read.shape, 2.0), drawn)
    expected = 2.0 / np.log(2) / np.array([4.0, 3.0, 4.0])
    assert figures["held_out_bits_per_byte"].tolist() == pytest.approx(expected.tolist())
    for changes, field in (({"vocabulary": 301}, "vocabulary"), ({"tokenizer": None}, "tokenizer")):
        data = {"kind": "mixture", "sources": {"a": words(), "b": words(**changes)}}
        with pytest.raises(ValueError, match=rf"sources\.b: its {field} is .* encode all text by one tokenizer"):
            RunConfig.model_validate({**document, "data": data})


def test_captions_and_source_points_are_of_one_data_set() -> None:
    config = run(sources={"a": {}, "b": {}})
    captions = CaptionsConfig(path=Path("captions"), width=3, digest="0" * 16)
    for flow, message in (
        ({"captions": captions}, r"^flow\.captions: captions has a caption for each example of one data set"),
        ({"source": config.data}, r"^flow\.source\.kind: mixture is for data; give one data set to start at$"),
    ):
        with pytest.raises(ValueError, match=message):
            refuse(of_mixture(config.model_copy(update={"flow": config.flow.model_copy(update=flow)})))


def test_source_points_are_dealt_beside_a_mixture() -> None:
    dataset = Sourced(mixed({"a": 0.5, "b": 0.5}, a=Numbers(30), b=Keyed(3000)), Numbers(20))
    plain = mixed({"a": 0.5, "b": 0.5}, a=Numbers(30), b=Keyed(3000))
    loaders = [Loader(one, global_batch=6, micro_batch=6, rank=0, world_size=1, seed=0) for one in (dataset, plain)]
    sourced, alone = (loader.batch(3, 0) for loader in loaders)
    assert torch.equal(sourced.ids, alone.ids)
    assert sourced.x_0 is not None
    assert set(sourced.x_0.flatten().tolist()) <= set(range(0, 20, 2))
    assert sourced.sources is not None
    assert alone.sources is not None
    assert torch.equal(sourced.sources, alone.sources)


@given(weights=SHARES, size=st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_counts_are_whole_have_the_exact_sum_and_miss_a_share_by_less_than_one(weights: list[int], size: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    counts = counts_of(shares, size)
    assert sum(counts) == size
    assert all(abs(count - share * size) < 1 for count, share in zip(counts, shares, strict=True))
    assert all(share > 0 or count == 0 for count, share in zip(counts, shares, strict=True))


@pytest.mark.parametrize("size", [10, 100])
def test_a_mixture_of_a_size_takes_the_first_of_each_source_and_all_that_is_held_out(size: int) -> None:
    shares = {"a": 0.25, "b": 0.55, "c": 0.2}
    sources: dict[str, Dataset] = {"a": Numbers(62), "b": Keyed(5000), "c": Endless(1)}

    def of(size: int | None) -> Any:
        section = {name: {"kind": "digits"} for name in sources}
        config = MixtureConfig.model_validate({"kind": "mixture", "sources": section, "shares": shares, "size": size})
        return Mixture(config, sources)

    cut, larger, whole = of(size), of(120), of(None)
    assert cut.count("train") == size
    assert set(cut.indices("train").tolist()) < set(larger.indices("train").tolist())
    assert torch.equal(cut.indices("held_out"), whole.indices("held_out"))
    counts = source_of(cut.indices("train"))[0].bincount().tolist()
    assert counts == counts_of(list(shares.values()), size)
    assert cut.mix.shares == pytest.approx([count / size for count in counts])
    dealt_ids = dealt(cut, 2 * size, batch=size)
    assert set(dealt_ids) == set(cut.indices("train").tolist()), "every one of them is dealt, and no other"
    for rank in range(2):
        loader = Loader(cut, global_batch=size, micro_batch=size // 2, rank=rank, world_size=2, seed=0)
        assert loader.batch(1, 0).ids.tolist() == dealt_ids[size:][rank * size // 2 :][: size // 2]
    assert sorted(cut.data_points("train").tolist()) == sorted(cut.indices("train").tolist())
    with pytest.raises(ValueError, match=r"^data\.size: a has 31 training examples, and its share of 200 is 50; use"):
        of(200)


def test_a_size_is_no_part_of_a_configuration_that_has_none() -> None:
    config = run(sources={"a": {}, "b": {}})
    assert "size" not in config.model_dump(mode="json")["data"]
    assert run(sources={"a": {}, "b": {}}, size=30).data.open().count("train") == 30
