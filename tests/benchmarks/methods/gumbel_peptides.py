"""Peptides by class and by guidance: python -m tests.benchmarks.methods.gumbel_peptides --peptides FILE --out DIR

configs/methods/gumbel_peptides.yaml, half as wide, is trained on 2,600 peptides of up to 32 residues, 61 % of them
antimicrobial, and draws 300 in each row: of any class, of the class "active" (its own conditioning, at guidance 1, 1.5
and 3), and of any class under straight-through guidance by a convolutional classifier, beside the best of n draws by
that classifier. A second classifier judges: a random forest on the counts of residues and of neighbours, the length and
the charge, which saw neither the first one's half of the peptides nor a draw. "active" is the share that the second
takes for active, "by the first" that of the first; "distinct" is the share of different peptides, "new" of those that
are not in the file. The floors are the peptides of both classes that neither classifier saw.

Guidance may raise the score of its own classifier by sequences that no other classifier believes in: the difference
between the columns says so. The file is described in the configuration. Runs stay in --out and are not trained again.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.gumbel_softmax import progress
from trainer.data.sequences import SequencesConfig, read_sequences
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.control import StraightThroughConfig
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.trained import opened

CONFIG = "configs/methods/gumbel_peptides.yaml"
NUM, GUIDANCES, STRENGTHS, BEST_OF = 300, (1.0, 1.5, 3.0), (8.0, 32.0, 128.0), (2, 4, 8)
SMALLER = {
    "model.hidden": 64,
    "model.num_layers": 3,
    "optim.lr": 2e-3,
    "sample.every": "null",
    "evaluate.every": "null",
}
HELD_OUT, EPOCHS, TREES = 0.25, 30, 500
RESIDUES, PAD, CHARGES = "ACDEFGHIKLMNPQRSTVWY", "-", {"K": 1, "R": 1, "D": -1, "E": -1}
ACTIVITY = "tests.benchmarks.methods.gumbel_peptides:Activity"


def scorer(letters: int) -> nn.Sequential:
    """Logits of being active, [B, 1], of one-hot sequences [B, V, L]."""
    return nn.Sequential(
        nn.Conv1d(letters, 64, 5, padding=2),
        nn.GELU(),
        nn.Conv1d(64, 64, 5, padding=2),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(64, 1),
    )


class Activity:
    """The logit of the first classifier, whose weights are in a file."""

    def __init__(self, weights: str) -> None:
        found = load_file(weights)
        self._score = scorer(found["0.weight"].shape[1])
        self._score.load_state_dict(found)
        self._score.requires_grad_(False)

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        return self._score(examples[:, :, 0])[:, 0]


class Peptides(NamedTuple):
    """Sequences, whether each is active, and which part each is in: 0 and 1 of the classifiers, 2 held out."""

    sequences: list[str]
    active: NDArray[np.bool_]
    part: NDArray[np.int64]

    @classmethod
    def read(cls, file: Path, seed: int) -> "Peptides":
        """The file, divided at random."""
        found = read_sequences(file)
        share = np.random.default_rng(seed).random(len(found.sequences))
        part = np.where(share < HELD_OUT, 2, (share > (1 + HELD_OUT) / 2).astype(int))
        return cls(found.sequences, np.array([label == "active" for label in found.labels]), part)

    def of(self, part: int) -> tuple[list[str], NDArray[np.bool_]]:
        """The sequences of a part, and whether they are active."""
        rows = np.flatnonzero(self.part == part)
        return [self.sequences[row] for row in rows], self.active[rows]


def traits(sequences: Sequence[str]) -> NDArray[np.float64]:
    """Counts of residues and of pairs of neighbours, the length and the charge, [N, 422]."""
    number = {letter: place for place, letter in enumerate(RESIDUES)}
    found = np.zeros((len(sequences), 422))
    for row, sequence in zip(found, sequences, strict=True):
        known = [number[letter] for letter in sequence if letter in number]
        np.add.at(row, known, 1)
        np.add.at(row, [20 + 20 * one + two for one, two in pairwise(known)], 1)
        row[420:] = len(sequence), sum(CHARGES.get(letter, 0) for letter in sequence)
    return found


class Judges:
    """Both classifiers."""

    def __init__(self, peptides: Peptides, data: SequencesConfig, file: Path, seed: int) -> None:
        """Trains them; the weights of the first go to a file."""
        self._alphabet, self._length = data.alphabet, data.length
        self._second = RandomForestClassifier(TREES, random_state=seed).fit(
            traits(peptides.of(1)[0]), peptides.of(1)[1]
        )
        self._first = self._trained(*peptides.of(0), seed)
        save_file({name: one.contiguous() for name, one in self._first.state_dict().items()}, file)

    def figures(self, sequences: Sequence[str], known: set[str]) -> dict[str, float]:
        """Of peptides that were drawn."""
        written = [sequence for sequence in sequences if sequence]
        return {
            "active": float(self._second.predict(traits(written)).mean()),
            "by the first": float((self.scores(written) > 0).mean()),
            "distinct": len(set(written)) / len(sequences),
            "new": len(set(written) - known) / max(1, len(set(written))),
            "length": float(np.mean([len(one) for one in sequences])),
        }

    def accuracies(self, sequences: Sequence[str], active: NDArray[np.bool_]) -> tuple[float, float]:
        """Of the first and of the second."""
        second = self._second.predict(traits(sequences))
        return float(((self.scores(sequences) > 0) == active).mean()), float((second == active).mean())

    @torch.no_grad()
    def scores(self, sequences: Sequence[str]) -> NDArray[np.float32]:
        """Logits of the first, [N]."""
        return self._first(self._one_hot(sequences))[:, 0].numpy()

    def _one_hot(self, sequences: Sequence[str]) -> Tensor:
        padded = [sequence.ljust(self._length, PAD) for sequence in sequences]
        numbers = torch.tensor([[self._alphabet.index(letter) for letter in one] for one in padded])
        return functional.one_hot(numbers, len(self._alphabet)).float().mT

    def _trained(self, sequences: Sequence[str], active: NDArray[np.bool_], seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        network, generator = scorer(len(self._alphabet)), torch.Generator().manual_seed(seed)
        one_hot, wanted = self._one_hot(sequences), torch.from_numpy(active).float()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(wanted), generator=generator).split(64):
                loss = functional.binary_cross_entropy_with_logits(network(one_hot[rows])[:, 0], wanted[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return network.eval()


def data_of(flow: TrainedFlow) -> SequencesConfig:
    """The settings of the data of the run."""
    assert isinstance(flow.config.data, SequencesConfig)
    return flow.config.data


def drawn(flow: TrainedFlow, condition: Condition, numbers: Tensor, seed: int, guidance: float = 1.0) -> list[str]:
    """Peptides of these numbers, without their pads."""
    ends = flow.follow(condition, numbers, flow.sample.sampler, guidance=guidance, seed=seed).final
    rows = ends.argmax(1).flatten(1).tolist()
    letters = data_of(flow).alphabet
    return ["".join(letters[number] for number in row).replace(PAD, "") for row in rows]


def of_seed(run: Path, peptides: Peptides, weights: Path, seed: int) -> dict[str, dict[str, float]]:
    """Figures by row."""
    known, found = set(peptides.sequences), dict[str, dict[str, float]]()

    def note(name: str, sequences: Sequence[str]) -> None:
        found[name] = judges.figures(sequences, known)
        progress(f"seed {seed}, {name}", found[name])

    with opened(run) as flow:
        judges = Judges(peptides, data_of(flow), weights, seed)
        held_out, active = peptides.of(2)
        first, second = judges.accuracies(held_out, active)
        progress(f"seed {seed}, held-out accuracy of the classifiers", {"first": first, "second": second})
        note("held out, active", [one for one, is_active in zip(held_out, active, strict=True) if is_active])
        note("held out, inactive", [one for one, is_active in zip(held_out, active, strict=True) if not is_active])
        several = drawn(flow, UNCONDITIONAL, torch.arange(max(BEST_OF) * NUM), seed)
        note("any class", several[:NUM])
        of_class = data_of(flow).class_names.index("active")
        label = Condition(torch.full((NUM,), of_class))
        for guidance in GUIDANCES:
            note(f"class active, guidance {guidance:g}", drawn(flow, label, torch.arange(NUM), seed, guidance))
        for strength in STRENGTHS:
            document: dict[str, Any] = {"reward": {"class": ACTIVITY, "weights": str(weights)}, "strength": strength}
            guided = flow.under([StraightThroughConfig.model_validate(document)])
            note(f"straight-through, strength {strength:g}", drawn(guided, UNCONDITIONAL, torch.arange(NUM), seed))
        for number in BEST_OF:
            tried = [one or "A" for one in several[: number * NUM]]
            best = judges.scores(tried).reshape(number, NUM).argmax(0)
            note(f"best of {number} by the first", [tried[row * NUM + place] for place, row in enumerate(best)])
    return found


def main() -> int:
    """Trains, measures and prints; 0 if the bar is met, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peptides", type=Path, required=True, metavar="FILE", help="lines of sequence and label")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    rows = []
    for seed in given.seeds:
        run = given.out / f"seed_{seed}"
        words = [f"run.dir={run}", f"run.seed={seed}", f"data.path={given.peptides}", f"optim.steps={given.steps}"]
        subprocess.run(
            [sys.executable, "-m", "trainer", "train", CONFIG, *words, "sample.every=null", "evaluate.every=1/1"],
            check=True,
        )
        rows.append(of_seed(run, Peptides.read(given.peptides, seed), given.out / f"first_{seed}.safetensors", seed))
    table = by_figure(rows)
    plain, best = table["any class"]["active"], table["straight-through, strength 128"]["active"]
    gain = float(np.mean(best) - np.mean(plain))
    return show(
        "peptides, 500 draws", table, [Bar("more active under guidance, by the second", gain, 0.05, at_least=True)]
    )


if __name__ == "__main__":
    raise SystemExit(main())
