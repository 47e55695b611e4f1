"""The gateway as one ASGI application: FastAPI for what operators and tools ask, the raw relay for what costs.

GET  /                      the status page
GET  /health  /ready        alive; able to serve
GET  /metrics               Prometheus
GET  /v1/models             pools, their models' names, and aliases
GET  /admin/…               see :mod:`gateway.admin`
POST /v1/chat/completions   the relay
POST /v1/completions        the relay
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from controller.actuators import Actuator
from controller.configuration import Configuration
from gateway.admin import router
from gateway.assembly import Artifacts
from gateway.driver import Clock
from gateway.errors import ApiError
from gateway.openai import Endpoint
from gateway.openapi import with_relay
from gateway.relay import Receive, Scope, Send
from gateway.runtime import Runtime
from gateway.scoring import Scorer

__all__ = ["GatewayApp", "create_app"]

_HOT = frozenset(endpoint.value for endpoint in Endpoint)
_PAGE = Path(__file__).parent / "pages" / "status.html"
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class GatewayApp(FastAPI):
    """FastAPI, with the relay before its routing. ``runtime`` is what runs behind it."""

    def __init__(self, runtime: Runtime, **options: Any) -> None:
        self.runtime = runtime
        super().__init__(**options)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hot paths go straight to the relay."""
        if scope["type"] == "http" and scope["path"] in _HOT:
            await self._relay(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.runtime.relay(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The whole application's document, the relay's endpoints included."""
        if self.openapi_schema is None:
            self.openapi_schema = with_relay(super().openapi())
        return self.openapi_schema


def create_app(
    configuration: Configuration,
    *,
    store: Artifacts,
    scorer: Scorer | None = None,
    actuator: Actuator | None = None,
    clock: Clock = time.monotonic,
    time_of_day: Callable[[], float] = time.time,
    version: str | None = None,
) -> GatewayApp:
    """The application; its workers are watched and its control plane driven from start-up to shutdown of its lifespan.

    ``scorer`` stands in for the predictors that the configuration names in ``store``; ``actuator`` starts workers for
    pools that have one. ``clock`` is monotonic, ``time_of_day`` in seconds since 1970.
    Raises StageError if a stage refuses its options.
    """
    version = version or _version()
    runtime = Runtime(configuration, store, scorer, actuator, clock, time_of_day, version)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.close()

    app = GatewayApp(
        runtime,
        title="headway",
        summary="A learned control plane for LLM serving.",
        version=version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _add_handlers(app)
    _add_public(app, runtime, int(time_of_day()))
    app.include_router(router(runtime.operator, configuration.admin.token))
    return app


def _add_public(app: FastAPI, runtime: Runtime, created: int) -> None:
    page = _PAGE.read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def status() -> HTMLResponse:
        headers = {"content-security-policy": _PAGE_POLICY, "cache-control": "no-cache"}
        return HTMLResponse(page, headers=headers)

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, Any]:
        """200 while the gateway itself runs; ``degraded`` while a pool has no ready worker."""
        ready = runtime.ready_workers()
        return {"status": "ok" if all(ready.values()) else "degraded", "ready_workers": ready}

    @app.get("/ready", tags=["operation"], responses={503: {"description": "No worker is ready"}})
    async def ready() -> JSONResponse:
        """200 while at least one worker is ready."""
        workers = runtime.ready_workers()
        return JSONResponse({"ready_workers": workers}, status_code=200 if any(workers.values()) else 503)

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(runtime.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", tags=["openai"])
    async def models() -> dict[str, Any]:
        """Every model name that a request may ask for."""
        data = [_card(name, pools, runtime, created) for name, pools in runtime.plane.models().items()]
        return {"object": "list", "data": data}

    @app.get("/v1/models/{name:path}", tags=["openai"])
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        pools = runtime.plane.models().get(name)
        if pools is None:
            raise ApiError(404, "model_not_found", f"no model is called {name!r}", param="model")
        return _card(name, pools, runtime, created)


def _card(name: str, pools: tuple[str, ...], runtime: Runtime, created: int) -> dict[str, Any]:
    longest = max(runtime.configuration.pool(pool).context_length for pool in pools)
    card = {"id": name, "object": "model", "created": created, "owned_by": "headway", "max_model_len": longest}
    return {**card, "pools": list(pools)}


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return _answer(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        message = f"{request.method} {request.url.path}: {error.detail}"
        return _answer(ApiError(error.status_code, code, message), error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        return _answer(ApiError(400, "invalid_value", f"{param!r}: {first['msg']}", param=param))

    @app.exception_handler(Exception)
    async def any_error(request: Request, error: Exception) -> Response:
        return _answer(ApiError(500, "internal_error", "the gateway failed; its log has the reason"))


def _answer(error: ApiError, more: Mapping[str, str] | None = None) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), status_code=error.status, headers={**(more or {}), **headers})


def _version() -> str:
    try:
        return installed_version("headway")
    except PackageNotFoundError:
        return "unknown"
