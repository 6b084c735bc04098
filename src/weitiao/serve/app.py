"""The routes, and how each of them answers; the published OpenAPI is made from this file, ``schemas.py`` and ``replies.py``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from pydantic.json_schema import models_json_schema

from weitiao import __version__
from weitiao.seams import Sample, Task
from weitiao.serve.asked import read_chat
from weitiao.serve.bodies import CheckedRoute, answer_errors
from weitiao.serve.completion import AnswerStream, answer_events, whole_answer
from weitiao.serve.counts import CONTENT_TYPE, Counts
from weitiao.serve.gate import Gate
from weitiao.serve.images import RequestImages
from weitiao.serve.jobs import Job
from weitiao.serve.keys import Keys
from weitiao.serve.limits import Limits
from weitiao.serve.refusal import Refusal
from weitiao.serve.replies import ChatCompletion, ChatCompletionChunk, Error, Health, ModelCard, ModelList, PredictResponse
from weitiao.serve.rows import few_images, job_of, predicted
from weitiao.serve.schemas import ChatRequest, PredictRequest
from weitiao.serve.served import Served
from weitiao.serve.waiting import at_work, begun, while_connected
from weitiao.serve.worker import Worker

T = TypeVar("T")
Responses = dict[int | str, dict[str, Any]]

N_READERS = 16
"""Requests whose images are fetched and decoded at the same time."""

STATUSES = {
    400: "The request is wrong; the message says where",
    401: "A key is needed",
    403: "The Host header names another machine",
    404: "There is no such model",
    408: "The body took too long to arrive",
    413: "The body is too large, or has more rows than prompts may wait",
    415: "The body is not JSON",
    500: "The model could not answer",
    503: "Too many prompts are waiting; Retry-After says when to ask again",
    504: "The answer took too long",
}

SCHEMAS = "#/components/schemas/"
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {
            "anyOf": [
                {"const": "[DONE]"},
                {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"anyOf": [{"$ref": SCHEMAS + "ChatCompletionChunk"}, {"$ref": SCHEMAS + "Error"}]},
                },
            ]
        }
    },
}
"""A server-sent event of a streamed answer, in the words of OpenAPI 3.2."""


def make_app(
    served: Served, limits: Limits, keys: Keys | None = None, *, allow_image_urls: bool = False, only_local: bool = False
) -> tuple[Gate, Worker]:
    """Make the server's application.

    Args:
        served: the run.
        limits: of every request.
        keys: who may ask; None for everybody who reaches the port.
        allow_image_urls: whether images are fetched from public web addresses.
        only_local: whether requests must name this machine in their Host header.

    Returns:
        The ASGI application, and the worker that its requests wait for; the application starts and stops it.
    """
    counts = Counts()
    worker = Worker(
        served.engine,
        served.new_batch,
        served.renderer.decode,
        lambda sample: _labels(served.task, sample),
        counts.wrote,
        batch_rows=served.batch_rows,
        max_waiting=limits.max_waiting,
    )
    counts.watch(lambda: worker.n_waiting, lambda: worker.n_running)
    desk = Desk(served, limits, worker, counts, allow_image_urls=allow_image_urls)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)
        desk.readers.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="weitiao", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.include_router(desk.router())
    answer_errors(app)
    # Kept by FastAPI as what it publishes. An event is no response of a route, so its schema comes in by hand.
    chunk = models_json_schema([(ChatCompletionChunk, "serialization")], ref_template=SCHEMAS + "{model}")[1]["$defs"]
    app.openapi()["components"]["schemas"].update(chunk)
    return Gate(app, keys=keys, limits=limits, counts=counts, only_local=only_local), worker


def _labels(task: Task, sample: Sample) -> Sequence[str]:
    constraint = task.constraint(sample)
    return (constraint.choices if constraint else None) or sample.candidates


class Desk:
    """Answers requests; one method per route."""

    def __init__(self, served: Served, limits: Limits, worker: Worker, counts: Counts, *, allow_image_urls: bool) -> None:
        """Keep what answering needs.

        Args:
            served: the run.
            limits: of every request.
            worker: writes the answers.
            counts: gets the figures.
            allow_image_urls: whether images are fetched.
        """
        self._served = served
        self._limits = limits
        self._worker = worker
        self._counts = counts
        self._allow_image_urls = allow_image_urls
        self.readers = ThreadPoolExecutor(N_READERS, thread_name_prefix="weitiao-images")

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(route_class=CheckedRoute)
        errors: Responses = {status: {"model": Error, "description": text} for status, text in STATUSES.items()}
        stream = {
            "description": "The answer; server-sent events with `stream`",
            "content": {"text/event-stream": {"itemSchema": EVENT}},
        }
        got: Responses = {401: errors[401], 403: errors[403]}
        add = router.add_api_route
        add("/v1/chat/completions", self.chat, methods=["POST"], response_model=ChatCompletion, responses={200: stream, **errors})
        add("/v1/tasks/predict", self.predict, methods=["POST"], response_model=PredictResponse, responses=errors)
        add("/v1/models", self.models, response_model=ModelList, responses={**got})
        add("/v1/models/{model}", self.model, response_model=ModelCard, responses={**got, 404: errors[404], "4XX": {"model": Error}})
        failing = {"model": Health, "description": "The model's thread has ended, or the server is stopping"}
        add("/health", self.health, response_model=Health, responses={403: errors[403], 503: failing})
        add("/metrics", self.metrics, response_class=Response, responses={**got})
        return router

    async def chat(self, body: ChatRequest, request: Request) -> Response | ChatCompletion:
        """Answer a conversation."""
        self._check_model(body.model)
        deadline, arrived = asyncio.get_running_loop().time() + self._limits.max_seconds, time.monotonic()
        with ExitStack() as stack:
            images = stack.enter_context(self._images())
            has_images = any(not isinstance(turn.content, str) for turn in body.messages)
            served, limits = self._served, self._limits
            asked = await self._apart(
                has_images,
                deadline,
                lambda: read_chat(body, images, limits, system=served.system, max_new_tokens=served.sampling.max_new_tokens),
            )
            job = Job(
                asked.sample, asked.sampling, asked.constraint, asked.stops, bool(body.stream), limits.max_prompt_tokens, started=arrived
            )
            stack.enter_context(at_work(self._worker, [job]))
            if body.stream:
                await while_connected(begun(job, deadline), request.receive)
                with_usage = body.stream_options is not None and body.stream_options.include_usage
                events = answer_events(job, served.name, self._counts, deadline, with_usage=with_usage)
                return AnswerStream(events, deadline, stack.pop_all())
            return await while_connected(whole_answer(job, served.name, self._counts, deadline), request.receive)

    async def predict(self, body: PredictRequest, request: Request) -> PredictResponse:
        """Answer rows of the run's task."""
        self._check_model(body.model)
        served, limits = self._served, self._limits
        if served.task.answer_mode == "likelihood":
            hint = "send the beginning of a document to /v1/chat/completions, as the only message, of the assistant's"
            raise Refusal(400, f"a run on plain documents has nothing to predict; {hint}", code="no_prediction")
        if len(body.rows) > limits.max_rows:
            raise Refusal(
                400, f"{len(body.rows)} rows are more than the {limits.max_rows} allowed at once", code="too_many_rows", param="rows"
            )
        deadline = asyncio.get_running_loop().time() + limits.max_seconds
        with self._images() as images:
            samples = await self._apart(served.is_vision, deadline, lambda: served.read_rows(body.rows, images.keep_for_row))
            samples = [few_images(sample, limits.max_images) for sample in samples]
            jobs = [job_of(sample, served, limits.max_new_tokens) for sample in samples if not isinstance(sample, Exception)]
            if len(jobs) > limits.max_waiting:
                what = f"{len(jobs)} rows are more than the {limits.max_waiting} prompts that may wait here; send them in several requests"
                raise Refusal(413, what, code="too_many_rows", param="rows")
            with at_work(self._worker, jobs):
                return await while_connected(predicted(samples, jobs, served, self._counts, deadline), request.receive)

    async def models(self) -> ModelList:
        """The run that is served."""
        return ModelList(data=[self._card()])

    async def model(self, model: str) -> ModelCard:
        """The run, by its name."""
        self._check_model(model)
        return self._card()

    async def health(self, response: Response) -> Health:
        """Whether the server can answer."""
        worker = self._worker
        status = "failed" if not worker.is_alive else "stopping" if worker.refuses else "ok"
        response.status_code = 200 if status == "ok" else 503
        return Health.model_validate({"status": status, "waiting": worker.n_waiting, "running": worker.n_running})

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        return Response(self._counts.page(), headers={"Content-Type": CONTENT_TYPE})

    def _card(self) -> ModelCard:
        served = self._served
        return ModelCard(
            id=served.name, created=served.created, base=served.base, task=served.task.kind, max_model_len=self._limits.max_prompt_tokens
        )

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self._served.name:
            raise Refusal(404, f"there is no model `{name[:100]}` here; this is {self._served.name}", code="model_not_found", param="model")

    def _images(self) -> RequestImages:
        return RequestImages(self._limits, allow_urls=self._allow_image_urls, is_vision=self._served.is_vision)

    async def _apart(self, is_slow: bool, deadline: float, read: Callable[[], T]) -> T:
        """Read a request: at once, or where images must be fetched or decoded in a thread, so that others need not wait."""
        if not is_slow:
            return read()
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.get_running_loop().run_in_executor(self.readers, read)
        except TimeoutError:
            raise Refusal(504, "reading the request's images took too long", code="timeout") from None
