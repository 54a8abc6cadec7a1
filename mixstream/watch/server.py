"""A run log -> a server on loopback: a page, its numbers, and requests for other weights.

Nobody without the token learns anything: every address starts with it, and a request for other
weights carries it in a header, too, which a page from elsewhere cannot send.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixstream.errors import MixstreamError, RecipeError
from mixstream.runlog import read_answer, request_weights
from mixstream.watch.live import VIEWS, LiveRun

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from uvicorn import Server

__all__ = ["TOKEN_HEADER", "Watch"]

TOKEN_HEADER = "x-mixstream-token"

_HOST = "127.0.0.1"
_MAX_BODY_BYTES = 1 << 20
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_INSTALL = "the live page needs starlette and uvicorn: pip install 'mixstream[watch]'."


class Watch:
    """The live page of one run.

    Args:
        path: of the run log; it may be growing.
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        StateError: the file is no run log.
        RecipeError: starlette or uvicorn is not installed.
        OSError: the file cannot be read, or the port is taken.
    """

    def __init__(self, path: str | os.PathLike[str], *, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self._live = LiveRun(path)
        self._requests: dict[str, Path] = {}
        self._server = self._made_server()
        self._socket = socket.create_server((_HOST, port))
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """The page's address, with the token."""
        return f"http://{_HOST}:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answers until `stop`, or until Ctrl-C."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Ends `serve` soon; from any thread."""
        self._server.should_exit = True

    def _made_server(self) -> Server:
        try:
            import uvicorn
        except ImportError as error:
            raise RecipeError(_INSTALL) from error
        config = uvicorn.Config(
            self._app(), log_level="warning", access_log=False, lifespan="off", ws="none",
            server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        return uvicorn.Server(config)

    def _app(self) -> Starlette:
        try:
            from starlette.applications import Starlette
            from starlette.middleware import Middleware
            from starlette.middleware.base import BaseHTTPMiddleware
            from starlette.routing import Route
        except ImportError as error:
            raise RecipeError(_INSTALL) from error
        return Starlette(
            routes=[
                Route("/{token}/", self._page),
                Route("/{token}/picture", self._picture),
                Route("/{token}/weights", self._weights, methods=["POST"]),
                Route("/{token}/answer", self._answer),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guarded)],
        )

    async def _guarded(self, request: Request, call_next: Any) -> Response:
        """Refuses who does not know the token, and names that only point here."""
        from starlette.responses import PlainTextResponse

        fault = self._fault(request)
        response: Response = (
            PlainTextResponse(f"refused: {fault}\n", status_code=403)
            if fault
            else await call_next(request)
        )
        response.headers.update(_HEADERS)
        return response

    def _fault(self, request: Request) -> str:
        """Why a request is refused; empty where it is not."""
        own = [f"{name}:{self.port}" for name in (_HOST, "localhost")]
        if request.headers.get("host") not in own:
            return "this server answers to 127.0.0.1 alone."
        given = request.url.path.split("/")[1]
        if not _same(given, self.token):
            return "open the whole address that `mixstream watch` printed; it holds a token."
        origin = request.headers.get("origin")
        if origin is not None and origin not in [f"http://{name}" for name in own]:
            return "this request comes from another page."
        if request.method != "GET" and not _same(request.headers.get(TOKEN_HEADER, ""), self.token):
            return f"a request that changes something carries the token in {TOKEN_HEADER}."
        return ""

    def _page(self, _: Request) -> Response:
        from starlette.responses import HTMLResponse

        nonce = secrets.token_urlsafe(12)
        page = _asset("page.html").replace("{{nonce}}", nonce)
        page = page.replace("{{style}}", _asset("page.css"))
        page = page.replace("{{script}}", _asset("charts.js") + _asset("page.js"))
        policy = (
            f"default-src 'none'; img-src data:; script-src 'nonce-{nonce}'; "
            f"style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
            f"form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    def _picture(self, request: Request) -> Response:
        """What changed since the version that the page has."""
        view = request.query_params.get("view", VIEWS[0])
        if view not in VIEWS:
            return _refusal(RecipeError(f"view is {view!r}; give one of {', '.join(VIEWS)}."))
        try:
            return _json(self._live.picture(view, request.query_params.get("known", "")))
        except (MixstreamError, OSError) as error:  # the log was moved away, say
            return _refusal(error)

    async def _weights(self, request: Request) -> Response:
        """Writes a person's request for other weights, or says why not."""
        from starlette.concurrency import run_in_threadpool

        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                return _refusal(RecipeError(f"the request is longer than {_MAX_BODY_BYTES} bytes."))
        return await run_in_threadpool(self._asked, body)

    def _asked(self, body: bytes) -> Response:
        try:
            asked = json.loads(body)
            weights, reason = asked["weights"], asked.get("reason", "")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return _refusal(
                RecipeError(
                    f"the request is not {{'weights': ..., 'reason': ...}}: {error!r}; send that."
                )
            )
        try:
            path = request_weights(self._live.run(), weights, str(reason))
        except (MixstreamError, OSError) as error:
            return _refusal(error)
        self._requests[path.name] = path
        return _json({"request": path.name})

    def _answer(self, request: Request) -> Response:
        """The run's answer to a request of this page; null where it has not looked yet."""
        path = self._requests.get(request.query_params.get("request", ""))
        if path is None:
            return _refusal(RecipeError("no such request was made here; ask again."))
        return _json(read_answer(path))


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _asset(name: str) -> str:
    return files("mixstream.watch").joinpath(name).read_text(encoding="utf-8")


def _json(value: object) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(value)


def _refusal(error: Exception) -> Response:
    from starlette.responses import JSONResponse

    said = {"accepted": False, "error": type(error).__name__, "message": str(error)}
    return JSONResponse(said, status_code=400)
