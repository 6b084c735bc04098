"""Figures for Prometheus, at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from weitiao.seams import Answer

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Counts:
    """The figures of one server."""

    def __init__(self) -> None:
        """Begin at nought."""
        self._registry = CollectorRegistry()
        self._requests = Counter("weitiao_requests", "Requests by path and status", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "weitiao_request_seconds", "From a request's arrival to its last byte", ["path"], buckets=SECONDS, registry=self._registry
        )
        self._first = Histogram(
            "weitiao_first_token_seconds", "From a streamed request's arrival to its first text", buckets=SECONDS, registry=self._registry
        )
        self._prompt_tokens = Counter("weitiao_prompt_tokens", "Tokens of the prompts that were answered", registry=self._registry)
        self._new_tokens = Counter(
            "weitiao_new_tokens", "Tokens written, those of answers that were given up included", registry=self._registry
        )
        self._answers = Counter("weitiao_answers", "Answers by how they ended", ["ended_by"], registry=self._registry)

    def watch(self, waiting: Callable[[], float], running: Callable[[], float]) -> None:
        """Let two figures be asked for when they are wanted.

        Args:
            waiting: prompts without a place in the batch.
            running: answers that are being written.
        """
        Gauge("weitiao_waiting", "Prompts that wait for a place in the batch", registry=self._registry).set_function(waiting)
        Gauge("weitiao_running", "Answers that are being written", registry=self._registry).set_function(running)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; status 0 is one that ended without an answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Note how long a stream's first text took."""
        self._first.observe(seconds)

    def answer(self, answer: Answer) -> None:
        """Count an answer and the tokens that it was asked with."""
        self._answers.labels(answer.ended_by).inc()
        self._prompt_tokens.inc(answer.n_prompt_tokens)

    def wrote(self, n_tokens: int) -> None:
        """Count tokens as they are written."""
        self._new_tokens.inc(n_tokens)

    def page(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self._registry)
