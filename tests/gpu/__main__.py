"""What only a GPU can show: python -m tests.gpu [--only correct|speed] --out DIR

Compares runs on the card with the same on the CPU, and measures how fast and how large the parts of a run are there.
Without a card it says so in one line. The figures go to DIR/gpu.json; each says what it must be. NCCL among several
cards (its timeouts, uneven all-to-alls, ZeRO 3's fetches) is not shown by one card.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from netsim.foundation.files import replacing
from tests.gpu.measure import Measure

PARTS = ("correct", "speed")


def main() -> int:
    """Measures, prints and writes.

    Returns:
        0, or 1 if a figure is not what it must be.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part; without it both, each of some minutes")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("runs/gpu"), help="for runs and gpu.json")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("tests.gpu: this machine has no GPU that torch can use; nothing was measured")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    card = torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    found: list[Measure] = []
    for part in PARTS if given.only is None else (given.only,):
        print(part, flush=True)
        for measure in _part(part, given.out):
            print(measure.line(), flush=True)
            found.append(measure)
            document = {
                "card": card,
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "measures": [one.document() for one in found],
            }
            with replacing(given.out / "gpu.json") as temporary:
                temporary.write_text(json.dumps(document, indent=1) + "\n")
    missed = sum(not one.met for one in found)
    print(f"{len(found)} figures, {missed} not what they must be; see {given.out / 'gpu.json'}")
    return 1 if missed else 0


def _part(name: str, out: Path) -> Iterator[Measure]:
    if name == "correct":
        from tests.gpu import correct

        yield from correct.measures(out / "correct")
    else:
        from tests.gpu import speed

        speed.alone()
        yield from speed.measures()


if __name__ == "__main__":
    sys.exit(main())
