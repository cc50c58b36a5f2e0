"""Sequences of letters: lines with counts and labels, FASTA, what is found in a file, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainer.data
from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.config.file import resolve
from trainer.config.run import RunConfig
from trainer.data import write_shards
from trainer.data.protocol import BadExamples
from trainer.data.sequences import SequencesConfig, texts
from trainer.data.shard.writer import save_shard
from trainer.data.shards import ShardsConfig

NUMBERS = np.array([[1, 0, 2], [2, 0, 3], [3, 3, 3]], np.uint8)
COUNTED = "# from a genome\nsequence\tcount\nCAG\t3\nGAU\t1\n\nUUU\t2\n"


def config(path: Path, **settings: Any) -> SequencesConfig:
    document = SequencesConfig.resolved({"kind": "sequences", "path": path, "held_out": 1, **settings})
    return SequencesConfig.model_validate(document)


def written(folder: Path, text: str) -> Path:
    path = folder / "sequences.txt"
    path.write_text(text)
    return path


def every(found: SequencesConfig) -> tuple[list[str], torch.Tensor | None]:
    """All occurrences in the order of their numbers, and their labels."""
    data = trainer.data.build(found)
    batch = data.get(torch.cat([data.indices("train"), data.indices("held_out")]).sort().values)
    assert tuple(batch.x_1.shape[1:]) == found.shape
    assert torch.equal(batch.x_1.sum(1), torch.ones_like(batch.x_1.sum(1)))
    return texts(batch.x_1, found.alphabet, found.pad), batch.labels


def test_an_occurrence_is_an_example(tmp_path: Path) -> None:
    found = config(written(tmp_path, COUNTED), held_out=2)
    assert (found.alphabet, found.length, found.shape, found.num_classes) == ("ACGU", 3, (4, 1, 3), 0)
    data = trainer.data.build(found)
    assert (len(data.indices("train")), len(data.indices("held_out"))) == (4, 2)
    assert every(found) == (["CAG"] * 3 + ["GAU"] + ["UUU"] * 2, None)


@each(
    ("text", "expected"),
    [
        ("CAG\nGAU\n", ["CAG", "GAU"]),
        ("CAG\t2\nGAU\n", ["CAG", "CAG", "GAU"]),
        (">one\nCA\nG\n>two\nGAU\n", ["CAG", "GAU"]),
        ("sequence\nCAG\nGAU\n", ["CAG", "GAU"]),
    ],
    ids=["lines", "some counts", "FASTA", "header"],
)
def test_forms_of_files(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert every(config(written(tmp_path, text)))[0] == expected


def test_shorter_sequences_are_padded_at_their_end(tmp_path: Path) -> None:
    found = config(written(tmp_path, "CAG\nA\n"), pad="-")
    assert (found.alphabet, found.length) == ("ACG-", 3)
    assert every(found)[0] == ["CAG", "A"]


def test_labels_are_classes_by_name(tmp_path: Path) -> None:
    found = config(written(tmp_path, "sequence\tlabel\nCAG\tsite\nGAU\tother\n"))
    assert found.class_names == ("other", "site")
    sequences, labels = every(found)
    assert sequences == ["CAG", "GAU"]
    assert labels is not None
    assert labels.tolist() == [1, 0]


@each(
    ("text", "settings", "message"),
    [
        ("", {}, "file: holds no sequence"),
        ("# nothing\nsequence\tcount\n", {}, "file: holds no sequence"),
        (">one\n>two\nCAG\n", {}, "line 1: is a name without a sequence"),
        ("CAG\nGAUU\n", {}, "line 1: has 3 letters, where the length is 4; .* set data.pad"),
        ("CAG\nGAX\n", {"alphabet": "ACGU"}, "line 2: holds the letter 'X', which the alphabet ACGU lacks; "),
        ("CAG\t-3\nGAU\n", {}, "line 1: has the count -3; use a whole number"),
        ("CAG\tmany\n", {}, "line 1: has the count many"),
        ("CAG\t1\t2\n", {}, "line 1: has 3 columns between tabs, not sequence and count"),
        ("sequence\tweight\nCAG\t1\n", {}, "line 1: names the column weight; use sequence, count, label"),
        ("CAG\t60000000\n", {}, "count: has 60,000,000 occurrences"),
    ],
)
def test_what_is_no_set_of_sequences_is_refused(
    tmp_path: Path, text: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^path: .*{message}"):
        config(written(tmp_path, text), **settings)


@each(
    ("settings", "message"),
    [
        ({"held_out": 6}, "held_out: 6 leaves none of the 6 occurrences; use 5 or less"),
        ({"pad": "--"}, "pad: '--' is not one letter"),
        ({"pad": "-", "alphabet": "ACGU"}, "pad: '-' is not a letter of the alphabet ACGU"),
        ({"alphabet": "ACGUA"}, "alphabet: 'ACGUA' is not two or more different letters"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(written(tmp_path, COUNTED), **settings)


def test_a_file_that_is_missing_or_has_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        config(tmp_path / "absent.txt")
    found = config(written(tmp_path, COUNTED))
    written(tmp_path, "CAGA\nGAUA\n")
    with pytest.raises(Refusal, match="line 1: has 4 letters, where the length is 3"):
        trainer.data.build(found)


def shards(folder: Path, numbers: np.ndarray = NUMBERS, **settings: Any) -> ShardsConfig:
    write_shards(folder, [(numbers, np.arange(len(numbers)) % 2)], num_classes=2, alphabet="ACGU", shard_examples=2)
    document = ShardsConfig.resolved({"kind": "shards", "path": folder, "held_out": 1, **settings})
    return ShardsConfig.model_validate(document)


def test_shards_hold_numbers_of_letters(tmp_path: Path) -> None:
    found = shards(tmp_path)
    assert (found.alphabet, found.shape) == ("ACGU", (4, 1, 3))
    batch = trainer.data.build(found).get(torch.tensor([2, 0, 1]))
    assert texts(batch.x_1, found.alphabet) == ["UUU", "CAG", "GAU"]
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 0, 1]
    assert torch.equal(batch.x_1.sum(1), torch.ones(3, 1, 3))


def test_letters_of_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="examples: 4 is no number of the 4 letters from 0"):
        shards(tmp_path / "number", NUMBERS + 1)
    with pytest.raises(ValueError, match=r"examples: float32 \[2, 3\] are no sequences of letters"):
        shards(tmp_path / "type", NUMBERS.astype(np.float32))
    with pytest.raises(ValueError, match="augment: is for images, and these examples are letters"):
        shards(tmp_path / "augmented", augment={"flip": 0.5})
    found = shards(tmp_path / "changed")
    save_shard(tmp_path / "changed/shard_00000.safetensors", {"data": NUMBERS[:2] + 1, "labels": np.array([0, 1])})
    with pytest.raises(BadExamples, match="data: 4 is no number of the 4 letters"):
        trainer.data.build(found).get(torch.tensor([0, 1]))


def test_a_mixture_of_sequences_has_one_alphabet(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("CAG\nGAU\n")
    (tmp_path / "b.txt").write_text("CAT\nGAC\n")

    def mixed(**settings: Any) -> RunConfig:
        sources = {
            name: {"kind": "sequences", "path": tmp_path / f"{name}.txt", "held_out": 1, **settings} for name in "ab"
        }
        document = {
            "run": {"dir": "unused"},
            "model": {"kind": "dit"},
            "data": {"kind": "mixture", "sources": sources},
            "optim": {"steps": 1, "global_batch": 4},
        }
        return RunConfig.model_validate(resolve(document).document)

    with pytest.raises(ValueError, match=r"its alphabet is ACGT, and that of a is ACGU; give each the data\.alphabet"):
        mixed()
    assert mixed(alphabet="ACGTU").alphabet == "ACGTU"
