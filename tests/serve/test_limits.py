"""What a server refuses: keys, sizes, queue, time; and a stop that finishes what was begun. One server, which the last test ends."""

from __future__ import annotations

import base64
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.serve.runs import CLASSIFICATION, make_run
from tests.serve.servers import Server, running
from weitiao.errors import CommandError
from weitiao.serve import open_socket
from weitiao.serving import load_served

pytestmark = pytest.mark.timeout(600)  # a server starts in seconds, but not on a machine that does much else

KEY = "a-key-for-the-tests-0123456789"
CHAT = "/v1/chat/completions"
PREDICT = "/v1/tasks/predict"
LIMITS = ["--max-body-bytes", "60000", "--max-waiting", "2", "--max-rows", "2", "--max-seconds", "150", "--max-prompt-tokens", "300"]
LIMITS += ["--max-new-tokens", "1500"]


@pytest.fixture(scope="module")
def run(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serve") / "news", tiny_qwen3, CLASSIFICATION, batch_size=1)


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"another-key-0123456789\n{KEY}\n")
    keys.chmod(0o600)
    with running(run, "--api-key-file", str(keys), "--name", "themes", *LIMITS, headers={"Authorization": f"Bearer {KEY}"}) as started:
        yield started


def asked(n_tokens: int = 2, text: str = "a") -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": n_tokens}


def error_of(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_labels_have_probabilities(server, run):
    served = load_served(run)
    done = server.post(PREDICT, {"rows": [{"text": "王伟 plays"}, {"text": "股票上涨", "category": ["体育", "财经"]}]}).json()
    sample = served.read_rows([{"text": "王伟 plays"}], lambda _: Path())[0]
    answer = dict(served.engine.score_labels([sample], lambda _: ("体育", "财经", "科技")))[0]
    first, second = done["rows"]
    assert first["prediction"] == first["answer"] == answer.text
    assert first["probabilities"] == pytest.approx(answer.label_probabilities, abs=1e-4)
    assert list(second["probabilities"]) == ["体育", "财经"]
    assert sum(second["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("header", [None, "Bearer wrong-key-0123456789", f"Basic {KEY}"], ids=["none", "wrong", "other scheme"])
def test_a_key_is_needed(server, header):
    headers = {"Authorization": header} if header else {}
    for path in (CHAT, PREDICT):
        refused = requests.post(server.url + path, json=asked(), headers=headers, timeout=60)
        assert error_of(refused) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert requests.get(server.url + "/v1/models", headers=headers, timeout=60).status_code == 401
    assert requests.get(server.url + "/metrics", headers=headers, timeout=60).status_code == 401
    assert requests.get(server.url + "/health", timeout=60).status_code == 200


def test_with_a_key_any_name_may_be_asked_for(server):
    assert requests.get(server.url + "/v1/models", headers={**server.headers, "Host": "models.example"}, timeout=60).status_code == 200


def test_the_model_has_the_name_that_it_was_given(server):
    assert [card["id"] for card in server.get("/v1/models").json()["data"]] == ["themes"]


def test_too_large_is_said_with_the_right_status(server):
    assert error_of(server.post(CHAT, asked(text="a" * 70_000))) == (413, "body_too_large")
    assert error_of(server.post(CHAT, asked(text="a b " * 1000))) == (400, "context_length_exceeded")
    assert error_of(server.post(CHAT, asked(text="a b " * 1000) | {"stream": True})) == (400, "context_length_exceeded")
    wrong = {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "object", "properties": {"a": {"type": "sausage"}}}}}
    assert error_of(server.post(CHAT, asked() | {"stream": True, "response_format": wrong})) == (400, "invalid_request")
    assert error_of(server.post(PREDICT, {"rows": [{"text": "a"}] * 3})) == (400, "too_many_rows")
    assert error_of(server.post(CHAT, asked(n_tokens=1501))) == (400, "too_many_tokens")

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 10_000

    headers = {**server.headers, "Content-Type": "application/json"}
    assert error_of(requests.post(server.url + CHAT, data=endless(), headers=headers, timeout=60)) == (413, "body_too_large")


def test_a_long_row_is_shortened_as_in_training(server):
    done = server.post(PREDICT, {"rows": [{"text": "a b " * 2000}]}).json()
    assert done["rows"][0]["prediction"] in ("体育", "财经", "科技")
    assert done["usage"]["prompt_tokens"] <= 400


MALFORMED = {
    "not json": (b"{", 400),
    "not a number": (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', 400),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
    "not utf-8": (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
    "deep": (b"[" * 20_000, 400),
    "long number": (b'{"seed": 1' + b"0" * 5000 + b', "messages": [{"role": "user", "content": "a"}]}', 400),
    "a list": (b"[]", 400),
    "empty": (b"", 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_body_that_is_none_is_refused(server, name):
    body, status = MALFORMED[name]
    refused = requests.post(server.url + CHAT, data=body, headers={**server.headers, "Content-Type": "application/json"}, timeout=60)
    assert refused.status_code == status
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_other_types_paths_and_methods_are_refused(server):
    form = requests.post(server.url + CHAT, data="{}", headers={**server.headers, "Content-Type": "text/plain"}, timeout=60)
    assert error_of(form) == (415, "unsupported_media_type")
    assert server.get("/v1/nothing").json()["error"]["message"] == "Not Found"
    wrong = server.get(CHAT)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_a_picture_for_a_text_run_is_refused_whatever_it_is(server):
    buffer = BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    refused = server.post(CHAT, {"messages": [{"role": "user", "content": parts}]})
    assert error_of(refused) in ((400, "images_not_supported"), (413, "body_too_large"))
    done = server.post(PREDICT, {"rows": [{"text": "a", "messages": [{"role": "user", "content": parts}]}]})
    assert done.status_code in (200, 413)


def test_the_queue_is_bounded_and_says_when_to_come_back(server):
    """One answer is written at a time and two may wait: of six who come together, three are turned away."""
    ready = threading.Barrier(6)

    def ask(_number: int) -> requests.Response:
        ready.wait()
        return server.post(CHAT, asked(n_tokens=400))

    with ThreadPoolExecutor(6) as clients:
        done = list(clients.map(ask, range(6)))
    statuses = sorted(answer.status_code for answer in done)
    assert statuses[0] == 200
    assert 503 in statuses
    assert set(statuses) <= {200, 503}
    refused = next(answer for answer in done if answer.status_code == 503)
    assert error_of(refused) == (503, "overloaded")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert server.post(CHAT, asked()).status_code == 200


def test_an_upload_that_trickles_holds_up_nobody(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        slow.sendall(head.encode())
        assert server.post(CHAT, asked()).status_code == 200


def test_a_port_that_is_taken_is_told(server):
    with pytest.raises(CommandError, match="the server cannot listen there: Address already in use"):
        open_socket("127.0.0.1", int(server.url.rsplit(":", 1)[1]))


def test_a_stop_finishes_what_was_begun_and_takes_nothing_new(server):
    with requests.post(
        server.url + CHAT, json=asked(n_tokens=1200) | {"stream": True}, headers=server.headers, stream=True, timeout=60
    ) as begun:
        first = begun.raw.read(10)
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                answer = requests.get(server.url + "/health", timeout=5)
            except requests.ConnectionError:
                break
            assert answer.status_code in (200, 503)
        else:
            pytest.fail("the server takes new connections though it was told to stop")
        rest = first + begun.raw.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason": "length"' in rest or b'"finish_reason": "stop"' in rest
    assert server.process.wait(60) == 0
    assert "stopping" in server.log()
    assert "Traceback" not in server.log()
