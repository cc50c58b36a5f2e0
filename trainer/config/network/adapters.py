"""Adapters: small trained matrices beside the frozen ones of another run."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.run_reference import RunReference
from netsim.foundation.settings import Section


class _Adapters(Section):
    """What both kinds have."""

    base: RunReference
    """The run whose averaged weights are adapted, and stay as they are; its folder will do."""
    rank: PositiveInt = 4
    """Rank of what is added to a matrix."""
    alpha: PositiveFloat | None = None
    """What is added is multiplied by alpha / rank; null: by 1."""
    on: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Linear layers that are adapted: those with one of these among the dotted parts of their names, such as qkv,
    projection or feed_forward; empty: all inside the blocks."""

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_name(cls, document: Any) -> Any:
        """YAML reads the key `on` as true."""
        if not isinstance(document, dict) or True not in document:
            return document
        return {"on" if key is True else key: value for key, value in document.items()}


class LowRankAdaptersConfig(_Adapters):
    """y = W x + alpha / rank B A x, where A and B are trained.

    Source: Hu et al., "LoRA", arXiv 2106.09685, section 4.1.
    """

    kind: Literal["low_rank"] = "low_rank"


class RoutedAdaptersConfig(_Adapters):
    """A and B are means of modules, whose weights each task learns for each head.

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
    """A run with routed adapters on the same base, whose modules this run starts with, for tasks of its own; null: the
    modules are drawn."""
    mode: Literal["all", "routing", "mean"] = "all"
    """What is trained: modules and routing (MHR), the routing alone (MHR-z), or the mean module without routing
    (MHR-mu), which then is a low-rank adapter."""

    @model_validator(mode="after")
    def _modes_begin_with_modules(self) -> "RoutedAdaptersConfig":
        if self.mode != "all" and self.init_from is None:
            raise ValueError(f"init_from: null with mode {self.mode}, which begins with the modules of a run; name one")
        if self.mode == "mean" and self.tasks is not None:
            raise ValueError(f"tasks: {self.tasks} with mode mean, which has one adapter for all; leave them out")
        return self


AdaptersConfig = Annotated[LowRankAdaptersConfig | RoutedAdaptersConfig, Field(discriminator="kind")]
