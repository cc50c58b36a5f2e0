"""How many bits a byte of the held-out sources costs: by compressors, by counts of byte pairs and longer, and by runs.

python -m tests.benchmarks.python_source [RUN_DIR ...] --out bits.json
"""

import argparse
import bz2
import gzip
import json
import lzma
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from netsim.foundation.files import replacing
from trainer import load_config
from trainer.data import Split
from trainer.data.builtin import PythonSource, PythonSourceConfig
from trainer.observe.metrics import read_metrics

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lambda text: lzma.compress(text, preset=9),
}
SMOOTHING = 0.05
BITS = 8


def main() -> None:
    """Measures, prints a table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs on python_source, compared beside")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    data = next((load_config(run / "config.yaml").data for run in options.runs), PythonSourceConfig(context=128))
    assert isinstance(data, PythonSourceConfig)
    source = data.open()
    train, held_out = stream(source, "train"), stream(source, "held_out")
    figures = {f"{name} on the held-out bytes alone": bits(press, held_out) for name, press in COMPRESSORS.items()}
    figures |= {
        f"counts of the training bytes, {order} bytes before": cross_entropy(train, held_out, order)
        for order in range(5)
    }
    for run in options.runs:
        figures[f"run {run.name}"] = min(
            record.values["held_out_bits_per_byte"]
            for record in read_metrics(run / "metrics.jsonl")
            if "held_out_bits_per_byte" in record.values
        )
    print(f"{len(train):,} bytes to train on, {len(held_out):,} held out")
    for name, value in figures.items():
        print(f"{value:6.3f} bits a byte  {name}")
    if options.out is not None:
        with replacing(options.out) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def stream(source: PythonSource, split: Split) -> bytes:
    """The bytes of a split, put together from its windows."""
    windows = source.get(source.indices(split)).x_1
    return bytes([int(windows[0, 0]), *windows[:, 1:].flatten().tolist()])


def bits(press: Callable[[bytes], bytes], text: bytes) -> float:
    """Bits that a compressor needs for each byte."""
    return BITS * len(press(text)) / len(text)


def cross_entropy(train: bytes, text: bytes, order: int) -> float:
    """Bits a byte under the counts of `order` + 1 bytes in a row, mixed with those of shorter ones where they are few.

    Source: Jelinek and Mercer, "Interpolated estimation of Markov source parameters", 1980, with one weight.
    """
    counts = [Counter(train[i - k : i + 1] for i in range(k, len(train))) for k in range(order + 1)]
    contexts = [Counter(train[i - k : i] for i in range(k, len(train))) for k in range(order + 1)]
    total = 0.0
    for i in range(order, len(text)):
        share = 1 / 256
        for k in range(order + 1):
            seen = contexts[k][text[i - k : i]]
            weight = seen / (seen + 1 / SMOOTHING)
            share = (1 - weight) * share + (weight * counts[k][text[i - k : i + 1]] / seen if seen else 0)
        total -= math.log2(share)
    return total / (len(text) - order)


if __name__ == "__main__":
    main()
