"""Optimal transport: balanced, unbalanced, partial, quadratic, sparsity-constrained and sliced."""

import moe.with_torch

# isort: split

from moe.ot.ascent import Balance, balancing_potentials, summed_elements
from moe.ot.costs import cosine, euclidean, negative_log_probabilities, negative_logits, spread, squared_euclidean
from moe.ot.divergence import monge_gap, sinkhorn_divergence, sliced_wasserstein, wasserstein_1d
from moe.ot.dual import Projection, project_rows, quadratic
from moe.ot.exact import Problem, capacity_problem, dropping_problem, exact, partial, partial_problem, without_slack
from moe.ot.problem import Plan
from moe.ot.sinkhorn import sinkhorn
from moe.ot.sparsity_constrained import expert_potentials, fill_capacity, sparsity_constrained

__all__ = [
    "Balance",
    "Plan",
    "Problem",
    "Projection",
    "balancing_potentials",
    "capacity_problem",
    "cosine",
    "dropping_problem",
    "euclidean",
    "exact",
    "expert_potentials",
    "fill_capacity",
    "monge_gap",
    "negative_log_probabilities",
    "negative_logits",
    "partial",
    "partial_problem",
    "project_rows",
    "quadratic",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "sparsity_constrained",
    "spread",
    "squared_euclidean",
    "summed_elements",
    "wasserstein_1d",
    "without_slack",
]
