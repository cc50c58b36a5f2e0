"""Rules about data that a network cannot take, and their source points, contexts, latents and captions."""

import math

from netsim.foundation.refusal import problem_and_remedy
from trainer.config.derived import sampler_of, several_shapes
from trainer.config.model import GPTConfig
from trainer.config.model.protocol import divisors
from trainer.config.rules.composition import built, follows_score
from trainer.config.rules.objection import Objections
from trainer.config.rules.partners import kinds_without_noise, listed
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.data import MixtureConfig, PairsConfig, ShardsConfig, TextConfig, ToyConfig, parts_of
from trainer.data.builtin import PythonSourceConfig
from trainer.data.kinds import OwnDataset
from trainer.flow.context import SemanticMap
from trainer.flow.coupling import KNN, Independent, OwnCoupling, Paired
from trainer.flow.objective import Regression
from trainer.flow.time import Stratified

SQUARES = {
    "buckets": "leave data.buckets out, so that all pictures are squares",
    "shapes": "write the shards again without --buckets",
}
"""How data get one shape, by what gives them several."""


def of_examples(config: RunConfig) -> Objections:
    """Objects to examples of a shape, a length or a vocabulary that the network does not take."""
    shape, model = config.state_shape, config.model
    model.check_states(shape)
    data = parts_of(config.data)[0]  # those of a mixture agree
    if not isinstance(model, GPTConfig):
        return
    if isinstance(data, PythonSourceConfig | TextConfig) and model.vocabulary < data.vocabulary:
        problem = f"{model.vocabulary} is less than the {data.vocabulary} tokens of the data"
        yield "model.vocabulary", problem, f"leave it out, or use {data.vocabulary} or more"
    if isinstance(data, OwnDataset) and (len(shape) != 1 or shape[0] > model.context + 1):
        problem = (
            f"the examples of {data.class_path} have shape {list(shape)}, and a gpt takes windows of at most "
            f"model.context + 1 = {model.context + 1} tokens"
        )
        yield "data.class", problem, "give such windows"


def of_mixture(config: RunConfig) -> Objections:
    """Objects to parts of a run that a mixture of data sets excludes, and to a mixture as source."""
    flow = config.flow
    if flow is not None and isinstance(config.data, MixtureConfig) and flow.captions is not None:
        yield (
            "flow.captions",
            f"{flow.captions.path} has a caption for each example of one data set, and data.kind mixture has several",
            "leave it out, or learn from one",
        )
    if flow is not None and isinstance(flow.source, MixtureConfig):
        yield "flow.source.kind", "mixture is for data", "give one data set to start at"


def of_shapes(config: RunConfig) -> Objections:
    """Objects to examples of several shapes where a part of the run knows one alone."""
    flow, shapes = config.flow, several_shapes(config)
    name = "shapes" if isinstance(config.data, ShardsConfig) else "buckets"
    if len(getattr(flow and flow.source, "shapes", ())) > 1:
        yield "flow.source", "source points have one shape, and these have several", "give squares"
    if not shapes:
        return
    if config.model.kind != "dit" or flow is None:
        problem = f"a model of kind {config.model.kind} reads images of one shape"
        yield f"data.{name}", problem, f"use dit, or {SQUARES[name]}"
        return
    for shape in shapes:
        try:
            config.model.check_states(shape)
        except ValueError as error:
            problem, remedy = problem_and_remedy(error)
            yield f"data.{name}", f"{list(shape[1:])}: {problem}", remedy
    for field, value, fits in (
        ("flow.latent", "an autoencoder", flow.latent is None),
        ("flow.context", flow.context and flow.context.kind, flow.context is None),
        ("flow.source", flow.source and flow.source.kind, flow.source is None),
        ("flow.coupling.kind", flow.coupling.kind, isinstance(flow.coupling, Independent)),
        ("flow.objective.kind", flow.objective.kind, isinstance(flow.objective, Regression)),
        ("flow.path.kind", flow.path.kind, flow.path.kind != "mirror_interpolant"),
        ("sample.kind", config.sample.kind, isinstance(config.sample, ImageSample)),
        ("trace.steps", list(config.trace.steps), not config.trace.steps),
    ):
        if not fits:
            problem = f"{value} goes with images of one shape, and data.{name} gives {len(shapes)}"
            yield field, problem, f"leave it out, or {SQUARES[name]}"


def of_context(config: RunConfig) -> Objections:
    """Objects to latents of other images than the data, captions that are unread, and contexts that cannot be made."""
    if config.flow is None:
        return
    latent, context = config.flow.latent, config.flow.context
    shape: tuple[int, ...] = tuple(config.data.shape)
    pairs = config.data if isinstance(config.data, PairsConfig) else None
    if pairs is not None and pairs.latents != (latent and latent.digest):
        drawn = "no latents" if pairs.latents is None else f"latents of a folder whose index is {pairs.latents}"
        named = "is null" if latent is None else f"is {latent.path}, whose index is {latent.digest}"
        remedy = "leave it out" if pairs.latents is None else "give it the path that it has in the teacher's run"
        yield "flow.latent", f"{named}, and the pairs in data.path hold {drawn}", remedy
    if latent is not None and pairs is None and not config.data_are_latents and shape != latent.image_shape:
        problem = (
            f"{latent.path} holds latents of images of shape {list(latent.image_shape)}, and the data have "
            f"{list(shape)}"
        )
        yield "flow.latent.path", problem, "give such images, or encode these (python -m trainer encode)"
    if latent is not None and not config.model.takes_images:
        yield "flow.latent", f"latents are images, which an {config.model.kind} does not take", "use a dit"
    if config.flow.captions is not None:
        if not config.model.reads_captions:
            yield "flow.captions", f"model.kind {config.model.kind} does not read captions", "use dit"
        if getattr(config.model, "embeddings", "shared") != "shared":
            yield "model.embeddings", "each_block does not go with flow.captions", "use shared"
        if pairs is not None:
            yield "flow.captions", "pairs have no captions", "give the images themselves as data"
    yield from _of_contexts_of_the_data(config)
    if context is None:
        return
    field, kind = "flow.context.kind", context.kind
    if pairs is not None and pairs.parts is not None:
        problem = (
            f"{kind} is made of images, and the pairs in data.path are parts of paths ({pairs.parts}), most of which "
            "end at noisy ones"
        )
        yield field, problem, "use pairs of whole paths"
    if not config.model.reads_context:
        yield field, f"{kind} describes images, which an {config.model.kind} does not take", "use a dit"
    if config.data_are_latents or (pairs is not None and latent is not None):
        problem = f"{kind} is made of images, and the data are latents"
        yield field, problem, "give the images as data, and flow.latent.path to encode them at each step"
    if isinstance(context, SemanticMap) and len(shape) == 3 and any(side % context.block for side in shape[1:]):
        problem = f"{context.block} does not divide images of {shape[1]} x {shape[2]} pixels"
        yield "flow.context.block", problem, f"use one of {divisors(math.gcd(*shape[1:]))}"


def _of_contexts_of_the_data(config: RunConfig) -> Objections:
    """Objects to contexts that come with the examples and that the run does not use."""
    shape, flow = config.data_context_shape, config.flow
    if shape is None or flow is None:
        return
    field, remedy = "data.context_shape", "write the shards without a context"
    if flow.context is not None:
        yield field, f"the data have contexts already, and flow.context is {flow.context.kind}", "remove flow.context"
    if not config.labels_in_state and not config.model.reads_context:
        yield field, f"{list(shape)}, and model.kind {config.model.kind} reads no context", f"use a dit, or {remedy}"
    if shape[1:] != config.state_shape[1:]:
        problem = f"{list(shape)} does not lie beside states of shape {list(config.state_shape)}"
        yield field, problem, f"write contexts of {list(config.state_shape[1:])} rows and columns, or {remedy}"


def of_pairing(config: RunConfig) -> Objections:
    """Objects to settings that would separate pairs or parts of paths, and to a paired coupling without pairs."""
    if config.flow is None:
        return
    flow, data = config.flow, config.data
    coupling = flow.coupling
    if isinstance(coupling, Paired) and not isinstance(data, PairsConfig | OwnDataset):
        yield (
            "flow.coupling.kind",
            f"paired takes each source point from the data, and {data.kind} data have none",
            "use data.kind=pairs with a folder that the pairs verb wrote, or another coupling",
        )
    if not isinstance(data, PairsConfig):
        return
    if not isinstance(coupling, Paired | OwnCoupling):
        problem = f"{coupling.kind} would tear apart what data.kind pairs has paired"
        yield "flow.coupling.kind", problem, "use paired"
    if data.parts is None:
        return
    if flow.data_scale != data.data_scale:
        problem = f"{flow.data_scale:g} is not that of the states in data.path, which are on the way of a teacher"
        yield "flow.data_scale", problem, f"use {data.data_scale:g}"
    if built(flow.path).has_noise:
        problem = (
            f"{flow.path.kind} adds noise of its own, and the pairs in data.path are parts of paths ({data.parts}), "
            "which lie on one curve each"
        )
        yield "flow.path.kind", problem, f"use {listed(kinds_without_noise())}"


def of_source(config: RunConfig) -> Objections:
    """Objects to source points of a data set that the data, the coupling or the path do not use."""
    if config.flow is None:
        return
    flow, source, data = config.flow, config.flow.source, config.data
    if config.source_data is not None and flow.latent is not None:
        yield (
            "flow.source" if source is not None else "flow.path.kind: mirror_interpolant",
            "paths between latents start at a standard normal",
            "use another, or the images as data",
        )
    if source is None:
        return
    if isinstance(source, PairsConfig | PythonSourceConfig | TextConfig):
        yield "flow.source.kind", f"{source.kind} data cannot be points to start at", "use images or points"
        return
    if isinstance(data, PairsConfig) and source.model_dump(mode="json") != data.source:
        other = data.source and f"{data.source.get('kind', data.source.get('class'))} data of other settings"
        problem = f"{source.kind}, but the pairs in data.path begin at {other or 'noise'}"
        yield "flow.source.kind", problem, "leave flow.source out"
    if tuple(source.shape) != tuple(data.shape):
        problem = f"its examples have shape {list(source.shape)}, and the data have {list(data.shape)}"
        yield "flow.source", problem, "a path leads from one to the other, so give examples of one shape"
    if flow.path.kind in ("mirror_interpolant", "one_sided_interpolant"):
        starts = "the data themselves" if flow.path.kind == "mirror_interpolant" else "noise of its own"
        problem = f"flow.path {flow.path.kind} starts at {starts}"
        yield "flow.source", problem, "remove it, or use path stochastic_interpolant"
    if getattr(flow.objective, "spread", None) is not None:
        problem = "it draws further source points, and flow.source gives each example one"
        yield "flow.objective.spread", problem, "leave it out, or remove flow.source"
    if isinstance(flow.coupling, KNN):
        problem = "knn chooses among draws of a standard normal of its own, and flow.source gives one point each"
        yield "flow.coupling.kind", problem, "use assignment, minibatch_ot, gibbs_weighted or independent"
    drawn_by = sampler_of(config)
    for field, kind, needs_score, otherwise in (
        ("flow.target.kind", flow.target.kind, flow.target.kind == "score", "target velocity"),
        ("sample.sampler.kind", drawn_by.kind, follows_score(drawn_by), "sampler euler, heun or dopri5"),
    ):
        if needs_score and not built(flow.path).has_noise:
            problem = (
                f"{kind} needs noise on the way, and flow.path {flow.path.kind} adds none of its own to flow.source "
                "and the data"
            )
            yield field, problem, f"use path stochastic_interpolant with target velocity_and_noise, or {otherwise}"
    match source, data:  # endless sets are dealt in the order of their numbers
        case ToyConfig(num_examples=None), ToyConfig(num_examples=None) if (source.name, source.seed) == (
            data.name,
            data.seed,
        ):
            problem = f"{source.seed} makes the points of data once more"
            yield "flow.source.seed", problem, "give it another seed"


def of_times(config: RunConfig, micro_batch: int | None) -> Objections:
    """Objects to segments of time of which a micro batch would leave some out."""
    match config.flow and config.flow.time:
        case Stratified(segments=segments) if micro_batch is not None and micro_batch < segments:
            problem = f"{segments} segments exceed the micro batch of {micro_batch}, so that the last are never trained"
            yield "flow.time.segments", problem, "use fewer segments, or a larger optim.micro_batch"
