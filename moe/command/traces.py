"""replay, price and record: traces of a run under a placement, what it saves, and the routing of a model."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD, Request, Verb
from netsim.foundation.outputs import OutputFile, OutputFolder

_REPLAY_DESCRIPTION = """\
Rewrites a recorded collective trace: the result is the trace that the same run would
have left under another placement or dispatch mode. This is exact because the router's
choices do not depend on where the experts are. Simulate the result with
`python -m netsim compare`.
"""

_REPLAY_EXAMPLES = """\
example:
  python -m moe replay runs/demo/traces/collectives.jsonl --routing runs/demo/traces/routing.npz \\
      --placement placement.json --out replayed.jsonl
"""


class Replay(Request):
    """Options of replay."""

    source: Annotated[Path, WORD, "TRACE"]
    """recorded collective trace (.jsonl)"""
    routing: Annotated[Path, "FILE"]
    """routing trace of the same run"""
    placement: Annotated[Path, "FILE"]
    """placement to rewrite the trace for"""
    dispatch: Literal["coherent", "home", "capped", "copies", "hierarchical"] | None = None
    """default: the placement's own"""
    replicas: Literal["even", "least_loaded"] | None = None
    """choice among replicas (default: that of the run)"""
    out: Annotated[Path, "FILE"]
    """trace to write (.jsonl)"""


def _replay(arguments: Replay) -> None:
    from moe.collective_trace import read, write
    from moe.placement.placement import Placement
    from moe.replay import kept_rollouts, replay
    from moe.routing_trace import RoutingTrace

    header, records = read(arguments.source)
    routing, placement = RoutingTrace.read(arguments.routing), Placement.read(arguments.placement)
    header, records = replay(header, records, routing, placement, arguments.dispatch, arguments.replicas)
    write(arguments.out, header, records)
    if kept := kept_rollouts(header):
        print(f"moe replay: {kept}", file=sys.stderr)
    print(f"wrote {arguments.out}: {len(records)} collectives in {arguments.dispatch or placement.dispatch} dispatch")


REPLAY = Verb(
    name="replay",
    summary="rewrite a collective trace for a placement",
    description=_REPLAY_DESCRIPTION,
    epilog=_REPLAY_EXAMPLES,
    request=Replay,
    run=_replay,
    outputs=lambda options: [(OutputFile("--out", ('"source":"replayed"',)), options.out)],
    following="python -m netsim compare configs/scenarios/two_nodes.yaml workload.path={out} --out {out}.simulated",
)


_PRICE_DESCRIPTION = """\
Replays a recorded run under a placement, simulates the recorded and the replayed
trace on a fabric with `python -m netsim compare`, and prints one table: bytes of the
expert layers between ranks and nodes, the busiest rank, the time of the exchanges as
the alpha-beta model predicts it, and the simulated time of a step. The recorded trace
must be that of the placement in use, to the byte (--current; contiguous by default).

written to DIR:
  replayed.jsonl   the trace under the placement
  netsim/          both simulations; report.html has the pictures
  price.json       the figures of the table and the digests of what they are made of;
                   `python -m trainer report RUN --price DIR` shows them
"""

_PRICE_EXAMPLES = """\
example:
  python -m moe price runs/demo/traces/collectives.jsonl --routing runs/demo/traces/routing.npz \\
      --placement runs/demo/placement.json --scenario configs/scenarios/two_nodes.yaml --out runs/demo/price
"""


class Price(Request):
    """Options of price."""

    source: Annotated[Path, WORD, "TRACE"]
    """recorded collective trace (.jsonl)"""
    routing: Annotated[Path, "FILE"]
    """routing trace of the same run"""
    placement: Annotated[Path, "FILE"]
    """placement to price"""
    scenario: Annotated[Path, "FILE"]
    """netsim's scenario; its fabric"""
    current: Annotated[Path | None, "FILE"] = None
    """placement of the run (default: contiguous)"""
    dispatch: Literal["coherent", "home", "capped", "copies", "hierarchical"] | None = None
    """mode under the placement (default: the placement's own)"""
    cost: Annotated[str | None, "RATES"] = None
    """rates of a rank's links for predictions, intra=900Gbps,inter=100Gbps[,latency=5us] (default: those of the
    fabric, if it is made of hosts)"""
    out: Annotated[Path, "DIR"]
    """folder to write"""


def _price(arguments: Price) -> None:
    from moe.collective_trace import read_header
    from moe.placement.topology import Topology
    from moe.price.price import PriceRequest, price
    from moe.price.table import print_table
    from moe.replay import kept_rollouts

    rates = None
    if arguments.cost is not None:
        rates = Topology.parse(arguments.cost, 1, 1).rates
        if rates is None:
            raise ValueError(f"cost: names no rates ({arguments.cost}); give intra=900Gbps,inter=100Gbps")
    priced = price(
        PriceRequest(
            trace=arguments.source,
            routing=arguments.routing,
            placement=arguments.placement,
            current=arguments.current,
            scenario=arguments.scenario,
            dispatch=arguments.dispatch,
            rates=rates,
            out=arguments.out,
        )
    )
    print_table(priced)
    if kept := kept_rollouts(read_header(arguments.source)):
        print(f"moe price: {kept}", file=sys.stderr)
    print(f"wrote {arguments.out / 'price.json'} and {arguments.out / 'netsim' / 'report.html'}")


PRICE = Verb(
    name="price",
    summary="what a placement saves a recorded run",
    description=_PRICE_DESCRIPTION,
    epilog=_PRICE_EXAMPLES,
    request=Price,
    run=_price,
    outputs=lambda options: [(OutputFolder("--out", ("price.json", "replayed.jsonl")), options.out)],
    following="python -m moe export {placement} --to sglang {out}/sglang.json",
)


_RECORD_DESCRIPTION = """\
Routes texts through a mixture of experts of Hugging Face's transformers and writes
which experts each token chose in every layer, as a routing trace that `place` reads.
What is recorded is what the model hands its experts, whatever its method of choosing.
The model runs on the CPU from local files: nothing is downloaded, no code and no
pickle of the folder is run. Needs the extra flowfabric[hf].
"""

_RECORD_EXAMPLES = """\
example:
  python -m moe record --model models/OLMoE-1B-7B --texts prompts.jsonl --ranks 8 \\
      --max-tokens 20000 --out routing.npz
  python -m moe place routing.npz --nodes 1 --ranks-per-node 8 --objective copies \\
      --out placement.json
"""


class Record(Request):
    """Options of record."""

    source: Annotated[Path, "--model", "DIR"]
    """folder of the model: config.json, safetensors and its tokeniser"""
    texts: Annotated[Path, "FILE"]
    """texts, one a line, or .jsonl with a field text"""
    out: Annotated[Path, "FILE"]
    """routing trace to write (.npz)"""
    ranks: Annotated[int, "G"] = 1
    """ranks that texts are dealt to in turn (default 1)"""
    max_tokens: Annotated[int | None, "T"] = None
    """tokens to record in all (default: those of all texts)"""
    batch: Annotated[int, "B"] = 8
    """texts of one pass through the model (default 8)"""


class _Progress:
    """Prints progress after every twentieth of the tokens, and at the end."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        if done == total or (done - self._told) * 20 >= total:
            print(f"moe record: {done:,} of {total:,} tokens", file=sys.stderr)
            self._told = done


def _record(arguments: Record) -> None:
    from moe.interchange.documents import read_texts

    if arguments.out.suffix != ".npz":
        raise ValueError(f"out: a routing trace cannot be read by this name ({arguments.out}); name it .npz")
    texts = read_texts(arguments.texts)

    from netsim.foundation.extra import require

    require("transformers", field="model")
    from moe.interchange.hugging_face import record_routing

    recorded = record_routing(
        arguments.source,
        texts,
        ranks=arguments.ranks,
        max_tokens=arguments.max_tokens,
        batch=arguments.batch,
        progress=_Progress(),
    )
    recorded.result.write(arguments.out)
    print(f"wrote {arguments.out}: {recorded.summary()}")


RECORD = Verb(
    name="record",
    summary="record the routing of texts through a model",
    description=_RECORD_DESCRIPTION,
    epilog=_RECORD_EXAMPLES,
    request=Record,
    run=_record,
    outputs=lambda options: [(OutputFile("--out", ("header.npy",)), options.out)],
    following="python -m moe place {out} --nodes 2 --ranks-per-node 8 --out {out}.placement.json",
)
