"""What draws take for messages and flows, in compiled code: see `netsim.workload.tasks.Tasks.keys`."""

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Network, Whole


@compiled
def message_key(network: Network, task: int) -> Whole:
    """See `netsim.transport.protocol.Release.key`."""
    return network.keys[task] if len(network.keys) else task


@compiled
def flow_key(network: Network, flow_id: int) -> Whole:
    """See `netsim.transport.protocol.Transport.key_of`."""
    if not len(network.keys):
        return flow_id
    task = flow_id // network.rules[0].places
    return flow_id + (network.keys[task] - task) * network.rules[0].places
