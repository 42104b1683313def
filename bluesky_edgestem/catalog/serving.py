"""The process that serves the catalog; started by `bluesky_edgestem.catalog.server`, not meant to be run by hand.

Its orders come as one JSON object on standard input (so that the API key stands in no process list), and it says
"ready" on a pipe once the first request would be answered.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

# How often the process looks whether the one that started it is still alive [s].
PARENT_WATCH_INTERVAL = 0.5


def main() -> None:
    """Serve the catalog described on standard input until told to stop or until the parent is gone."""
    orders = json.load(sys.stdin)
    threading.Thread(target=_die_with_parent, args=(orders["parent_pid"],), daemon=True).start()
    database = Path(orders["directory"], "catalog.db")
    if not database.exists():
        _create_database(database)
    _serve(orders, database)


def _die_with_parent(parent_pid: int) -> None:
    # A look at the parent's pid rather than PR_SET_PDEATHSIG, which fires when the THREAD that started the server
    # ends, and rather than an inherited pipe, which the parent's other children would keep open.
    while os.getppid() == parent_pid:
        time.sleep(PARENT_WATCH_INTERVAL)
    os._exit(0)


def _create_database(database: Path) -> None:
    # Tiled's own init_if_not_exists starts a second interpreter, which doubles the start-up time. The new database
    # gets its name only once it is whole, so that a kill in between leaves nothing half-made.
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import initialize_database

    unfinished = database.with_suffix(".db.new")
    unfinished.unlink(missing_ok=True)
    uri = f"sqlite+aiosqlite:///{unfinished}"

    async def create() -> None:
        engine = create_async_engine(uri)
        await initialize_database(engine)
        await engine.dispose()

    asyncio.run(create())
    stamp_head(Path(ALEMBIC_INI_TEMPLATE_PATH), Path(ALEMBIC_DIR), uri)
    unfinished.rename(database)


def _serve(orders: dict[str, Any], database: Path) -> None:
    import hdf5plugin  # noqa: F401 - registers bitshuffle-lz4 with HDF5, or no frame can be read
    import uvicorn
    from tiled.server.app import build_app_from_config

    directory = database.parent
    app = build_app_from_config(
        {
            "trees": [
                {
                    "tree": "catalog",
                    "path": "/",
                    "args": {
                        "uri": f"sqlite:///{database}",
                        "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                        "writable_storage": [
                            str(directory / "arrays"),
                            f"duckdb:///{directory / 'tables.duckdb'}",
                        ],
                        "readable_storage": orders["readable"],
                    },
                }
            ],
            "media_types": {
                "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}
            },
            "authentication": {"allow_anonymous_access": False, "single_user_api_key": orders["api_key"]},
            "metrics": {"prometheus": False},
        }
    )

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            os.write(orders["ready_fd"], b"ready")

    listening = socket.socket(fileno=orders["socket_fd"])
    server = Announcing(uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=5))
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
