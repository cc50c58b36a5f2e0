"""Routing of texts through a mixture of experts of `transformers`, from a folder and without running its code.

Every mixture there passes its experts the tokens, the chosen ids [T, K] and the gate weights [T, K]. What is recorded
is therefore what is computed, whatever the selection: plain top-k, groups of experts, a bias for balance, hashes.
Llama 4 passes its experts copies of the tokens instead; there the scores are read, which are 0 except for the choice.

Shape legend: T tokens of a pass, L MoE layers, K choices per token and layer, E experts.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moe.interchange.documents import Imported, deal
from moe.routing_trace import DROPPED, RoutingHeader, RoutingTrace
from netsim.foundation.refusal import Refusal

_NUMBER = re.compile(r"\.(\d+)\.")
_REMEDY = "save the model again with save_pretrained"
_TOKENISERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class _Choice(NamedTuple):
    """The choices of one layer in a pass: its name, expert ids and gate weights, both [T, K]."""

    layer: str
    ids: Tensor
    weights: Tensor


class ExpertChoices:
    """Listens to the experts of a model; layers are named in the order of the last pass.

    The number of experts is the largest if layers differ.
    """

    def __init__(self, model: nn.Module) -> None:
        """Attaches to every MoE layer of a causal model; ValueError if none of its modules are experts."""
        self._handed: list[_Choice] = []
        self._overheard: list[_Choice] = []
        self.num_experts = 0
        self.layers: list[str] = []
        for name, module in model.named_modules():
            if type(module).__name__.endswith("Experts"):
                self.num_experts = max(self.num_experts, _count(module, model))
                module.register_forward_pre_hook(self._listen(f"{name}."), with_kwargs=True)
            elif isinstance(module, nn.Linear) and isinstance(getattr(module, "top_k", None), int):
                module.register_forward_hook(self._overhear(f"{name}.", module))
        if not self.num_experts:
            raise ValueError("has no layers with experts")

    def take(self, tokens: int) -> tuple[list[Tensor], list[Tensor]]:
        """Ids, int64 [T, K], and weights, float32 [T, K], that each layer chose since the last call, in its order.

        The strongest choice comes first; -1 and weight 0 where an id stands for no expert. ValueError if the experts
        were given no ids, or not one row for each of the tokens of the pass, padding included.
        """
        choices = self._handed or self._overheard
        self._handed, self._overheard = [], []
        if not choices:
            raise ValueError("its experts are not passed the choices of the tokens")
        if any(len(choice.ids) != tokens for choice in choices):
            raise ValueError(f"its experts are given {len(choices[0].ids)} rows for {tokens} tokens")
        self.layers = [choice.layer for choice in choices]
        pairs = [_sorted(choice, self.num_experts) for choice in choices]
        return [ids for ids, _ in pairs], [weights for _, weights in pairs]

    def block_numbers(self) -> list[int] | None:
        """Number of the block of each layer of the last pass, or None where names do not ascend."""
        matches = [_NUMBER.search(layer) for layer in self.layers]
        numbers = [int(one[1]) for one in matches if one]
        ascending = all(first < second for first, second in pairwise(numbers))
        return numbers if len(numbers) == len(matches) and ascending else None

    def _listen(self, layer: str) -> Any:
        def keep(_: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
            tensors = [
                value for value in (*arguments, *named.values()) if isinstance(value, Tensor) and value.ndim == 2
            ]
            ids = next((one for one in tensors if one.dtype in (torch.int32, torch.int64)), None)
            if ids is None:
                return
            fitting = [one for one in tensors if one.is_floating_point() and one.shape == ids.shape]
            weights = fitting[-1] if fitting else torch.zeros(ids.shape)
            self._handed.append(_Choice(layer, ids.detach().cpu(), weights.detach().float().cpu()))

        return keep

    def _overhear(self, layer: str, router: nn.Module) -> Any:
        def keep(_: nn.Module, __: tuple, output: Any) -> None:
            if isinstance(output, tuple) and isinstance(output[0], Tensor) and output[0].ndim == 2:
                weights, ids = output[0].detach().float().cpu().topk(int(router.top_k), dim=1)  # pyright: ignore
                self._overheard.append(_Choice(layer, ids, weights))

        return keep


def _count(module: nn.Module, model: nn.Module) -> int:
    """Returns the number of experts of a layer, by the names that `transformers` uses for it; 0 if none is set."""
    config = getattr(model, "config", None)
    for owner, name in (
        (module, "num_experts"),
        (module, "num_routed_experts"),
        (config, "num_local_experts"),
        (config, "num_experts"),
        (config, "n_routed_experts"),
    ):
        number = getattr(owner, name, None)
        if isinstance(number, int):
            return number
    return 0


def _sorted(choice: _Choice, num_experts: int) -> tuple[Tensor, Tensor]:
    """Ids and weights, the strongest first and those of no expert last."""
    none = (choice.ids < 0) | (choice.ids >= num_experts)
    keys = choice.weights.masked_fill(none, -torch.inf)
    order = keys.argsort(dim=1, descending=True, stable=True)
    ids = choice.ids.long().masked_fill(none, DROPPED).gather(1, order)
    return ids, choice.weights.masked_fill(none, 0.0).gather(1, order)


def record_routing(
    folder: Path,
    texts: Sequence[str],
    *,
    ranks: int = 1,
    max_tokens: int | None = None,
    batch: int = 8,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Imported:
    """Route texts through a causal model and keep the choices of every MoE layer, the strongest first.

    Args:
        folder: The model as `save_pretrained` writes it: config, safetensors and tokeniser.
        texts: Each is a sequence, cut at the positions that the model has.
        ranks: Ranks that the sequences are dealt to in turn.
        max_tokens: Tokens after which recording ends, the last sequence cut; None: all.
        batch: Sequences of a pass; padding is not recorded.
        progress: Called after every pass with the numbers of tokens done and in all.
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
    """Keep `transformers` from printing messages and progress bars; errors are still raised."""
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
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
        )
    except Exception as error:  # whatever the damage leads to
        raise Refusal(folder, "model", f"cannot be loaded ({_reason(error)})", _REMEDY) from error
    missing = sorted(loading["missing_keys"])
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
    """Returns the type of an error and the start of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
