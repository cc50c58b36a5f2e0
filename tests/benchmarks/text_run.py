"""A user's text from files to a trained network: encoded, learned from on two ranks, killed, resumed bit for bit.

    python -m tests.benchmarks.text_run [--megabytes 20] [--vocabulary 32000] [--steps 24] --out text.json

The text is that of the Python sources of this installation. A tokenizer is trained on it on the spot. Printed are
tokens a second of the encoder (bytes and tokens, one process and two), of the reader, and of the run. It ends with 1
unless both numbers of processes gave the same shards and the run that was killed ended as the one that was not.
"""

import argparse
import filecmp
import json
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from netsim.foundation.files import replacing
from tests.forked import ROOT
from tests.trainer.runs import timeless, torchrun
from trainer.data import Loader, TextConfig
from trainer.data.text.encode import run
from trainer.data.text.tokens import TextIndex
from trainer.data.text_windows import Text
from trainer.observe.metrics import read_metrics

CONFIG = str(ROOT / "configs" / "runs" / "gpt_text.yaml")
KILLED = str(ROOT / "tests" / "trainer" / "training" / "killed_run.py")
CONTEXT, READ_BATCH, READ_STEPS = 1024, 32, 200


def main() -> int:
    """Measures, prints and writes; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20.0, help="text, in MB (default: 20)")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="of the tokenizer (default: 32000)")
    parser.add_argument("--steps", type=int, default=24, help="of the runs, a multiple of 4 (default: 24)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {"bytes": collected(folder / "text", int(options.megabytes * 1e6))}
        begun = time.perf_counter()
        train_tokenizer(folder / "text", folder / "tokenizer.json", options.vocabulary)
        figures["tokenizer_trained_s"] = time.perf_counter() - begun
        figures["encoded"] = encoded(folder)
        figures["reader"] = read_speed(folder / "tokens by 1")
        figures["run"] = trained(folder, options.steps)
    print(json.dumps(figures, indent=1))
    with replacing(options.out) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if figures["encoded"]["same"] and figures["run"]["resumed_bit_for_bit"] else 1


def sources() -> Iterator[Path]:
    """Python sources of this installation in a fixed order, the standard library first."""
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*.py")):
            if "site-packages" not in path.relative_to(root).parts:
                yield path


def collected(folder: Path, size: int) -> int:
    """Copies sources that are text until they are `size` bytes; returns their bytes."""
    total = 0
    for number, path in enumerate(sources()):
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        target = folder / f"{number % 100:02d}" / f"{number}_{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        total += len(content)
        if total >= size:
            break
    return total


def train_tokenizer(folder: Path, path: Path, vocabulary: int) -> None:
    """Trains a byte-level BPE tokenizer on a folder of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(file) for file in sorted(folder.rglob("*.py"))], trainer)
    tokenizer.save(str(path))


def encoded(folder: Path) -> dict[str, Any]:
    """Encodes the text into bytes and into tokens, on one process and on two."""
    figures: dict[str, Any] = {"same": True}
    for kind, tokenizer in (("bytes", None), ("tokens", folder / "tokenizer.json")):
        outs = []
        for workers in (1, 2):
            out = folder / f"{kind} by {workers}"
            begun, cpu = time.perf_counter(), time.process_time()
            run([folder / "text"], out, tokenizer=tokenizer, workers=workers)
            cpu = time.process_time() - cpu
            index = TextIndex.read(out)
            num_tokens = index.train.num_tokens + index.held_out.num_tokens
            figures[out.name] = {"tokens": num_tokens, "tokens_per_s": num_tokens / (time.perf_counter() - begun)}
            if workers == 1:
                figures[out.name] |= {"tokens_per_cpu_s": num_tokens / cpu, "mb_per_cpu_s": size_of(index) / 1e6 / cpu}
            outs.append(out)
        figures["same"] &= equal_folders(*outs)
    return figures


def size_of(index: TextIndex) -> int:
    """Bytes of the text of an index."""
    return index.train.num_bytes + index.held_out.num_bytes


def equal_folders(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = sorted(path.name for path in one.iterdir())
    same, _, _ = filecmp.cmpfiles(one, other, names, shallow=False)
    return sorted(same) == names == sorted(path.name for path in other.iterdir())


def read_speed(folder: Path) -> dict[str, float]:
    """Tokens that one thread reads in shuffled windows, a second of the clock and of a processor."""
    config = TextConfig.model_validate(TextConfig.resolved({"kind": "text", "path": folder, "context": CONTEXT}))
    loader = Loader(Text(config), global_batch=READ_BATCH, micro_batch=READ_BATCH, rank=0, world_size=1, seed=0)
    loader.batch(0, 0)
    begun, cpu = time.perf_counter(), time.process_time()
    for step in range(READ_STEPS):
        loader.batch(step, 0)
    num_tokens = READ_STEPS * READ_BATCH * CONTEXT
    seconds = {"s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
    return {f"tokens_per_{unit}": num_tokens / spent for unit, spent in seconds.items()}


def trained(folder: Path, steps: int) -> dict[str, Any]:
    """Trains on two ranks, once straight and once killed between two checkpoints and started again."""
    settings = [
        f"data={{kind: text, path: '{folder / 'tokens by 1'}', context: 64, held_out: 4000}}",
        f"optim={{steps: {steps}, global_batch: 8, lr: 2.0e-3, warmup_steps: 4}}",
        f"checkpoint.every={steps // 2}",
        f"evaluate.every={steps // 2}",
        "sample={every: null}",
        "trace.steps=[2]",
        "observe.log_every=1",
    ]
    straight, resumed = folder / "straight", folder / "resumed"
    words = ("train", CONFIG, *settings)
    finished = torchrun("-m", "trainer", *words, f"run.dir={straight}")
    killed = torchrun(KILLED, *words, f"run.dir={resumed}", KILL_RANK="1", KILL_STEP=str(3 * steps // 4))
    again = torchrun("-m", "trainer", *words, f"run.dir={resumed}")
    for process, good in ((finished, True), (killed, False), (again, True)):
        if (process.returncode == 0) != good:
            print(process.stderr, file=sys.stderr)
            raise SystemExit(1)
    last = Path("checkpoints") / f"step_{steps:08d}" / "ema.safetensors"
    same = filecmp.cmp(straight / last, resumed / last, shallow=False)
    same &= timeless(straight / "metrics.jsonl") == timeless(resumed / "metrics.jsonl")
    records = read_metrics(straight / "metrics.jsonl")
    speeds = sorted(record.values["time.tokens_per_s"] for record in records)
    figures = {name: value for name, value in records[-1].values.items() if name.startswith("held_out")}
    shutil.rmtree(straight)
    return {
        "resumed_bit_for_bit": same,
        "killed_at": 3 * steps // 4,
        "tokens_per_s": speeds[len(speeds) // 2],
        "loss": [records[0].values["loss"], records[-1].values["loss"]],
        **figures,
    }


if __name__ == "__main__":
    sys.exit(main())
