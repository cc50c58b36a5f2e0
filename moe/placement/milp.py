"""Coherent dispatch as a mixed-integer linear programme: slow, with a bound of its own, the check on the searches.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S experts of one rank and layer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from moe.placement.bounds import best_bound
from moe.placement.contiguous import contiguous_ranks
from moe.placement.descent import Descent
from moe.placement.protocol import Assignment
from moe.placement.slots import cheapest_ranks
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology

MOST_BINARIES = 1_000
NODE_LIMIT = 500
_TOLERANCE = 1e-6  # HiGHS's for feasibility and integrality, taken off its bound as a share of all tokens
