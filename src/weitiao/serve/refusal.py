"""Why a request is not answered: a status and a sentence, in the form in which OpenAI's API says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = {401: "authentication_error", 500: "server_error", 503: "server_error", 504: "server_error"}
"""OpenAI's ``type`` by status; every other one is the client's mistake."""


class Refusal(Exception):  # noqa: N818 - it is an answer as much as an error
    """A request that is answered with an error."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, retry_after: int | None = None
    ) -> None:
        """Keep the parts of the answer.

        Args:
            status: of HTTP, 400 to 599.
            message: a sentence: what is wrong, and what to do.
            code: OpenAI's machine-readable word for it.
            param: the field of the request that is meant.
            retry_after: seconds after which it is worth asking again.
        """
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        named: Mapping[int, dict[str, str]] = {401: {"WWW-Authenticate": "Bearer"}}
        wait = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**named.get(self.status, {}), **wait}

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
