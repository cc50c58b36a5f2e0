"""Pairs of source and data points: the protocol and the union `Config` of its implementations."""

from typing import Annotated, ClassVar

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.coupling.matched import KNN, Assignment, Entropic, MinibatchOT, Permutation
from trainer.flow.coupling.protocol import Coupling, GibbsWeighted, Independent, Paired, Pairs


class OwnCoupling(OwnClass, frozen=True):
    """A class that keeps `Coupling`."""

    protocol: ClassVar[str] = "trainer.flow.coupling.Coupling"


Config = Annotated[Independent | MinibatchOT | GibbsWeighted | Assignment | KNN | Paired | OwnCoupling, KindOrClass()]


def build(config: Config) -> Coupling:
    return build_own(config) if isinstance(config, OwnCoupling) else config
