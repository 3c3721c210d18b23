"""The routes: OpenAI's chat completions and models, health, metrics, and the page."""

import time
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from caad_ds.serving.server import replies
from caad_ds.serving.server.access_control import Application, Guard
from caad_ds.serving.server.completions import Completions
from caad_ds.serving.server.refusals import Refused
from caad_ds.serving.server.service import Service

PAGE = {"/": ("page.html", "html"), "/page.js": ("page.js", "javascript"), "/page.css": ("page.css", "css")}


def make_app(service: Service, key: str, local: bool) -> Application:
    """Build the ASGI application of a service; `key` "": none is required, `local`: only loopback is served."""
    app = FastAPI(openapi_url=None)  # the pages of FastAPI's documentation load scripts from other hosts
    began = int(time.time())
    get = partial(app.api_route, methods=["GET", "HEAD"])
    app.add_route("/v1/chat/completions", Completions(service), methods=["POST"])  # type: ignore[arg-type]

    @get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [replies.model(name, began, one) for name, one in service.models.items()]}

    @get("/v1/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        if name not in service.models:
            raise Refused(404, f"model: {name[:80]!r} is not served here", "model")
        return replies.model(name, began, service.models[name])

    @get("/health")
    def health() -> JSONResponse:
        state = "ok" if service.healthy else "ending" if service.draining else "failed"
        return JSONResponse({"status": state}, 200 if service.healthy else 503)

    @get("/metrics")
    def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    for path, (name, kind) in PAGE.items():
        get(path)(_file(name, kind))

    @app.exception_handler(Refused)
    async def refuse(_: Request, refused: Refused) -> JSONResponse:
        return replies.refusal(refused)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def elsewhere(request: Request, error: HTTPException) -> JSONResponse:
        reason = "no such path" if error.status_code == 404 else "method not allowed"
        return replies.refusal(Refused(error.status_code, f"{request.method} {request.url.path[:80]}: {reason}"))

    return Guard(app, key, local)


def _file(name: str, kind: str) -> Any:
    content = files("caad_ds.serving.server").joinpath("page", name).read_bytes()
    return lambda: Response(content, media_type=f"text/{kind}")
