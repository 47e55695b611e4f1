"""The gateway as one ASGI application: FastAPI for what operators and tools ask, the raw relay for what costs.

GET  /                      the status page
GET  /health  /ready        alive; able to serve
GET  /metrics               Prometheus
GET  /v1/models             see :mod:`gateway.models`
GET  /admin/…               see :mod:`gateway.admin`
POST /v1/…  /tokenize  …    the relay, see :mod:`gateway.endpoints`
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from controller.actuators import Actuator
from controller.configuration import Configuration
from gateway.admin import router
from gateway.assembly import Artifacts
from gateway.discovery import Resolver, SystemResolver
from gateway.driver import Clock
from gateway.echo import echoing
from gateway.endpoints import dialect_of, find
from gateway.errors import ApiError
from gateway.exchange import Handler
from gateway.leases.peers import Place
from gateway.models import cards
from gateway.models import router as models_router
from gateway.mounted import MountedExchange
from gateway.openapi import with_relay
from gateway.reload import Load
from gateway.runtime import Runtime
from gateway.scoring import Scorer
from gateway.worker_cards import WorkerCards

__all__ = ["GatewayApp", "create_app"]

_PAGE = Path(__file__).parent / "pages" / "status.html"
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class GatewayApp(FastAPI):
    """FastAPI, with the relay before its routing. ``runtime`` is what runs behind it."""

    def __init__(self, runtime: Runtime, **options: Any) -> None:
        self.runtime = runtime
        super().__init__(**options)

    def relays(self, method: str, path: str) -> bool:
        """Whether the relay answers this request; see :class:`gateway.server.Direct`."""
        return find(method, path) is not None

    @property
    def handler(self) -> Handler:
        """The relay."""
        return self.runtime.relay

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Under a server that is not the gateway's own, the relay's requests come this way too."""
        if scope["type"] == "http" and self.relays(scope["method"], scope["path"]):
            await MountedExchange(scope, receive, send).run(self.handler)
        elif scope["type"] == "http":
            await super().__call__(scope, receive, echoing(scope, send))
        else:
            await super().__call__(scope, receive, send)

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
    resolver: Resolver | None = None,
    load: Load | None = None,
    place: Place | None = None,
) -> GatewayApp:
    """The application; its workers are watched and its control plane driven from start-up to shutdown of its lifespan.

    ``scorer`` stands in for the predictors that the configuration names in ``store``; ``actuator`` starts workers for
    pools that have one. ``clock`` is monotonic, ``time_of_day`` in seconds since 1970. ``resolver`` is for pools whose
    workers are found by DNS, the system's if not given; ``load`` reads the configuration again for a reload.
    ``place`` is that of this process among several of one machine.
    Raises StageError if a stage refuses its options, ConfigurationError if a pool's TLS files cannot be used.
    """
    version = version or _version()
    runtime = Runtime(
        configuration, store, scorer, actuator, clock, time_of_day, version, resolver or SystemResolver(), load, place
    )

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
    app.include_router(router(runtime.operator, configuration.admin.token, runtime.workers, runtime.reload_all))
    return app


def _add_public(app: FastAPI, runtime: Runtime, created: int) -> None:
    page = _PAGE.read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def status() -> HTMLResponse:
        headers = {"content-security-policy": _PAGE_POLICY, "cache-control": "no-cache"}
        return HTMLResponse(page, headers=headers)

    @app.head("/health", include_in_schema=False)
    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, Any]:
        """200 while the gateway itself runs; ``degraded`` while a pool has no ready worker, ``draining`` at its end."""
        ready = runtime.ready_workers()
        status = "draining" if runtime.draining else "ok" if all(ready.values()) else "degraded"
        return {"status": status, "ready_workers": ready}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", tags=["operation"], responses={503: {"description": "No worker is ready, or draining"}})
    async def ready() -> JSONResponse:
        """200 while at least one worker is ready and the gateway is not on its way out."""
        workers = runtime.ready_workers()
        able = any(workers.values()) and not runtime.draining
        return JSONResponse({"ready_workers": workers, "draining": runtime.draining}, status_code=200 if able else 503)

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(await runtime.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    told = WorkerCards(runtime.askers, time.monotonic)

    async def all_cards() -> list[dict[str, Any]]:
        specs = {pool.name: pool.spec() for pool in runtime.configuration.pools}
        return cards(runtime.plane.models(), specs, created, await told.contexts())

    async def known(request: Request) -> None:
        runtime.relay.tenants.identify(dict(request.headers.raw))

    app.include_router(models_router(all_cards), dependencies=[Depends(known)])


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return _answer(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        message = f"{request.method} {request.url.path}: {error.detail}"
        return _answer(request, ApiError(error.status_code, code, message), error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = str(first["loc"][-1])
        return _answer(request, ApiError(400, "invalid_value", f"{param!r}: {first['msg']}", param=param))

    @app.exception_handler(Exception)
    async def any_error(request: Request, error: Exception) -> Response:
        return _answer(request, ApiError(500, "internal_error", "the gateway failed; its log has the reason"))


def _answer(request: Request, error: ApiError, more: Mapping[str, str] | None = None) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(
        error.body(dialect_of(request.url.path)), status_code=error.status, headers={**(more or {}), **headers}
    )


def _version() -> str:
    try:
        return installed_version("headway")
    except PackageNotFoundError:
        return "unknown"
