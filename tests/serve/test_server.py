"""A run over HTTP, as OpenAI's own client and curl see it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests

from tests.serve.servers import Server
from tests.tiny import sentences
from weitiao.seams import Sampling, text_message
from weitiao.serving import load_served

pytestmark = pytest.mark.timeout(600)  # a server starts in seconds, but not on a machine that does much else

TEXT = "王伟，北京市和平路3号，邮箱 model3@example.com。停车难，路灯不亮。"
LONG = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 1000}


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def served(complaints_run: Path):
    return load_served(complaints_run)


def alone(served, text: str, n_tokens: int) -> str:
    """The answer of the engine itself to a row of the task."""
    sample = served.read_rows([{"input": text}], lambda _: Path())[0]
    return dict(served.engine.generate([sample], Sampling(n_tokens)))[0].text


def test_the_client_gets_the_engines_answer(client, served):
    done = client.chat.completions.create(model="complaints", messages=[{"role": "user", "content": TEXT}], max_tokens=12)
    assert done.choices[0].message.content == alone(served, TEXT, 12)
    assert (done.choices[0].finish_reason, done.object, done.model) == ("length", "chat.completion", "complaints")
    assert done.usage.completion_tokens == 12
    assert done.usage.total_tokens == done.usage.prompt_tokens + 12


def test_tokens_are_those_of_training(client, served):
    """A training row, a row of /v1/tasks/predict and a chat without a system message are one and the same prompt."""
    row = {"input": TEXT, "output": json.dumps({"name": "王伟", "address": "", "email": "", "question": ""}, ensure_ascii=False)}
    trained = served.read_rows([row], lambda _: Path())[0]
    assert trained.has_answer
    rendered = served.renderer.conversation(trained.messages)
    before = rendered.input_ids[: rendered.trained.index(True)]
    chat = (text_message("system", served.system), text_message("user", TEXT))
    assert served.renderer.prompt(chat).input_ids == before
    assert served.renderer.prompt(served.read_rows([{"input": TEXT}], lambda _: Path())[0].prompt).input_ids == before
    said = client.chat.completions.create(model="complaints", messages=[{"role": "user", "content": TEXT}], max_tokens=1)
    assert said.usage.prompt_tokens == len(before)
    said = client.chat.completions.create(
        model="complaints", messages=[{"role": "system", "content": served.system}, {"role": "user", "content": TEXT}], max_tokens=1
    )
    assert said.usage.prompt_tokens == len(before)


def test_a_stream_is_the_same_answer_in_pieces(client, served):
    stream = client.chat.completions.create(
        model="complaints", messages=[{"role": "user", "content": TEXT}], max_tokens=30, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == alone(served, TEXT, 30)
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 30
    assert chunks[0].choices[0].delta.role == "assistant"


def test_a_stop_text_ends_the_answer_before_it(client, served):
    whole = alone(served, TEXT, 30)
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    asked = {"model": "complaints", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 30, "stop": ["@@@@", stop]}
    done = client.chat.completions.create(**asked)
    assert done.choices[0].message.content == whole[: whole.index(stop)]
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.completion_tokens < 30
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole[: whole.index(stop)]


def test_the_newer_name_of_max_tokens_counts(client):
    done = client.chat.completions.create(model="complaints", messages=[{"role": "user", "content": TEXT}], max_completion_tokens=3)
    assert done.usage.completion_tokens == 3


def test_a_seed_makes_sampling_repeatable(client):
    def sampled(seed: int) -> str:
        asked = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 12, "temperature": 1.5, "top_p": 0.95}
        return client.chat.completions.create(model="complaints", seed=seed, **asked).choices[0].message.content

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_json_keeps_to_its_schema(client):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}, "ok": {"type": "boolean"}}, "required": ["n", "ok"]}
    done = client.chat.completions.create(
        model="complaints",
        messages=[{"role": "user", "content": TEXT}],
        response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": {**schema, "additionalProperties": False}}},
    )
    value = json.loads(done.choices[0].message.content)
    assert set(value) == {"n", "ok"}
    assert value["n"] in (1, 2)
    assert done.choices[0].finish_reason == "stop"


def test_a_schema_that_cannot_be_is_refused(client):
    asked = {"name": "it", "schema": {"type": "object", "properties": {"a": {"type": "sausage"}}}}
    with pytest.raises(openai.BadRequestError, match="cannot be compiled"):
        client.chat.completions.create(
            model="complaints",
            messages=[{"role": "user", "content": TEXT}],
            response_format={"type": "json_schema", "json_schema": asked},
        )


def test_an_answer_can_be_sent_back(client):
    """The client's own message object goes back as a turn."""
    turns = [{"role": "user", "content": TEXT}]
    first = client.chat.completions.create(model="complaints", messages=turns, max_tokens=4)
    again = client.chat.completions.create(
        model="complaints", messages=[*turns, first.choices[0].message, {"role": "user", "content": "再说一遍"}], max_tokens=4
    )
    assert again.usage.prompt_tokens > first.usage.prompt_tokens
    dumped = first.choices[0].message.model_dump()
    assert dumped["tool_calls"] is None
    named = [{**turns[0], "name": "wang"}, dumped | {"annotations": []}, {"role": "user", "content": "再说一遍"}]
    assert client.chat.completions.create(model="complaints", messages=named, max_tokens=4).usage == again.usage
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    with pytest.raises(openai.BadRequestError, match="tool_calls"):
        client.chat.completions.create(model="complaints", messages=[named[0], {**dumped, "tool_calls": [call]}, named[2]])


REFUSED = {
    "logprobs": ({"logprobs": True}, "log probabilities of tokens are not given"),
    "two answers": ({"n": 2}, "one answer is given per request"),
    "penalty": ({"presence_penalty": 0.5}, "penalties are not applied"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "`tools` is not supported here"),
    "unknown": ({"extra_body": {"min_p": 0.1}}, "`min_p` is not supported here"),
    "too many tokens": ({"max_tokens": 5000}, "this server writes at most 1,024"),
    "temperature": ({"temperature": 3}, "less than or equal to 2"),
    "a truth for a number": ({"temperature": False}, "temperature: Input should be a valid number"),
    "a number for a truth": ({"extra_body": {"stream": 0.0}}, "stream: Input should be a valid boolean"),
    "a text for a number": ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(client, name):
    more, message = REFUSED[name]
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(model="complaints", messages=[{"role": "user", "content": "a"}], **more)
    assert caught.value.body["type"] == "invalid_request_error"


TURNS = {
    "assistant last": ([("user", "a"), ("assistant", "b")], "end with the user's"),
    "two users": ([("user", "a"), ("user", "b")], "user, user"),
    "system inside": ([("user", "a"), ("system", "b"), ("user", "c")], "user, system, user"),
    "too long": ([("user", "word " * 9000)], "the longest prompt here has|positions|may not be shortened|prompt has"),
}


@pytest.mark.parametrize("name", TURNS)
def test_turns_that_cannot_be_answered_are_refused(client, name):
    turns, message = TURNS[name]
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(model="complaints", messages=[{"role": role, "content": text} for role, text in turns])


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="there is no model `gpt-4` here; this is complaints"):
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "a"}])
    assert [card.id for card in client.models.list()] == ["complaints"]
    assert client.models.retrieve("complaints").owned_by == "weitiao"


def test_an_image_is_refused_by_a_run_that_reads_text(client):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="reads text only"):
        client.chat.completions.create(model="complaints", messages=[{"role": "user", "content": [image]}])


def test_rows_are_answered_and_bad_ones_say_why(server, served):
    rows = [{"id": "a", "input": TEXT}, {"input": ""}, {"wrong": 1}, {"id": "b", "input": "李娜，上海市长安街8号。"}]
    done = server.post("/v1/tasks/predict", {"rows": rows}).json()
    assert [row["index"] for row in done["rows"]] == [0, 1, 2, 3]
    assert [row["id"] for row in done["rows"]] == ["a", None, None, "b"]
    assert [row["error"] and row["error"]["message"] for row in done["rows"]] == [
        None,
        "the text is empty",
        "the rows fit no shape that extraction can use",
        None,
    ]
    sample = served.read_rows([rows[0]], lambda _: Path())[0]
    answer = dict(served.engine.generate([sample], Sampling(24), served.task.constraint))[0]
    assert done["rows"][0]["answer"] == answer.text
    assert done["rows"][0]["prediction"] == served.task.parse(answer, sample).value
    assert list(done["rows"][0]["prediction"]) == ["name", "address", "email", "question"]
    assert done["rows"][0]["flags"] == list(served.task.parse(answer, sample).flags)
    assert done["usage"]["completion_tokens"] == 48


def test_a_name_that_was_made_to_point_here_is_refused(server):
    """What a browser sends for a page of another name that now resolves to 127.0.0.1."""
    port = server.url.rsplit(":", 1)[1]
    for path in ("/v1/models", "/health", "/openapi.json"):
        refused = requests.get(server.url + path, headers={"Host": f"evil.example:{port}"}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
    assert requests.get(server.url + "/v1/models", headers={"Host": f"localhost:{port}"}, timeout=60).status_code == 200


def test_the_time_to_the_first_text_is_counted(server):
    n_before = server.metric("weitiao_first_token_seconds_count")
    asked = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 8}
    requests.post(server.url + "/v1/chat/completions", json=asked, timeout=60)
    assert server.metric("weitiao_first_token_seconds_count") == n_before
    assert "delta" in requests.post(server.url + "/v1/chat/completions", json={**asked, "stream": True}, timeout=60).text
    assert server.metric("weitiao_first_token_seconds_count") == n_before + 1
    assert 0 < server.metric("weitiao_first_token_seconds_sum") < 60


def test_curl_reads_a_stream_and_a_health(server):
    body = json.dumps({"messages": [{"role": "user", "content": TEXT}], "max_tokens": 5, "stream": True})
    words = ["curl", "-sN", f"{server.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])
    assert server.get("/health").json()["status"] == "ok"


def test_concurrent_clients_get_their_own_answers(server, served):
    texts = sentences(16, seed=7)
    wanted = [alone(served, text, 12) for text in texts]
    ready = threading.Barrier(16)

    def ask(number: int) -> list[str]:
        ready.wait()
        mine = [
            server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": texts[(number + i) % 16]}], "max_tokens": 12})
            for i in range(3)
        ]
        return [answer.json()["choices"][0]["message"]["content"] for answer in mine]

    with ThreadPoolExecutor(16) as clients:
        got = list(clients.map(ask, range(16)))
    assert got == [[wanted[(number + i) % 16] for i in range(3)] for number in range(16)]


def test_a_client_that_leaves_gives_its_place_back(server):
    n_before = server.metric("weitiao_new_tokens_total")
    with requests.post(server.url + "/v1/chat/completions", json=LONG | {"stream": True}, stream=True, timeout=60) as stream:
        stream.raw.read(10)
    with pytest.raises(requests.ReadTimeout):
        requests.post(server.url + "/v1/chat/completions", json=LONG, timeout=0.3)
    server.wait_until("weitiao_running", 0)
    assert server.metric("weitiao_new_tokens_total") - n_before < 1500


def test_a_client_that_does_not_read_holds_up_nobody(server):
    with requests.post(server.url + "/v1/chat/completions", json=LONG | {"stream": True}, stream=True, timeout=60) as slow:
        started = time.monotonic()
        done = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 3})
        assert done.status_code == 200
        assert time.monotonic() - started < 30
        assert slow.raw.read(10) == b'data: {"id'
