"""Answers from any server that speaks OpenAI's chat protocol: vLLM, llama.cpp, Ollama, ``weitiao serve``, a service.

The server renders messages with its own template; so the prompt tokens it counts are compared with those that the run's renderer gives.
What the protocol lacks is refused: likelihoods, probabilities of labels, sampling that does not depend on the rows beside.
"""

from __future__ import annotations

import base64
import mimetypes
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

import requests

from weitiao.errors import EngineError, RowError, together
from weitiao.infer.engines.generating import GeneratingEngine
from weitiao.log import logger
from weitiao.seams import Answer, Constraint, EndedBy, Message, Renderer, Sample, Sampling

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt, where the server does not say how long to wait."""
LONGEST_WAIT = 60.0
SECONDS = 600.0
"""Longest time for one answer."""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Status codes after which the same request may succeed."""
NO_ADDRESS = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)
MOST_REFUSED = 32
"""Rows that a server may refuse before it answers one; then it is the server, and not the rows, that is wrong."""


class HttpEngine(GeneratingEngine):
    """A server's answers, many requests at a time."""

    def __init__(
        self, url: str, model: str, renderer: Renderer | None, *, concurrency: int, max_prompt_tokens: int | None, key: str | None
    ) -> None:
        """Keep what requests are made of; see ``connect_server``."""
        self.name = f"the server at {url}"
        self._url = url
        self._model = model
        self._renderer = renderer
        self._concurrency = concurrency
        self._max_prompt_tokens = max_prompt_tokens
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._local = threading.local()
        self._template_checked = threading.Event()

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        constraint: Callable[[Sample], Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Ask for an answer to each sample's prompt.

        Args:
            samples: conversations; an answer at their end is left out.
            sampling: sent along; ``top_k`` only where it is set.
            constraint: a JSON schema becomes ``response_format``, a choice or a pattern ``structured_outputs``; the answer is checked
                against those two.

        Yields:
            ``(index, answer)`` as answers come. ``n_new_tokens`` and ``n_prompt_tokens`` are the server's counts.

        Raises:
            RowError: the server refused a row, or ``Problems`` with all of them; the others have been answered by then.
            EngineError: the server cannot be reached, refuses the key or the model, or does not hold to a choice or a pattern.
        """
        refused: list[RowError] = []
        ready: list[tuple[int, int | None]] = []
        # In this thread alone, for renderers remember what they have tokenised.
        for i, sample in enumerate(samples):
            try:
                ready.append((i, self._expected_tokens(sample)))
            except RowError as error:
                refused.append(error)
        with ThreadPoolExecutor(max_workers=self._concurrency, thread_name_prefix="asking") as pool:
            waiting = {
                pool.submit(self._answer, samples[i], sampling, constraint(samples[i]) if constraint else None, n_expected): i
                for i, n_expected in ready
            }
            n_before = len(refused)
            has_answered = False
            try:
                for done in as_completed(waiting):
                    try:
                        answer = done.result()
                    except RowError as error:
                        refused.append(error)
                        if not has_answered and len(refused) - n_before > MOST_REFUSED:
                            raise EngineError(
                                f"the server refuses one row after the other: {error.what}", where=self._url, hint=error.where
                            ) from error
                    else:
                        has_answered = True
                        yield waiting[done], answer
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        if refused:
            raise together(refused)

    def _answer(self, sample: Sample, sampling: Sampling, constraint: Constraint | None, n_expected: int | None) -> Answer:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [_message(message) for message in sample.prompt],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        body |= _constraint_fields(constraint)
        answer = _read(self._post(body, sample), self._url)
        self._compare_tokens(n_expected, answer, sample)
        self._check_form(answer, constraint)
        return answer

    def _check_form(self, answer: Answer, constraint: Constraint | None) -> None:
        """Refuse a server that does not know ``structured_outputs``: such servers leave it out without a word."""
        if constraint is None:
            return
        is_cut = answer.ended_by == "length"
        if constraint.choices is not None and answer.text not in constraint.choices:
            what, field = "labels", "choice"
        elif constraint.regex is not None and not is_cut and not re.fullmatch(constraint.regex, answer.text):
            what, field = "answer's form", "regex"
        else:
            return
        raise EngineError(
            f"the server did not hold to the {what}: it answered {answer.text[:60]!r}",
            where=self._url,
            hint=f"use a server that keeps `structured_outputs.{field}` (vLLM, weitiao serve), or --engine embedded",
        )

    def _expected_tokens(self, sample: Sample) -> int | None:
        if self._renderer is None:
            return None
        rendered = self._renderer.prompt(sample.prompt, self._max_prompt_tokens)
        if rendered.n_shortened:
            raise RowError(
                f"the text is {rendered.n_shortened} tokens longer than the run was trained for, and a server gets it as it is",
                where=sample.origin,
                hint="shorten it, or use --engine embedded",
            )
        return len(rendered.input_ids)

    def _compare_tokens(self, n_expected: int | None, answer: Answer, sample: Sample) -> None:
        """Warn once where the server's template is not the run's."""
        if n_expected is None or self._template_checked.is_set() or not answer.n_prompt_tokens:
            return
        self._template_checked.set()
        if answer.n_prompt_tokens != n_expected:
            logger.warning(
                "%s: the server counts %d prompt tokens where the run has %d: its chat template is another, answers will be worse; "
                "serve the folder that `weitiao export RUN --kind merged` writes, with its chat template",
                sample.origin,
                answer.n_prompt_tokens,
                n_expected,
            )

    def _post(self, body: Mapping[str, Any], sample: Sample) -> Any:
        trouble = ""
        for wait in (*WAITS, None):
            try:
                reply = self._session().post(f"{self._url}/chat/completions", json=body, timeout=SECONDS)
            except NO_ADDRESS as error:
                raise _no_address(self._url) from error
            except requests.RequestException as error:  # a reply that breaks off, too
                trouble, asked = f"no answer: {type(error).__name__}", None
            else:
                if reply.ok:
                    return _json(reply, self._url)
                trouble, asked = f"HTTP {reply.status_code}: {_reason(reply)}", _seconds(reply.headers.get("Retry-After"))
                if reply.status_code not in PASSING:
                    raise self._refusal(reply.status_code, trouble, sample)
            if wait is not None:
                time.sleep(wait if asked is None else min(asked, LONGEST_WAIT))
        raise EngineError(f"the server does not answer ({trouble})", where=self._url, hint="start it again; the same command goes on")

    def _refusal(self, status: int, trouble: str, sample: Sample) -> EngineError | RowError:
        if status in (401, 403):
            return EngineError(f"the server wants a key ({trouble})", where=self._url, hint="set OPENAI_API_KEY")
        if status in (404, 405):
            hint = f"is the address right, and the model {self._model!r} served there?"
            return EngineError(f"the server does not know this ({trouble})", where=self._url, hint=hint)
        return RowError(f"the server refuses the row ({trouble})", where=sample.origin)

    def _session(self) -> requests.Session:
        """One connection per thread."""
        if not hasattr(self._local, "session"):
            self._local.session = session_for(self._url)
            self._local.session.headers.update(self._headers)
        session: requests.Session = self._local.session
        return session


def session_for(url: str) -> requests.Session:
    """A session that asks this machine itself, whatever proxy the environment names for others.

    Args:
        url: of the server.

    Returns:
        An open session.
    """
    session = requests.Session()
    session.trust_env = urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1")
    return session


def connect_server(
    address: str, renderer: Renderer | None, *, concurrency: int, max_prompt_tokens: int | None = None, key: str | None = None
) -> HttpEngine:
    """Find a server and the model that it serves.

    Args:
        address: such as ``http://127.0.0.1:8000/v1``; ``#NAME`` behind it names the model where several are served.
        renderer: the run's; tells whether the server's template is the same. None: not compared.
        concurrency: requests at a time, >= 1.
        max_prompt_tokens: longest prompt of the run; longer ones are refused.
        key: sent as a bearer token.

    Returns:
        An engine.

    Raises:
        EngineError: the address is none, the server cannot be reached, or serves several models and none is named.
    """
    url, _, model = address.partition("#")
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise _no_address(address or "--engine http")
    if not model:
        try:
            with session_for(url) as session:
                reply = session.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=30)
        except NO_ADDRESS as error:
            raise _no_address(url) from error
        except requests.RequestException as error:
            raise EngineError("the server cannot be reached", where=url, hint="is it running, and does the address end in /v1?") from error
        if not reply.ok:
            hint = "set OPENAI_API_KEY" if reply.status_code in (401, 403) else "does the address end in /v1?"
            raise EngineError(f"the server does not list its models: HTTP {reply.status_code}", where=url, hint=hint)
        names = [str(entry["id"]) for entry in _json(reply, url).get("data", [])]
        if len(names) != 1:
            hint = f"name it: --engine http:{url}#NAME" + (f" (served: {', '.join(names)})" if names else "")
            raise EngineError(f"the server serves {len(names)} models", where=url, hint=hint)
        model = names[0]
    return HttpEngine(url, model, renderer, concurrency=concurrency, max_prompt_tokens=max_prompt_tokens, key=key)


def _no_address(where: str) -> EngineError:
    return EngineError("this is no server's address", where=where, hint="--engine http:http://127.0.0.1:8000/v1")


def _message(message: Message) -> dict[str, Any]:
    if all(part.kind == "text" for part in message.parts):
        return {"role": message.role, "content": message.text}
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if part.image is None:
            content.append({"type": "text", "text": part.text})
        else:
            kind = mimetypes.guess_type(part.image.name)[0] or "image/png"
            data = base64.b64encode(part.image.read_bytes()).decode()
            content.append({"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}})
    return {"role": message.role, "content": content}


def _constraint_fields(constraint: Constraint | None) -> dict[str, Any]:
    if constraint is None:
        return {}
    if constraint.json_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(constraint.json_schema)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if constraint.choices is not None:
        return {"structured_outputs": {"choice": list(constraint.choices)}}
    return {"structured_outputs": {"regex": constraint.regex}} if constraint.regex is not None else {}


def _read(content: Any, url: str) -> Answer:
    try:
        choice, usage = content["choices"][0], content.get("usage") or {}
        ended_by: EndedBy = "length" if choice["finish_reason"] == "length" else "stop"
        n_prompt_tokens, n_new_tokens = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        return Answer(str(choice["message"]["content"] or ""), n_prompt_tokens, n_new_tokens, ended_by)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EngineError("the server's answer is not in the form of OpenAI's protocol", where=url) from error


def _json(reply: requests.Response, url: str) -> Any:
    try:
        return reply.json()
    except ValueError as error:
        raise EngineError("the server's answer is no JSON", where=url, hint="does the address end in /v1?") from error


def _reason(reply: requests.Response) -> str:
    try:
        error = reply.json().get("error", {})
        return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
    except (ValueError, AttributeError):
        return reply.text[:200]


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None
