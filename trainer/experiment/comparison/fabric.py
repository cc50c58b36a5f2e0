"""What a call of a network sends on a fabric: collectives by formula, timed by netsim in a process of its own."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from moe import collective_trace
from moe.placement.placement import Placement, objective_of
from moe.price.price import simulate
from moe.report.context import read_simulations
from netsim.foundation.refusal import Refusal
from trainer.config.document import read_document
from trainer.config.layout import Layout
from trainer.config.rules.plan import expert_nodes
from trainer.config.run import RunConfig
from trainer.experiment.comparison.cost import CallTraffic, Fabric
from trainer.trace.formula import TraceSpec, formula
from trainer.trace.formula.protocol import Operation
from trainer.trace.formula.sampling import Sampling
from trainer.trace.formula.sampling_plan import sampling_spec
from trainer.trace.formula.sent import sampling_bytes
from trainer.training.failure import RunFailed


@dataclass(frozen=True)
class NetworkCalls:
    """Calls of a network one after another, a program of the formula.

    Samples are not collected behind them, as they are where a file is made of them: a user of samples takes each from
    the rank that drew it.
    """

    sampling: Sampling
    calls: int = 1

    def operations(self) -> Iterator[Operation]:
        """See the protocol."""
        of_a_call = list(self.sampling.call())
        for number in range(self.calls):
            yield from (Operation(number, "forward", layer, collective) for layer, collective in of_a_call)


def calls_on(config: RunConfig, fabric: Fabric, calls: int = 1) -> TraceSpec:
    """The collectives of drawing examples on all ranks of a fabric at once, without guidance.

    Experts are spread over as many ranks as divide both their number and the ranks; all else is whole on every rank.
    """
    spread = 1 if config.moe is None else math.gcd(config.moe.num_experts, fabric.ranks)
    config = config.model_copy(update={"parallel": config.parallel.model_copy(update={"expert": spread, "tensor": 1})})
    ranks_per_node = _ranks_per_host(Path(fabric.scenario)) if spread > 1 else 1
    layout = _layout(config, fabric.ranks, ranks_per_node)
    spec = sampling_spec(
        config, layout, sampler=1, guidance=1.0, examples=fabric.examples, ranks_per_node=ranks_per_node
    )
    assert isinstance(spec.program, Sampling)
    of_any_run = None  # so that runs whose networks send the same have one trace
    return replace(spec, program=NetworkCalls(spec.program, calls), config_sha256=of_any_run)


def _layout(config: RunConfig, ranks: int, ranks_per_node: int) -> Layout:
    """Layout of ranks that share a network to draw, the experts in order.

    That the parts of the run go together is not checked: a base of a comparison may lack the flow of its network.
    """
    moe, spread = config.moe, config.parallel.expert
    placement = None
    if moe is not None:
        nodes = expert_nodes(config, ranks_per_node)
        sizes = config.model.num_layers, moe.num_experts, nodes, spread // nodes
        placement = Placement.contiguous(*sizes, dispatch=objective_of(moe.dispatch))
    return Layout(
        world_size=ranks,
        expert_parallel=spread,
        expert_data_parallel=ranks // spread,
        tensor_parallel=1,
        micro_batch=1,
        accumulation=1,
        placement=placement,
        relay_ranks=None if moe is None or placement is None else placement.relay_ranks(moe.dispatch),
    )


class CallPrices:
    """Bytes and times of calls of networks on one fabric; calls that send the same are simulated once."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._known: dict[bytes, Mapping[str, float]] = {}

    def of(self, config: RunConfig) -> CallTraffic:
        """Bytes and time of a call of a run's network."""
        spec = calls_on(config, self.fabric)
        assert isinstance(spec.program, NetworkCalls)
        sent = sampling_bytes(replace(spec, program=spec.program.sampling)).call.total
        network_us = self.times_us(spec) if sent else {}
        return CallTraffic(sent / (self.fabric.ranks * self.fabric.examples), network_us)

    def times_us(self, spec: TraceSpec) -> Mapping[str, float]:
        """Time of a program on the fabric by transport, us, mean over the seeds of the scenario."""
        with TemporaryDirectory() as folder:
            trace, out = Path(folder) / "calls.jsonl", Path(folder) / "netsim"
            collective_trace.write(trace, *formula(spec))
            written = trace.read_bytes()
            if written not in self._known:
                try:
                    simulate(trace, Path(self.fabric.scenario), out, "--jobs", "1")
                except ValueError as error:
                    raise ValueError(f"--fabric: {error}") from error
                except RuntimeError as error:
                    raise RunFailed(str(error)) from error
                runs = read_simulations(out / "results.json")
                self._known[written] = {run.transport: 1e3 * run.completion_ms for run in runs}
            return self._known[written]


def _ranks_per_host(scenario: Path) -> int:
    """Ranks on one host of a fabric; 1 where its topology says nothing, or anything that netsim refuses."""
    if not scenario.exists():
        raise Refusal(scenario, "file", "does not exist", "name a scenario of netsim with --fabric")
    topology = read_document(scenario, "configs/scenarios").get("topology")
    ranks = topology.get("ranks_per_host", 1) if isinstance(topology, dict) else 1
    return ranks if isinstance(ranks, int) and ranks > 0 else 1
