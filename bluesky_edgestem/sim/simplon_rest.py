"""SIMPLON's REST interface of the simulated detector."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .simplon_config import VERSIONS, Parameter, Refused
from .simplon_detector import Detector

MODULES = ("detector", "stream", "filewriter", "monitor", "system")
START_TIMEOUT = 10.0


class RestServer:
    """Serves a detector over HTTP in a thread of its own.

    ``GET /{module}/api/{version}/{config|status|command}/{name}``, ``PUT .../config/{name}`` with ``{"value": ...}``,
    ``PUT /detector/api/{version}/command/{name}``, and ``PUT /simulator/pulse`` with ``{"value": n}`` for pulses on the
    trigger input. An error is answered with the status 400 or 404 and says why.

    Parameters
    ----------
    detector : Detector
    host : str
        Address to serve on.
    port : int
        0 for a free one, see `port`.
    """

    def __init__(self, detector: Detector, host: str = "127.0.0.1", port: int = 0) -> None:
        self._detector = detector
        routes = [
            Route("/{module}/api/version", self._version),
            Route("/{module}/api/version/", self._version),
            Route("/{module}/api/{version}/config/{name:path}", self._get_config),
            Route("/{module}/api/{version}/config/{name:path}", self._put_config, methods=["PUT"]),
            Route("/{module}/api/{version}/status/{name:path}", self._get_status),
            Route("/{module}/api/{version}/command/keys", self._commands),
            Route("/{module}/api/{version}/command/{name}", self._command, methods=["PUT"]),
            Route("/{module}/api/{version}/files", lambda request: _json([])),
            Route("/simulator/pulse", self._pulse, methods=["PUT"]),
        ]
        app = Starlette(routes=routes, exception_handlers={Refused: _refused})
        self._server = uvicorn.Server(
            uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=self._server.run, name="simplon-rest", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise OSError(f"cannot serve REST on {host}:{port}; is the port taken?")
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]

    def close(self) -> None:
        """End the server."""
        self._server.should_exit = True
        self._thread.join()

    async def _version(self, request: Request) -> Response:
        return _json(Parameter(self._detector.version, access="r").described())

    def _module(self, request: Request) -> str:
        module, version = request.path_params["module"], request.path_params["version"]
        if module not in MODULES:
            raise Refused(f"no module is called {module!r}; there are {', '.join(MODULES)}", 404)
        if version != self._detector.version:
            raise Refused(
                f"version {version} is not served; it is {self._detector.version} (of {', '.join(VERSIONS)})", 404
            )
        return module

    def _parameters(self, request: Request) -> dict[str, Parameter]:
        return self._detector.config.get(self._module(request), {})

    async def _get_config(self, request: Request) -> Response:
        return _look_up(self._parameters(request), request.path_params["name"])

    async def _get_status(self, request: Request) -> Response:
        return _look_up(self._status(self._module(request)), request.path_params["name"])

    def _status(self, module: str) -> dict[str, Parameter]:
        detector = self._detector
        enabled = module == "detector" or (module in detector.config and detector.values(module)["mode"] == "enabled")
        state = detector.state if module == "detector" else "ready" if enabled else "disabled"
        status = {"state": Parameter(state, access="r"), "error": Parameter((), "list", "r")}
        if module == "detector":
            status |= {
                "time": Parameter(datetime.now(UTC).isoformat(), "date", "r"),
                "temperature": Parameter(24.0, "float", "r", "°C"),
                "humidity": Parameter(3.0, "float", "r", "%"),
                "high_voltage/state": Parameter("READY", access="r"),
            }
        elif module == "stream":
            status["dropped"] = Parameter(detector.dropped, "uint", "r")
        elif module == "filewriter":
            status |= {"buffer_free": Parameter(1 << 20, "uint", "r", "kB"), "files": Parameter((), "list", "r")}
        return status

    async def _put_config(self, request: Request) -> Response:
        module, name = self._module(request), request.path_params["name"]
        if name not in self._parameters(request):
            raise Refused(f"{module} has no parameter {name!r}", 404)
        return _json(self._detector.put(module, name, await _value(request)))

    def _known(self, module: str) -> dict[str, Callable[..., Any]]:
        detector = self._detector
        if module != "detector":
            return {"initialize": lambda: None}
        return {
            "initialize": detector.initialize,
            "arm": detector.arm,
            "trigger": detector.trigger,
            "disarm": detector.disarm,
            "abort": detector.abort,
            "cancel": detector.cancel,
        }

    async def _commands(self, request: Request) -> Response:
        return _json(list(self._known(self._module(request))))

    async def _command(self, request: Request) -> Response:
        module, name = self._module(request), request.path_params["name"]
        known = self._known(module)
        if name not in known:
            raise Refused(f"{module} has no command {name!r}; there are {', '.join(known)}", 404)
        given = [value["value"]] if name == "trigger" and "value" in (value := await _body(request)) else []
        number = await run_in_threadpool(known[name], *given)
        return _json({} if number is None else {"sequence id": number})

    async def _pulse(self, request: Request) -> Response:
        count = await _value(request)
        if not isinstance(count, int) or count < 1:
            raise Refused(f"value is {count!r}; allowed is a count of pulses from 1")
        self._detector.pulse(count)
        return _json({})


def _json(answer: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(answer), status, media_type="application/json")


def _refused(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, getattr(error, "status", 400))


def _look_up(parameters: dict[str, Parameter], name: str) -> Response:
    if name in ("", "keys"):
        return _json(sorted(parameters))
    if name not in parameters:
        raise Refused(f"there is no {name!r}; there are {', '.join(sorted(parameters))}", 404)
    return _json(parameters[name].described())


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        body = None
    return body if isinstance(body, dict) else {}


async def _value(request: Request) -> Any:
    body = await _body(request)
    if "value" not in body:
        raise Refused('the body must be JSON with a "value"')
    return body["value"]
