"""Data that are pairs already, and couplings that make or expect them."""

from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.data import OwnDataset, PairsConfig, PythonSourceConfig, TextConfig, ToyConfig
from trainer.flow.composition import follows_score, has_own_noise, kinds_without_noise, listed
from trainer.flow.coupling import KNNConfig, OwnCoupling, PairedConfig
from trainer.flow.time import StratifiedConfig


def check_pairing(config: RunConfig) -> None:
    """Refuses what would tear pairs or parts of paths apart, and a coupling that waits for pairs in vain.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    chosen, kind = config.flow.coupling, config.data.kind
    if isinstance(chosen, PairedConfig) and not isinstance(config.data, PairsConfig | OwnDataset):
        raise ValueError(
            f"flow.coupling.kind: paired takes each source point from the data, and {kind} data have none; use "
            "data.kind=pairs with a folder that the pairs verb wrote, or another coupling"
        )
    if isinstance(config.data, PairsConfig) and not isinstance(chosen, PairedConfig | OwnCoupling):
        raise ValueError(
            f"flow.coupling.kind: {chosen.kind} would tear apart what data.kind pairs has paired; use paired"
        )
    if not isinstance(config.data, PairsConfig) or config.data.parts is None:
        return
    if config.flow.data_scale != config.data.data_scale:
        raise ValueError(
            f"flow.data_scale: {config.flow.data_scale:g} is not that of the states in data.path, which are on the way "
            f"of a teacher; use {config.data.data_scale:g}"
        )
    if has_own_noise(config.flow.path):
        raise ValueError(
            f"flow.path.kind: {config.flow.path.kind} adds noise of its own, and the pairs in data.path are parts of "
            f"paths ({config.data.parts}), which lie on one curve each; use {listed(kinds_without_noise())}"
        )


def check_source(config: RunConfig) -> None:
    """Refuses source points of a data set that the data, the coupling or the path have no use for.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    if config.source_data is not None and config.flow.latent is not None:
        field = "flow.source" if config.flow.source is not None else "flow.path.kind: mirror_interpolant"
        raise ValueError(
            f"{field}: paths between latents start at a standard normal; use another, or the images as data"
        )
    if config.flow.source is None:
        return
    flow, source, data = config.flow, config.flow.source, config.data
    if isinstance(source, PairsConfig | PythonSourceConfig | TextConfig):
        raise ValueError(f"flow.source.kind: {source.kind} data cannot be points to start at; use images or points")
    if isinstance(data, PairsConfig) and source.model_dump(mode="json") != data.source:
        begin = (
            "noise"
            if data.source is None
            else f"{data.source.get('kind', data.source.get('class'))} data of other settings"
        )
        raise ValueError(
            f"flow.source.kind: {source.kind}, but the pairs in data.path begin at {begin}; leave flow.source out"
        )
    if tuple(source.shape) != tuple(data.shape):
        raise ValueError(
            f"flow.source: its examples have shape {list(source.shape)}, and the data have {list(data.shape)}; a path "
            "leads from one to the other, so give examples of one shape"
        )
    if flow.path.kind in ("mirror_interpolant", "one_sided_interpolant"):
        starts = "the data themselves" if flow.path.kind == "mirror_interpolant" else "noise of its own"
        raise ValueError(
            f"flow.source: flow.path {flow.path.kind} starts at {starts}; remove it, or use path stochastic_interpolant"
        )
    if isinstance(flow.coupling, KNNConfig):
        raise ValueError(
            "flow.coupling.kind: knn chooses among draws of a standard normal of its own, and flow.source gives one "
            "point each; use assignment, minibatch_ot, gibbs_weighted or independent"
        )
    assert isinstance(config.sample, ImageSample | PointSample)
    for field, kind, needs_score in (
        ("flow.target.kind", flow.target.kind, flow.target.kind == "score"),
        ("sample.sampler.kind", config.sample.sampler.kind, follows_score(config.sample.sampler)),
    ):
        if needs_score and not has_own_noise(flow.path):
            remedy = "target velocity" if field.startswith("flow") else "sampler euler, heun or dopri5"
            raise ValueError(
                f"{field}: {kind} needs noise on the way, and flow.path {flow.path.kind} adds none of its own to "
                f"flow.source and the data; use path stochastic_interpolant with target velocity_and_noise, or {remedy}"
            )
    match source, data:  # endless sets are dealt in the order of their numbers
        case ToyConfig(num_examples=None), ToyConfig(num_examples=None) if (source.name, source.seed) == (
            data.name,
            data.seed,
        ):
            raise ValueError(
                f"flow.source.seed: {source.seed} makes the points of data once more; give it another seed"
            )


def check_times(config: RunConfig, micro_batch: int) -> None:
    """Refuses segments of time of which a micro batch would leave some out.

    Args:
        config: the run.
        micro_batch: its examples.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None or not isinstance(config.flow.time, StratifiedConfig):
        return
    segments = config.flow.time.segments
    if micro_batch < segments:
        raise ValueError(
            f"flow.time.segments: {segments} segments exceed the micro batch of {micro_batch}, so that the last are "
            "never trained; use fewer segments, or a larger optim.micro_batch"
        )
