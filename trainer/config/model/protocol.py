"""Properties of a network that a run needs before it is built, and base classes of network settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.run_reference import RunReference
from netsim.foundation.settings import Section

IMAGES = ("digits", "idx", "image_folder", "shards", "webdataset")
"""Kinds of data whose examples may be images."""


class _Adapters(Section):
    base: RunReference
    """The run, or its folder, whose averaged weights are adapted and stay unchanged."""
    rank: PositiveInt = 4
    """Rank of the matrix that is added to each adapted matrix."""
    alpha: PositiveFloat | None = None
    """Scale of the adapters: the matrix that is added is multiplied by alpha / rank; null: by 1."""
    on: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Linear layers that are adapted: those with one of these among the dotted parts of their names, such as qkv,
    projection or feed_forward; empty: all inside the blocks."""

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_name(cls, document: Any) -> Any:
        """Renames a key true to `on`, which YAML reads as true."""
        if not isinstance(document, dict) or True not in document:
            return document
        return {"on" if key is True else key: value for key, value in document.items()}


class LowRankAdaptersConfig(_Adapters):
    """y = W x + alpha / rank B A x, where A and B are trained.

    Source: Hu et al., "LoRA", arXiv 2106.09685, section 4.1.
    """

    kind: Literal["low_rank"] = "low_rank"


class RoutedAdaptersConfig(_Adapters):
    """A and B are weighted means of modules; each task learns the weights for each head.

    Source: Caccia et al., "Multi-Head Adapter Routing", arXiv 2211.03831, section 3.
    """

    kind: Literal["routed"] = "routed"
    tasks: PositiveInt | None = None
    """Tasks that have weights of their own; null: one for each source of data of kind mixture, 1 for other data."""
    modules: PositiveInt = 8
    """Pairs of A and B in each layer."""
    heads: PositiveInt = 8
    """Slices of a layer's input and output that are routed on their own; 1 is Polytropon."""
    init_from: RunReference | None = None
    """A run with routed adapters on the same base, with whose modules this run starts for its own tasks; null: the
    modules are drawn at random."""
    mode: Literal["all", "routing", "mean"] = "all"
    """Parts that are trained. all: modules and routing (MHR); routing: the routing alone (MHR-z); mean: the mean module
    without routing (MHR-mu), which then is a low-rank adapter."""

    @model_validator(mode="after")
    def _modes_begin_with_modules(self) -> "RoutedAdaptersConfig":
        if self.mode != "all" and self.init_from is None:
            raise ValueError(f"init_from: null with mode {self.mode}, which begins with the modules of a run; name one")
        if self.mode == "mean" and self.tasks is not None:
            raise ValueError(f"tasks: {self.tasks} with mode mean, which has one adapter for all; leave them out")
        return self


Shape = tuple[int, ...]
AdaptersConfig = Annotated[LowRankAdaptersConfig | RoutedAdaptersConfig, Field(discriminator="kind")]


REQUIRED = ("kind", "hidden", "num_layers", "init_from")
"""What the settings of every network have, as fields or properties."""


@dataclass(frozen=True)
class Input:
    """A tensor that a network is called with: its shape for one example, float32 unless `integer` (int64)."""

    shape: Shape
    integer: bool = False


class NetworkConfig(Section):
    """Settings of a network. A class of its own for each network says what differs from the defaults here.

    An attribute ``no_...`` is the reason why something is impossible, worded to complete a message; None if it is
    possible. A network that is not in the list of :mod:`trainer.model.build` sets `network`; one that learns a flow has
    `label_dropout`, too.
    """

    if TYPE_CHECKING:  # fields of the subclasses, which give them their place in the YAML

        @property
        def kind(self) -> str:
            """Name of the kind of network."""
            ...

        @property
        def hidden(self) -> int:
            """Width of a token inside the network."""
            ...

        @property
        def num_layers(self) -> int:
            """Blocks of the network."""
            ...

        @property
        def init_from(self) -> Path | None:
            """Weights that a run starts with, or the folder of the run that has them."""
            ...

    adapters: Annotated[AdaptersConfig | None, Field(exclude_if=lambda adapters: adapters is None)] = None
    """Small matrices that are trained beside the frozen ones of another run; null: the network itself is trained."""

    network: ClassVar[Any] = None
    """From :class:`trainer.model.network.NetworkSpec` to the network, such as a classmethod `build` of its class."""
    data_kinds: ClassVar[tuple[str, ...]] = (*IMAGES, "pairs")
    """Kinds of data that it learns from; the first is that of a section without a kind."""
    sample_kinds: ClassVar[tuple[str, ...]] = ("images",)
    """Kinds of samples that are made with it; the first is that of a section without a kind."""
    task_kinds: ClassVar[tuple[str, ...]] = ()
    """The kinds of task that it can learn, the default first; empty: those that train a flow."""
    objective_kinds: ClassVar[tuple[str, ...]] = ()
    """The kinds of objective that train it, the default first, which train no other network; empty: those that train
    any."""
    objective_part: ClassVar[str] = "a head"
    """The part that they train."""
    flowless: ClassVar[str | None] = None
    """What it learns in place of a flow; None: it learns a flow."""
    takes_images: ClassVar[bool] = False
    """Whether its states are images [C, H, W], so that they may be latents."""
    reads_context: ClassVar[bool] = False
    """Whether it reads a context of the shape of an image beside the state."""
    reads_captions: ClassVar[bool] = False
    """Whether it reads vectors of captions beside the state."""
    returns_attention: ClassVar[bool] = False
    """Whether it answers :class:`trainer.flow.question.WithAttention`, where its tokens look."""
    moves_tokens: ClassVar[bool] = False
    """Whether its tokens may stay with their experts, on other ranks, from layer to layer."""
    no_mixture: ClassVar[str | None] = "the network makes its feed-forward layers itself"
    unseen_in_shapes: ClassVar[tuple[str, ...]] = ()
    """Settings that decide what given weights compute, though the weights have the same shapes with others."""
    no_compilation: ClassVar[str | None] = None
    no_repetition_in_zero_3: ClassVar[str | None] = None
    """Why ZeRO stage 3 and activation checkpointing exclude each other."""

    @property
    def heads(self) -> int | None:
        """Number of attention heads; None without attention."""
        return None

    @property
    def key_value_width(self) -> int:
        """Elements of a token's keys and values in one layer that ranks with other tokens need; 0 if they need none."""
        return 0

    @property
    def token_bytes(self) -> int:
        """Bytes of a token id that is sent to another rank."""
        return 1

    @property
    def keyed_dropout(self) -> bool:
        """Whether dropout is keyed by token, for which ranks that exchange tokens also exchange seeds."""
        return False

    @property
    def new_parameters(self) -> tuple[str, ...]:
        """Prefixes of the names of parameters that the weights of `init_from` may lack."""
        return ()

    def fitted(self, task: Any) -> Self:
        """Returns these settings with values taken from the task of the run, so that a file need not repeat them."""
        del task
        return self

    def shared_widths(self, *, mixture: bool) -> Mapping[str, int]:
        """Widths that ranks divide under `parallel.tensor`, by field; `mixture`: feed-forward layers are experts."""
        del mixture
        return {}

    def check_states(self, shape: Shape) -> None:
        """Refuses states of a shape that the network does not take; the message names field, value and remedy."""
        del shape

    def tokens(self, state_shape: Shape) -> int:
        """Tokens of one example whose shape is accepted; 1 where an example is processed whole."""
        del state_shape
        return 1

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        """Inputs of the network for one example, without the condition of a flow and what follows it."""
        return Input(state_shape), Input(())


class TransformerConfig(NetworkConfig):
    """Settings of a network whose blocks have attention and a feed-forward layer."""

    if TYPE_CHECKING:

        @property
        def num_heads(self) -> int: ...

        @property
        def feed_forward_hidden(self) -> int | None: ...

    width_of_a_head: ClassVar[int] = 4
    """What divides it."""

    @property
    def heads(self) -> int:
        return self.num_heads

    @property
    def inner(self) -> int:
        """Width inside the dense feed-forward layers."""
        return self.feed_forward_hidden or 4 * self.hidden

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        multiple = self.width_of_a_head
        step = multiple * self.num_heads
        if self.hidden % step:
            raise ValueError(
                f"hidden: {self.hidden} is not a multiple of {multiple} x num_heads {self.num_heads}; "
                f"choose {step * max(1, round(self.hidden / step))}"
            )
        return self


Layers = Annotated[int, Field(gt=0, le=1_000)]
"""Blocks of a network. A configuration of the most is checked within seconds."""
Width = Annotated[int, Field(gt=0, le=1_048_576)]
"""Width of a layer; a matrix of the widest has fewer bytes than numbers of 64 bits count."""


def check_image(shape: Shape, field: str, length: int, *, limit: int = 0, otherwise: str) -> None:
    """Refuses states that squares of `length` pixels do not cover; `limit` is the longest side, 0: any."""
    if len(shape) != 3:
        raise ValueError(
            f"data.path: its examples have shape {list(shape)}, which is not that of an image; {otherwise}"
        )
    if shape[1] % length or shape[2] % length:
        pixels = " x ".join(map(str, sorted(set(shape[1:]))))
        raise ValueError(
            f"{field}: {length} does not divide images of {pixels} pixels; "
            f"use one of {divisors(math.gcd(*shape[1:], limit))}"
        )


def check_vector(shape: Shape, kind: str) -> None:
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            f"data.path: its examples have shape {list(shape)}, and an {kind} takes vectors of 2 values or more; "
            "use a dit model for images"
        )


def squares(shape: Shape, length: int) -> int:
    _, height, width = shape
    return (height // length) * (width // length)


def divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
