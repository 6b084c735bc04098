"""How bodies become values and failures become answers: strict JSON, and OpenAI's error form for everything that goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from weitiao.serve.refusal import Refusal

N_SHOWN = 3
"""Mistakes of a body that are told at once."""


class CheckedRequest(Request):
    """A request whose JSON is read strictly: no NaN, no half characters, no nesting without end."""

    async def json(self) -> Any:
        """The body as a value.

        Returns:
            What it holds.

        Raises:
            JSONDecodeError: it is not JSON.
        """
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class CheckedRoute(APIRoute):
    """A route with ``CheckedRequest``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler.

        Returns:
            FastAPI's own, given a ``CheckedRequest``.
        """
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await inner(CheckedRequest(request.scope, request.receive))

        return handler


def answer_errors(app: FastAPI) -> None:
    """Answer every failure of an app in OpenAI's form.

    Args:
        app: gets the handlers.
    """

    async def refused(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        return _response(error)

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _response(_invalid(error.errors()))

    async def unknown(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = _response(Refusal(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    async def unforeseen(_request: Request, _error: Exception) -> JSONResponse:
        return _response(Refusal(500, "the server failed in a way that it did not foresee; its log says where"))

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(Exception, unforeseen)


def _response(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body, refusal.status, headers=refusal.headers)


def _invalid(mistakes: Sequence[Any]) -> Refusal:
    told = [_told(mistake) for mistake in mistakes[:N_SHOWN]]
    more = [f"and {len(mistakes) - N_SHOWN} more"] if len(mistakes) > N_SHOWN else []
    places = [_place(mistake) for mistake in mistakes]
    param = places[0].partition(".")[0] if places and places[0] else None
    return Refusal(400, "; ".join(told + more), code="invalid_body", param=param)


def _told(mistake: Any) -> str:
    place = _place(mistake)
    if mistake["type"] == "json_invalid":
        return f"the body is not JSON: {mistake['ctx']['error']}"
    if mistake["type"] == "extra_forbidden":
        return f"`{place}` is not supported here"
    what = mistake["msg"].removeprefix("Value error, ")
    return f"{place}: {what}" if place else f"the body: {what}"


def _place(mistake: Any) -> str:
    """Where a mistake is, without what only pydantic calls so."""
    return ".".join(str(part)[:100] for part in mistake["loc"][1:])
