"""What every request passes before anything looks at it: its key, and its body's kind, size and time of arrival; and it is counted.

Plain ASGI, so that a stream goes through untouched.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weitiao.hosts import is_local
from weitiao.serve.counts import Counts
from weitiao.serve.keys import Keys
from weitiao.serve.limits import Limits
from weitiao.serve.refusal import Refusal

OPEN_PATHS = frozenset({"/health", "/openapi.json"})
"""Answered without a key."""


class Gate:
    """Lets requests through to an app, or answers them with a refusal."""

    def __init__(self, app: ASGIApp, *, keys: Keys | None, limits: Limits, counts: Counts, only_local: bool = False) -> None:
        """Keep the parts.

        Args:
            app: what answers.
            keys: who may ask; None for everybody.
            limits: of the server.
            counts: gets every request.
            only_local: whether requests must name this machine in their Host header. A page in a browser here can have its own name point
                to 127.0.0.1, and would otherwise be let in with no key.
        """
        self._app = app
        self._keys = keys
        self._limits = limits
        self._counts = counts
        self._only_local = only_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Args:
            scope: of the connection.
            receive: gives the request's body.
            send: takes the answer.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check(scope, headers)
            body = await self._body(headers, receive) if scope["method"] == "POST" else b""
            await self._app(scope, _replayed(body, receive), counted)
        except Refusal as refusal:
            await answer(refusal, counted)
        finally:
            self._counts.request(_route(scope), status, time.monotonic() - started)

    def _check(self, scope: Scope, headers: MutableMapping[str, str]) -> None:
        if self._only_local and not is_local(headers.get("host", "")):
            what = "this server answers requests to localhost only; for other names start it with --api-key-file"
            raise Refusal(403, what, code="host_not_allowed")
        if self._keys is not None and scope["path"] not in OPEN_PATHS and not self._keys.allow(headers.get("authorization")):
            raise Refusal(401, "a key is needed: send it as `Authorization: Bearer KEY`", code="invalid_api_key")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise Refusal(415, "the body is JSON: send `Content-Type: application/json`", code="unsupported_media_type")

    async def _body(self, headers: MutableMapping[str, str], receive: Receive) -> bytes:
        limit = self._limits.max_body_bytes
        too_large = Refusal(413, f"the body is larger than {limit:,} bytes", code="body_too_large")
        said = headers.get("content-length", "")
        if said.isdigit() and len(said) < 20 and int(said) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.max_upload_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(499, "the client is gone")
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive in {self._limits.max_upload_seconds:g} s", code="upload_timeout") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then what the connection says."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def _route(scope: Scope) -> str:
    route: Any = scope.get("route")
    return str(getattr(route, "path", "other"))


async def answer(refusal: Refusal, send: Send) -> None:
    """Send a refusal.

    Args:
        refusal: says why.
        send: takes the answer.
    """
    body = json.dumps(refusal.body, ensure_ascii=False).encode("utf-8", "backslashreplace")
    named = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **refusal.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
