"""record: the routing of texts through a model of transformers."""

import argparse
import sys
from pathlib import Path

from moe.command.verb import Verb
from netsim.foundation.outputs import OutputFile

_DESCRIPTION = """\
Routes texts through a mixture of experts of Hugging Face's transformers and writes
which experts each token chose in every layer, as a routing trace that `place` reads.
What is recorded is what the model hands its experts, whatever its way of choosing.
The model runs on the CPU from local files: nothing is downloaded, no code and no
pickle of the folder is run. Needs the extra flowfabric[hf].
"""
_EXAMPLES = """\
example:
  python -m moe record --model models/OLMoE-1B-7B --texts prompts.jsonl --ranks 8 \\
      --max-tokens 20000 --out routing.npz
  python -m moe place routing.npz --nodes 1 --ranks-per-node 8 --objective copies \\
      --out placement.json
"""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--model",
        dest="source",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the model: config.json, safetensors and its tokeniser",
    )
    add("--texts", type=Path, required=True, metavar="FILE", help="texts, one a line, or .jsonl with a field text")
    add("--out", type=Path, required=True, metavar="FILE", help="routing trace to write (.npz)")
    add("--ranks", type=int, default=1, metavar="G", help="ranks that texts are dealt to in turn (default 1)")
    add("--max-tokens", type=int, metavar="T", help="tokens to record in all (default: those of all texts)")
    add("--batch", type=int, default=8, metavar="B", help="texts of one pass through the model (default 8)")


class _Progress:
    """Prints every twentieth of the tokens, and the last."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        if done == total or (done - self._told) * 20 >= total:
            print(f"moe record: {done:,} of {total:,} tokens", file=sys.stderr)
            self._told = done


def _run(arguments: argparse.Namespace) -> None:
    from moe.interchange.documents import read_texts

    if arguments.out.suffix != ".npz":
        raise ValueError(f"out: a routing trace cannot be read by this name ({arguments.out}); name it .npz")
    texts = read_texts(arguments.texts)

    from netsim.foundation.extra import require

    require("transformers", field="model")
    from moe.interchange.hugging_face import record_routing

    recorded = record_routing(
        arguments.source,
        texts,
        ranks=arguments.ranks,
        max_tokens=arguments.max_tokens,
        batch=arguments.batch,
        progress=_Progress(),
    )
    recorded.result.write(arguments.out)
    print(f"wrote {arguments.out}: {recorded.summary()}")


RECORD = Verb(
    "record",
    "record the routing of texts through a model",
    lambda: _DESCRIPTION,
    _EXAMPLES,
    _add_arguments,
    _run,
    lambda options: [(OutputFile("--out", ("header.npy",)), options.out)],
)
