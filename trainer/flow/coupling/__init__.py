"""Pairs of source and data points: the protocol and the union `Config` of its implementations."""

from typing import Annotated, ClassVar

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.coupling.matched import KNN, Assignment, Entropic, MinibatchOT, Permutation
from trainer.flow.coupling.protocol import BuiltIn, Coupling, GibbsWeighted, Independent, Paired, Pairs
from trainer.flow.coupling.starts import Encoded, Ends
from trainer.flow.coupling.symmetric import Symmetric


class OwnCoupling(OwnClass, frozen=True):
    """A class that keeps `Coupling`."""

    protocol: ClassVar[str] = "trainer.flow.coupling.Coupling"


Config = Annotated[
    Independent | MinibatchOT | GibbsWeighted | Assignment | KNN | Paired | Symmetric | Encoded | Ends | OwnCoupling,
    KindOrClass(),
]


def build(config: Config, num_classes: int = 0) -> Coupling:
    """The coupling for data of `num_classes` classes: the section itself, or an instance of the class that it names."""
    match config:
        case OwnCoupling():
            return build_own(config)
        case Symmetric():
            return config.of_classes(num_classes)
    return config
