"""A mixture of experts at inference, where every token is routed by itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Router(nn.Module):
    """Chooses the experts of each token, and their gate values.

    Router ``top_k`` takes the largest gate values; ``sinkhorn`` and ``base`` the largest logits, as they do at
    inference; ``sparse_ot`` the largest logits at the prices of the experts that training has found.
    """

    expert_bias: Tensor
    average_potentials: Tensor
    average_scale: Tensor

    def __init__(self, settings: dict) -> None:
        super().__init__()
        self.settings, num_experts = settings, settings["num_experts"]
        self.weight = nn.Parameter(torch.empty(num_experts, settings["hidden"]))
        if settings["biased"]:
            self.register_buffer("expert_bias", torch.zeros(num_experts))
        if settings["router"] == "sparse_ot":
            self.register_buffer("average_potentials", torch.zeros(num_experts))
            self.register_buffer("average_scale", torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens [T, hidden] to gate values [T, experts], zero for an expert that a token does not visit."""
        logits = functional.linear(tokens.float(), self.weight)
        settings, top_k = self.settings, self.settings["top_k"]
        if settings["router"] == "sparse_ot":
            return logits.softmax(dim=1) * self._support(logits)
        if settings["router"] == "top_k" and settings["score"] == "sigmoid":
            scores = logits.sigmoid()
            experts = (scores + self.expert_bias if settings["biased"] else scores).topk(top_k, dim=1).indices
            values = scores.gather(1, experts)
            if top_k > 1:
                values = values / (values.sum(dim=1, keepdim=True) + 1e-20)
        elif settings["router"] == "top_k" and settings["normalise_over"] == "all":
            values, experts = logits.softmax(dim=1).topk(top_k, dim=1)
        else:
            values, experts = logits.topk(top_k, dim=1)
            of_all = settings["router"] != "top_k"
            values = logits.softmax(dim=1).gather(1, experts) if of_all else values.softmax(dim=1)
        return torch.zeros_like(logits).scatter(1, experts, values)

    def _support(self, logits: Tensor) -> Tensor:
        """The experts that get a share of a token: at least top_k, at most `most_choices`."""
        top_k, most = self.settings["top_k"], self.settings["most_choices"]
        scores = (logits - logits.mean(dim=1, keepdim=True)) / self.average_scale + self.average_potentials
        best, experts = scores.topk(most, dim=1)
        below = best - best[:, :1]
        ranks = torch.arange(1, most + 1)
        chosen = ranks * below > below.cumsum(dim=1) - self.settings["gamma"] * top_k
        chosen[:, :top_k] = True
        return torch.zeros_like(logits).scatter(1, experts, chosen.to(logits.dtype))


class Expert(nn.Module):
    """Two matrices around a GELU."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(hidden, inner, bias=False)
        self.linear_fc2 = nn.Linear(inner, hidden, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens [T, hidden] to [T, hidden]."""
        return self.linear_fc2(functional.gelu(self.linear_fc1(tokens)))


class Mixture(nn.Module):
    """The experts of a layer: a token gets the sum of what its experts make of it, times their gate values."""

    def __init__(self, settings: dict) -> None:
        super().__init__()
        hidden = settings["hidden"]
        self.router = Router(settings)
        self.experts = nn.ModuleList(Expert(hidden, settings["expert_hidden"]) for _ in range(settings["num_experts"]))
        self.shared_experts = None
        if settings["shared_expert_hidden"]:
            self.shared_experts = Expert(hidden, settings["shared_expert_hidden"])

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens [.., hidden] to [.., hidden]."""
        rows = tokens.reshape(-1, tokens.shape[-1])
        gates = self.router(rows)
        output = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            chosen = gates[:, number].nonzero()[:, 0]
            output[chosen] += expert(rows[chosen]) * gates[chosen, number, None]
        if self.shared_experts is not None:
            output = output + self.shared_experts(rows)
        return output.view(tokens.shape)
