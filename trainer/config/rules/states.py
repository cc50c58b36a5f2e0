"""Runs whose states have the class of an example beside its image, are of letters, or begin at a caption."""

from trainer.config.rules.objection import Objections
from trainer.config.run import RunConfig
from trainer.config.sample import ClipSample, ReactionSample, SequenceSample
from trainer.config.task.policy import AdjointMatchingConfig, GRPOConfig
from trainer.data import PairsConfig
from trainer.flow import objective
from trainer.flow.context import FirstFrame
from trainer.flow.coupling import Ends, OwnCoupling, Symmetric
from trainer.flow.label_field import Channels
from trainer.flow.objective import CrossEntropy
from trainer.flow.path import GumbelSoftmaxConfig
from trainer.flow.target import Data, OwnTarget, Token, Velocity

LEAST_CONTRASTED = 8
"""Examples of a micro batch among which a caption is found again."""


def of_labels_in_state(config: RunConfig) -> Objections:
    """Objects to settings that would hide, replace or ask for a class that is part of the state."""
    flow = config.flow
    if flow is None or not isinstance(flow.coupling, Symmetric):
        return
    label = flow.coupling.label
    shape = config.data_context_shape
    if isinstance(label, Channels):
        described = "none" if shape is None else f"{shape[0]} channels"
        if shape is None or shape[0] != label.num:
            problem = f"{label.num}, and {config.data.kind} data have {described} beside each image"
            remedy = "write shards with a context" if shape is None else f"use {shape[0]}"
            yield "flow.coupling.label.num", problem, remedy
    elif shape is not None:
        problem = f"{label.kind} codes classes, and would leave out the contexts of shape {list(shape)} of the data"
        yield "flow.coupling.label.kind", problem, "use channels, or write the shards without a context"
    if config.data.num_classes < 2 and not (isinstance(label, Channels) and label.classes is None):
        problem = f"symmetric puts classes into states, and {config.data.kind} data have {config.data.num_classes}"
        yield "flow.coupling.kind", problem, "use data with two classes or more, or another coupling"
    dropout = getattr(config.model, "label_dropout", 0)
    if dropout:
        problem = f"{dropout} hides labels, and flow.coupling.kind symmetric would code a hidden one as a class"
        yield "model.label_dropout", problem, "use 0"
    guidance = getattr(config.sample, "guidance", 1)
    if guidance != 1:
        problem = f"{guidance} asks for a network without a class, and flow.coupling.kind symmetric has it in the state"
        yield "sample.guidance", problem, "use 1"
    for name in ("source", "context", "captions"):
        if getattr(flow, name) is not None:
            problem = "symmetric begins at noise and a class, and reads nothing besides"
            yield f"flow.{name}", problem, "remove the section, or use another flow.coupling"
    if isinstance(config.data, PairsConfig):
        yield "data.kind", "pairs have source points, and symmetric draws its own", "give the images themselves as data"
    if isinstance(config.task, GRPOConfig | AdjointMatchingConfig):
        problem = f"{config.task.kind} follows states that are pictures alone, and flow.coupling.kind is symmetric"
        yield "task.kind", problem, "use a base with another coupling"


def of_letters(config: RunConfig) -> Objections:
    """Objects to parts for letters where the data have none, and to parts that have no meaning for letters."""
    flow, letters = config.flow, bool(config.alphabet)
    if flow is None:
        return
    for field, part in (("path", flow.path), ("target", flow.target), ("objective", flow.objective)):
        if isinstance(part, GumbelSoftmaxConfig | Token | CrossEntropy) and not letters:
            problem = f"{part.kind} is of one-hot letters, and {config.data.kind} data have none"
            yield f"flow.{field}.kind", problem, f"use data.kind sequences, or another flow.{field}"
    if letters != isinstance(config.sample, SequenceSample):
        what = "of sequences" if letters else f"no sequences but {config.data.kind}"
        remedy = "use sequences" if letters else f"use {config.model.sample_kinds[0]}"
        yield "sample.kind", f"{config.sample.kind}, and the data are {what}", remedy
    if not letters:
        return
    for name in ("source", "context", "latent"):
        if getattr(flow, name) is not None:
            yield f"flow.{name}", "it is of images or points, and the data are sequences", "remove the section"
    if isinstance(flow.target, Token) and flow.data_scale != 1:
        problem = f"{flow.data_scale:g} scales states, and flow.target.kind token predicts letters"
        yield "flow.data_scale", problem, "use 1"
    if isinstance(config.task, GRPOConfig | AdjointMatchingConfig):
        problem = f"{config.task.kind} takes the states for examples, and those of sequences are no letters yet"
        yield "task.kind", problem, "use flow, and controls of samples"


def of_clips(config: RunConfig) -> Objections:
    """Objects to parts for clips where the data have none, and to parts that have no meaning for clips."""
    flow, channels = config.flow, config.frame_channels
    if flow is None:
        return
    if bool(channels) != isinstance(config.sample, ClipSample):
        what = "clips" if channels else f"no clips but {config.data.kind}"
        remedy = "use clips" if channels else f"use {config.model.sample_kinds[0]}"
        yield "sample.kind", f"{config.sample.kind}, and the data are {what}", remedy
    if isinstance(flow.context, FirstFrame) and flow.context.channels != channels:
        described = f"frames of {channels} channels" if channels else f"no frames but {config.data.kind}"
        remedy = f"use {channels}" if channels else "use data.kind moving_pictures, or another flow.context"
        yield "flow.context.channels", f"{flow.context.channels}, and the data have {described}", remedy
    if not channels:
        return
    for name in ("source", "latent"):
        if getattr(flow, name) is not None:
            yield f"flow.{name}", "it is of images or points, and the data are clips", "remove the section"
    if isinstance(config.task, GRPOConfig | AdjointMatchingConfig):
        problem = f"{config.task.kind} shows images or points, and the data are clips"
        yield "task.kind", problem, "use flow, and controls of samples"


def of_reactions(config: RunConfig) -> Objections:
    """Objects to parts for reactions where the data have none, and to parts without meaning for positions of atoms."""
    flow, atoms = config.flow, bool(config.species)
    if flow is None:
        return
    if atoms != isinstance(config.sample, ReactionSample):
        what = "reactions" if atoms else f"no reactions but {config.data.kind}"
        remedy = "use reactions" if atoms else f"use {config.model.sample_kinds[0]}"
        yield "sample.kind", f"{config.sample.kind}, and the data are {what}", remedy
    if isinstance(flow.coupling, Ends) and not atoms:
        problem = f"ends begins at atoms of a reaction, and {config.data.kind} data have none"
        yield "flow.coupling.kind", problem, "use data.kind reactions, or another flow.coupling"
    if not atoms:
        return
    if not isinstance(flow.coupling, Ends | OwnCoupling):
        problem = f"{flow.coupling.kind} moves the atoms that are not free away from where they stay"
        yield "flow.coupling.kind", problem, "use ends"
    if config.model.kind == "equivariant" and not isinstance(flow.target, Velocity | Data | OwnTarget):
        problem = f"{flow.target.kind} is no vector of an atom, nor its place, which an equivariant model predicts"
        yield "flow.target.kind", problem, "use data or velocity"
    for name in ("source", "context", "latent"):
        if getattr(flow, name) is not None:
            yield f"flow.{name}", "it is of images or points, and the data are reactions", "remove the section"
    if flow.data_scale != 1:
        problem = f"{flow.data_scale:g} scales states, and the ends beside them are in angstrom"
        yield "flow.data_scale", problem, "use 1"
    if isinstance(config.task, GRPOConfig | AdjointMatchingConfig):
        problem = f"{config.task.kind} shows images or points, and the data are reactions"
        yield "task.kind", problem, "use flow, and controls of samples"


def of_encoded_captions(config: RunConfig) -> Objections:
    """Objects to a path from a caption that lacks a part, and to parts that it does not use."""
    flow = config.flow
    if flow is None or not config.encodes_captions:
        return
    kind = flow.coupling.kind
    if "encoded_source" not in config.model.objective_kinds:
        problem = f"{kind} begins at what an encoder makes of captions, which a {config.model.kind} model lacks"
        yield "flow.coupling.kind", problem, "use model.kind encoded_dit or encoded_mlp, or another coupling"
    if flow.captions is None:
        problem = f"null leaves nothing to begin at, with flow.coupling.kind {kind}"
        yield "flow.captions", problem, "name a folder that the encode-captions verb wrote, or use another coupling"
    for name in ("source", "context"):
        if getattr(flow, name) is not None:
            problem = f"{kind} begins at a caption, and reads nothing besides"
            yield f"flow.{name}", problem, "remove the section, or use another flow.coupling"


def of_rows_together(config: RunConfig, micro_batch: int | None) -> Objections:
    """Objects to micro batches with too few rows to contrast captions, or to give a row another row's data point."""
    learned = config.flow and config.flow.objective
    if not isinstance(learned, objective.EncodedSource) or micro_batch is None:
        return
    if learned.contrastive and micro_batch < LEAST_CONTRASTED:
        problem = (
            f"{micro_batch} examples are too few to tell captions apart, which flow.objective.contrastive "
            f"{learned.contrastive:g} asks for"
        )
        remedy = f"use {LEAST_CONTRASTED} or more, or flow.objective.contrastive=0"
        yield "optim.micro_batch", problem, remedy
    elif micro_batch < 2 and getattr(config.model, "label_dropout", 0):
        problem = "1 example has no other, whose data point rows without a caption get (model.label_dropout)"
        yield "optim.micro_batch", problem, "use 2 or more"


def of_pictures_alone(config: RunConfig, verb: str) -> Objections:
    """Objects to runs whose states are no pictures or points from noise, for a verb that treats them as such."""
    if config.encodes_captions:
        problem = f"its paths begin at captions, and {verb} begins at noise"
        yield "run_dir", problem, "use a run with another flow.coupling than encoded"
    if config.labels_in_state:
        problem = f"its states have a label beside the picture, which {verb} would take for a part of the picture"
        yield "run_dir", problem, "use a run with another flow.coupling than symmetric"
    if config.frame_channels:
        yield "run_dir", f"its states are clips, and {verb} is for pictures and points", "use a run of such data"
    if config.species:
        yield "run_dir", f"its states are of atoms, and {verb} is for pictures and points", "use a run of such data"
    if config.alphabet:
        yield "run_dir", f"its states are of letters, and {verb} is for pictures and points", "use a run of such data"
