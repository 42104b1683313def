"""Read runs back through databroker's interface.

Everything else Tiled's own client does: `run = client[uid]`, `run["descriptors"].read()` (an xarray Dataset), and
`run["primary"]["detector"][3:5]`, which fetches these two frames only.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from databroker.v1 import Broker
    from tiled.client.container import Container


def broker(client: "Container") -> "Broker":
    """Return databroker's classic interface: `db[uid].table("energetics")`, `db[-1]`, `db(sample="MoS2")`.

    Parameters
    ----------
    client : Container
        Tiled client at the root of the catalog. It goes on as it is, where `databroker.v1.Broker(client)` would turn
        the runs of every client in this process into an older kind that lacks `run["primary"]["detector"]`: it
        writes to a table of classes that all clients share. Here it gets a table of its own.
    """
    from databroker.v1 import Broker
    from tiled.utils import OneShotCachedMap

    shared = client.structure_clients
    own = OneShotCachedMap({name: (lambda name=name: shared[name]) for name in shared})
    return Broker(type(client)(client.context, item=client.item, structure_clients=own))
