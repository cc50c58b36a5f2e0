"""Small text encoders with random weights, as the package transformers saves them."""

from pathlib import Path
from typing import Any

import torch

VOCABULARY = (
    *("[PAD]", "[UNK]", "</s>"),
    *("a", "red", "blue", "square", "circle", "on", "handwritten"),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
)


class Words:
    """A vocabulary of whole words."""

    def ids(self, text: str, kind: str) -> list[int]:
        """Numbers of the words of a text; clip marks its end."""
        return [VOCABULARY.index(word) for word in text.split()] + [VOCABULARY.index("</s>")] * (kind == "clip")


def write_encoder(kind: str, folder: Path, words: Words) -> Any:
    """Writes an encoder of 32 values with its tokenizer.

    Args:
        kind: bert, t5 or clip.
        folder: to write.
        words: its vocabulary.

    Returns:
        The network.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    del words
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]  set like this
    if kind == "clip":
        end = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
        tokenizer.post_processor = end  # pyright: ignore[reportAttributeAccessIssue]  set like this
    size = len(VOCABULARY)
    sizes: dict[str, Any] = {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    match kind:
        case "bert":
            settings = transformers.BertConfig(vocab_size=size, hidden_size=32, **sizes)
            model = transformers.BertModel(settings)
        case "t5":
            settings = transformers.T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
            model = transformers.T5EncoderModel(settings)
        case _:
            ends: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}
            settings = transformers.CLIPTextConfig(vocab_size=size, hidden_size=32, **ends, **sizes)
            model = transformers.CLIPTextModel(settings)
    model.eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model
