"""Routing of texts through a mixture of experts of `transformers`, from a folder and without running its code.

Shape legend: T tokens, L MoE layers, K choices per token and layer.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moe.interchange.expert_choices import ExpertChoices
from moe.interchange.imported import Imported, deal
from moe.routing_trace import DROPPED, RoutingHeader, RoutingTrace
from netsim.foundation.refusal import Refusal

_REMEDY = "save the model again with save_pretrained"
_TOKENISERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def record_routing(
    folder: Path,
    texts: Sequence[str],
    *,
    ranks: int = 1,
    max_tokens: int | None = None,
    batch: int = 8,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Imported:
    """Route texts through a causal model and keep the choices of every MoE layer.

    Args:
        folder: The model as `save_pretrained` writes it: config, safetensors and tokeniser.
        texts: Each is a sequence, cut at the positions that the model has.
        ranks: Ranks that the sequences are dealt to in turn.
        max_tokens: Tokens after which recording ends, the last sequence cut; None: all.
        batch: Sequences of a pass; padding is not recorded.
        progress: Called with the tokens that are done and those of all, after every pass.

    Returns:
        The trace, the strongest choice first, with weights, sequences and positions.

    Raises:
        Refusal: The folder has no such model or tokeniser, or they do not fit each other.
        ValueError: A number is below 1, or the package transformers is missing.
    """
    for name, number in (("ranks", ranks), ("max_tokens", max_tokens), ("batch", batch)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: must be at least 1 ({number}); give a positive number")
    with _silence():
        return _record(folder, texts, ranks, max_tokens, batch, progress)


def _record(
    folder: Path,
    texts: Sequence[str],
    ranks: int,
    max_tokens: int | None,
    batch: int,
    progress: Callable[[int, int], None],
) -> Imported:
    tokenise = _read_tokeniser(folder)
    model = _read_model(folder)
    try:
        choices = ExpertChoices(model)
    except ValueError as error:
        kind = model.config.model_type
        raise Refusal(folder, "model_type", f"{kind} {error}", "give a mixture of experts") from error
    sequences, cut = _tokenised(folder, tokenise, texts, model.config.get_text_config(), max_tokens)
    total, done = sum(map(len, sequences)), 0
    ids, weights = [], []
    for first in range(0, len(sequences), batch):
        chosen = _route(folder, model, choices, sequences[first : first + batch])
        ids.append(chosen[0])
        weights.append(chosen[1])
        done += len(chosen[0])
        progress(done, total)
    trace = _trace(folder, model, choices, ids, weights, sequences, ranks)
    remarks = [f"{len(sequences)} of {len(texts)} texts"]
    if cut:
        remarks.append(f"{cut} of them cut at the positions of the model")
    return Imported(trace, tuple(remarks))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep `transformers` from printing about its work; what goes wrong it raises all the same."""
    logging = importlib.import_module("transformers.utils.logging")
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _read_tokeniser(folder: Path) -> Callable[[str], list[int]]:
    if not folder.is_dir():
        raise Refusal(folder, "folder", "is none", "give the folder of a model")
    if not any((folder / name).is_file() for name in _TOKENISERS):
        problem = f"has no tokeniser ({', '.join(_TOKENISERS)}), and bytes are not the tokens of this model"
        raise Refusal(folder, "tokeniser", problem, "save the model's own tokeniser there")
    try:
        transformers: Any = importlib.import_module("transformers")
        tokeniser = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the damage leads to
        raise Refusal(folder, "tokeniser", f"cannot be loaded ({_reason(error)})", _REMEDY) from error
    return lambda text: tokeniser(text, verbose=False)["input_ids"]


def _read_model(folder: Path) -> Any:
    if not any(folder.glob("*.safetensors")):
        problem = "has no weights in safetensors, and pickles are not read"
        raise Refusal(folder, "weights", problem, _REMEDY)
    try:
        transformers: Any = importlib.import_module("transformers")
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
        )
    except Exception as error:  # whatever the damage leads to
        raise Refusal(folder, "model", f"cannot be loaded ({_reason(error)})", _REMEDY) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise Refusal(folder, "weights", f"lack {len(missing)} tensors of the model ({missing[0]})", _REMEDY)
    return model.eval()


def _tokenised(
    folder: Path, tokenise: Callable[[str], list[int]], texts: Sequence[str], config: Any, max_tokens: int | None
) -> tuple[list[list[int]], int]:
    """Token ids of each text, and how many texts are longer than the model's positions."""
    most = getattr(config, "max_position_embeddings", None) or 2**31
    left = 2**62 if max_tokens is None else max_tokens
    sequences, cut = [], 0
    for text in texts:
        tokens = tokenise(text)
        cut += len(tokens) > most and left > most
        tokens = tokens[: min(most, left)]
        if tokens and max(tokens) >= config.vocab_size:
            problem = f"makes token {max(tokens)} but the model has {config.vocab_size} tokens"
            raise Refusal(folder, "tokeniser", problem, "save the model's own tokeniser there")
        if tokens:
            sequences.append(tokens)
        left -= len(tokens)
        if left == 0:
            break
    if not sequences:
        raise Refusal(folder, "tokeniser", "makes no tokens of the texts", "give other texts")
    return sequences, cut


def _route(
    folder: Path, model: Any, choices: ExpertChoices, sequences: Sequence[list[int]]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids and weights of the tokens of a pass, one sequence after another, [T, L, K]."""
    width = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    present = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):  # padded behind, where no earlier token looks
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        present[row, : len(sequence)] = 1
    with torch.inference_mode():
        model.base_model(input_ids=tokens, attention_mask=present, use_cache=False)
    try:
        ids, weights = choices.take(tokens.numel())
    except ValueError as error:
        kind = model.config.model_type
        raise Refusal(
            folder, "model_type", f"{kind}: {error}", "give a model whose experts see the choices of tokens"
        ) from error
    most = max(layer.shape[1] for layer in ids)
    real = present.flatten().bool()

    def stacked(layers: list[torch.Tensor], fill: float) -> NDArray:
        wide = [torch.nn.functional.pad(one, (0, most - one.shape[1]), value=fill) for one in layers]
        return torch.stack(wide, dim=1)[real].numpy()

    return stacked(ids, DROPPED).astype(np.int32), stacked(weights, 0.0)


def _trace(
    folder: Path,
    model: Any,
    choices: ExpertChoices,
    ids: list[NDArray[np.int32]],
    weights: list[NDArray[np.float32]],
    sequences: list[list[int]],
    ranks: int,
) -> RoutingTrace:
    expert_ids_TLK = np.concatenate(ids)
    lengths = [len(sequence) for sequence in sequences]
    sequence = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    blocks = choices.block_numbers()
    header = RoutingHeader(
        num_experts=choices.num_experts,
        num_layers=expert_ids_TLK.shape[1],
        top_k=expert_ids_TLK.shape[2],
        world_size=ranks,
        model=folder.resolve().name,
        hidden=model.config.get_text_config().hidden_size,
        element_bytes=model.dtype.itemsize,
        moe_layers=None if blocks is None else tuple(blocks),
    )
    return RoutingTrace(
        expert_ids_TLK,
        deal(sequence, ranks),
        header,
        weights=np.concatenate(weights),
        sequence=sequence,
        position=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
    )


def _reason(error: Exception) -> str:
    """The kind of an error and the start of what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
