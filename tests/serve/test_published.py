"""What is published holds: bodies made from the OpenAPI, and the examples of docs/serve.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.servers import Server

pytestmark = pytest.mark.timeout(600)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
"""The last one says whether a body that breaks the schema was refused, leaving out those that JSON makes valid again."""
PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


POSTED = ["/v1/chat/completions", "/v1/tasks/predict"]
READ = ["/v1/models", "/v1/models/{model}", "/health", "/metrics"]


@pytest.mark.parametrize(
    ("path", "mode"),
    [*((path, GenerationMode.POSITIVE) for path in POSTED + READ), *((path, GenerationMode.NEGATIVE) for path in POSTED)],
)
def test_whatever_the_schema_allows_or_not_is_answered_as_it_says(server: Server, path: str, mode: GenerationMode):
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[path]["POST" if path in POSTED else "GET"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def answered(case: Any) -> None:
        response = case.call_and_validate(checks=CHECKS, timeout=60)
        assert response.status_code < 500

    answered()


@pytest.mark.parametrize("body", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "with-usage"])
def test_every_event_of_a_stream_is_as_the_schema_says(server: Server, body: dict[str, Any]):
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")["/v1/chat/completions"]["POST"]
    asked = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 3, "stream": True, **body}
    case = operation.Case(body=asked, media_type="application/json")
    response = requests.post(server.url + "/v1/chat/completions", json=asked, timeout=60)
    case.validate_response(response, checks=CHECKS)
    assert len(response.text.split("data: {")) >= 3 + bool(body)
    response._content = response.content.replace(b'"chat.completion.chunk"', b'"chat.completion"')
    with pytest.raises(FailureGroup, match="SSE event violates schema"):
        case.validate_response(response, checks=CHECKS)


def test_the_server_is_well_after_that(server):
    assert server.get("/health").json() == {"status": "ok", "waiting": 0, "running": 0}
    assert "Traceback" not in server.log()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_has_examples():
    assert (len(blocks("bash")), len(blocks("python"))) == (2, 1)


@pytest.mark.parametrize(("number", "shown"), [(0, '"flags":'), (1, "data: [DONE]")], ids=["predict", "chat"])
def test_a_curl_example_works(server, number, shown):
    example = blocks("bash")[number].replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(["bash", "-c", example], capture_output=True, text=True, check=True, timeout=120)
    assert shown in done.stdout
    assert '"code"' not in done.stdout


def test_the_client_example_works(server):
    example = blocks("python")[0].replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True, timeout=300)
    assert re.search(r" 20$", done.stdout, re.MULTILINE)
