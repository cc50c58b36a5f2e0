"""Conditions of captions that a person writes, encoded as those that the run learned from."""

from pathlib import Path

import torch

from netsim.foundation.refusal import Refusal
from trainer.config.run import RunConfig
from trainer.data.captions import CaptionsIndex
from trainer.data.shard.index import INDEX, read_index
from trainer.flow import Condition
from trainer.model.text_encoder import TextEncoder
from trainer.sampling.conditioning import Conditioning


def captioned(config: RunConfig, num: int, captions: tuple[str, ...], encoder_dir: Path) -> Conditioning:
    """Conditions of examples that have some captions in turn, and no class."""
    learned = config.flow and config.flow.captions
    if learned is None:
        raise ValueError("--caption: the run reads no captions; leave it out, or train with flow.captions")
    if config.flow is not None and config.flow.context is not None:
        raise ValueError("--caption: the run also reads a flow.context, which a caption does not give; leave it out")
    if not all(caption.strip() for caption in captions):
        raise ValueError("--caption: it is empty; describe the image in words")
    index = read_index(learned.path, CaptionsIndex)
    if index.digest != learned.digest:
        problem, remedy = f"is {index.digest} where the run has {learned.digest}", "bring back those of the run"
        raise Refusal(learned.path / INDEX, "digest", problem, remedy)
    encoder = TextEncoder(encoder_dir)
    if encoder.digest != index.encoder:
        problem = f"has the digest {encoder.digest}, and the captions of the run were made by {index.encoder}"
        raise Refusal(encoder_dir, "encoder", problem, "give the encoder that encode-captions was given")
    vectors = index.standardised(encoder.encode(captions)).half().float()
    turn = torch.arange(num) % len(captions)
    label = torch.full((num,), config.data.num_classes)
    return Conditioning(Condition(label=label, caption=vectors[turn]), captions=captions)
