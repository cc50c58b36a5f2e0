"""Section ``workload`` of kind ``model``: the shape of a transformer, and how ranks divide a training step of it."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from netsim.foundation.settings import Section
from netsim.workload.device import Device
from netsim.workload.protocol import WorkloadSection
from netsim.workload.records import MOST_RANKS

Count = Annotated[int, Field(ge=1, le=1 << 24, strict=True)]
Width = Annotated[int, Field(ge=1, le=1 << 20, strict=True)]
Repeated = Annotated[int, Field(ge=1, le=4096, strict=True)]
Bytes = Literal[1, 2, 4]
_MOST = 1 << 25
"""Most layers x microbatches x (ranks + 128), so that the layout and the stages' programs fit into memory."""


class DivisionConfig(Section):
    """Section ``division`` of a model: data x tensor x pipeline ranks, numbered along tensor first.

    Args:
        data: Data parallelism: number of ranks, or of groups of tensor ranks, with tokens of their own.
        expert: Expert parallelism: number of consecutive data ranks that share the experts of a layer.
        tensor: Tensor parallelism: number of ranks that share the matrices of a block and have the same tokens.
        pipeline: Pipeline parallelism: number of stages, each with an equal part of the blocks. Microbatches go through
            them one forward, one backward (Narayanan et al., Efficient Large-Scale Language Model Training, SC 2021,
            section 2.2).
    """

    data: Count = 1
    expert: Count = 1
    tensor: Count = 1
    pipeline: Count = 1


class ModelConfig(WorkloadSection):
    """Section ``workload`` of kind ``model``: one step of a transformer, forward, backward and its optimiser.

    Args:
        network: Kind of transformer. gpt: from tokens to logits; dit: from patches to patches, its blocks steered by
            time and class.
        layers: Number of blocks, each of attention and a feed-forward layer.
        hidden: Width of the model: values of a token.
        heads: Number of attention heads; needed where kv_heads or tensor ranks divide them.
        kv_heads: Number of heads of keys and values, which the attention heads share; as many as heads if absent.
        feed_forward: Inner width of a feed-forward layer, of each expert where there are experts; 4 x hidden if absent.
        gated: Whether feed-forward layers have a third matrix, the gate (SwiGLU).
        vocabulary: Number of tokens in the vocabulary of a gpt.
        patch: Number of values in a patch of a dit.
        classes: Number of classes of a dit.
        sequence: Tokens of an example; all tokens of a microbatch if absent.
        tokens: Number of tokens of a microbatch on each rank.
        microbatches: Number of microbatches of an optimiser step.
        experts: Experts of each layer; dense layers if absent.
        top_k: Number of experts that each token visits. All experts are equally likely, and tokens return to their own
            rank after each layer.
        shared_expert: Inner width of an expert that every token visits too.
        activation_bytes: Bytes of an element of activations, sent to other ranks or moved to and from memory.
        weight_bytes: Bytes of a weight that blocks compute with.
        gradient_bytes: Bytes of an element of a gradient that ranks sum up.
        division: How the step is divided among ranks.
        sharded: What ranks hold. none: every rank has all weights and sums up all gradients; optimizer: the same, but
            each rank updates a part and gathers the new weights (ZeRO 1); full: a rank keeps a part of each block,
            which is gathered to compute (FSDP).
        bucket_elements: Size of a gradient bucket, in elements that are summed up together; unused if sharded is full.
        recompute: Whether blocks are computed again in the backward pass.
        overlap: Whether gradients are summed up, and blocks gathered ahead, while other blocks compute; false: one
            after the other.
        device: Device that computes: a name, such as h100, its peaks, or a table of measurements; null: computation
            takes no time.
    """

    kind: Literal["model"]
    network: Literal["gpt", "dit"] = "gpt"
    layers: Repeated
    hidden: Width
    heads: Width | None = None
    kv_heads: Width | None = None
    feed_forward: Width | None = None
    gated: bool = False
    vocabulary: Count = 50_304
    patch: Width = 16
    classes: Count = 1000
    sequence: Count | None = None
    tokens: Count
    microbatches: Repeated = 1
    experts: Annotated[int, Field(ge=1, le=16_384, strict=True)] | None = None
    top_k: Count = 1
    shared_expert: Width | None = None
    activation_bytes: Bytes = 2
    weight_bytes: Bytes = 2
    gradient_bytes: Bytes = 4
    division: DivisionConfig = DivisionConfig()
    sharded: Literal["none", "optimizer", "full"] = "none"
    bucket_elements: Annotated[int, Field(ge=1, le=1 << 40, strict=True)] = 100_000_000
    recompute: bool = False
    overlap: bool = True
    device: Device | None = None

    @property
    def inner(self) -> int:
        """Inner width of a feed-forward layer or an expert."""
        return self.feed_forward or 4 * self.hidden

    @property
    def example(self) -> int:
        """Tokens of an example."""
        return self.sequence or self.tokens

    @property
    def stage_ranks(self) -> int:
        """Ranks of a pipeline stage."""
        return self.division.data * self.division.tensor

    @property
    def homes(self) -> int:
        """Experts of a layer on one rank."""
        return (self.experts or 0) // self.division.expert

    @model_validator(mode="after")
    def _divides(self) -> "ModelConfig":
        for objection in self._objections():
            raise ValueError(objection)
        return self

    def _objections(self) -> Iterator[str]:
        division, heads, experts = self.division, self.heads, self.experts
        ranks = self.stage_ranks * division.pipeline
        if ranks > MOST_RANKS:
            yield f"division has {ranks:,} ranks, and {MOST_RANKS:,} are possible; lower data, tensor or pipeline"
        if self.layers * self.microbatches * (ranks + 128) > _MOST:
            many = f"{self.layers} layers, {self.microbatches} microbatches and {ranks:,} ranks"
            yield f"{many} have too many collectives; lower layers, microbatches or division"
        if self.kv_heads and not heads:
            yield "heads is missing beside kv_heads; add it, or remove kv_heads"
        for name, whole, part_name, part in (
            ("layers", self.layers, "division.pipeline", division.pipeline),
            ("tokens", self.tokens, "sequence", self.example),
            ("division.data", division.data, "division.expert", division.expert),
            ("hidden", self.hidden, "heads", heads or 1),
            ("heads", heads or 0, "kv_heads", self.kv_heads or 1),
            ("hidden", self.hidden, "division.tensor", division.tensor),
            ("feed_forward", self.inner, "division.tensor", division.tensor),
            ("heads", heads or 0, "division.tensor", division.tensor),
            ("kv_heads", self.kv_heads or 0, "division.tensor", division.tensor),
            ("experts", experts or 0, "division.expert", division.expert),
        ):
            if whole % part:
                near = max(divisor for divisor in range(1, part) if whole % divisor == 0)
                wrong = f"{name} {whole} is no multiple of {part_name} {part}"
                yield f"{wrong}; write {part_name}: {near}, or another {name}"
        if experts is None:
            for name, value in (("division.expert", division.expert), ("top_k", self.top_k)):
                if value > 1:
                    yield f"{name} is {value}, and the model has no experts; write experts, or remove {name}"
            if self.shared_expert:
                yield "shared_expert is beside no experts; write experts, or remove shared_expert"
            return
        if self.top_k > experts:
            yield f"top_k {self.top_k} exceeds experts {experts}; write {experts} at most"
        if division.tensor > 1:
            same = f"division.tensor: {division.tensor} ranks would send the same tokens to the experts"
            yield f"{same}; write 1 with experts, and divide them by division.expert"
