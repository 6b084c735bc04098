"""Answers over HTTP from a real server that speaks OpenAI's protocol, with the troubles that servers have."""

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from weitiao.chat import make_renderer
from weitiao.errors import EngineError, Problems, RowError
from weitiao.infer import connect_server
from weitiao.infer.engines import http
from weitiao.recipe.sections import Chat
from weitiao.seams import Constraint, Message, Part, Sample, Sampling, text_message

fastapi = pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")


class Server:
    """Echoes the last message; its text may ask for trouble."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.attempts: dict[str, int] = {}
        self.n_running = self.most_running = 0
        self.models = ["tuned"]
        self.n_prompt_tokens = 0
        self.address = ""

    def reply(self, body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        text = text if isinstance(text, str) else text[-1]["text"]
        self.attempts[text] = n = self.attempts.get(text, 0) + 1
        if text.startswith("busy") and n <= 2:
            return fastapi.responses.JSONResponse({"error": {"message": "slow down"}}, 429, headers={"Retry-After": "0.01"})
        if text.startswith("torn") and n <= 1:
            return fastapi.responses.StreamingResponse(_torn(), media_type="application/json")
        if text.startswith("too long"):
            return fastapi.responses.JSONResponse({"error": {"message": "over the context length"}}, 400)
        if text.startswith("secret"):
            return fastapi.responses.JSONResponse({"error": "who are you?"}, 401)
        form = body.get("structured_outputs", {}) if "ignore" not in text else {}
        content = form["choice"][-1] if "choice" in form else "aaa" if "regex" in form else text.upper()
        usage = {"prompt_tokens": self.n_prompt_tokens, "completion_tokens": 3}
        finish = "length" if "long" in text else "stop"
        return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}], "usage": usage}


def _torn() -> Iterator[bytes]:
    yield b'{"choices": ['
    raise RuntimeError("the server breaks in the middle of a reply")


@pytest.fixture
def server() -> Iterator[Server]:
    state, app = Server(), fastapi.FastAPI()

    @app.get("/v1/models")
    def models() -> Any:
        return {"data": [{"id": name} for name in state.models]}

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any]) -> Any:
        state.bodies.append(body)
        state.n_running += 1
        state.most_running = max(state.most_running, state.n_running)
        time.sleep(0.02)
        state.n_running -= 1
        return state.reply(body)

    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    state.address = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/v1"
    yield state
    running.should_exit = True
    thread.join(10)


def ask(text: str) -> Sample:
    return Sample(text, f"rows.jsonl:{text}", (text_message("user", text),))


def test_many_rows_are_asked_at_a_time_and_answered_by_index(server: Server) -> None:
    engine = connect_server(server.address, None, concurrency=4)
    found = dict(engine.generate([ask(f"row {i}") for i in range(12)] + [ask("long story")], Sampling(max_new_tokens=7)))
    assert [found[i].text for i in range(12)] == [f"ROW {i}" for i in range(12)]
    assert [found[i].ended_by for i in (0, 12)] == ["stop", "length"]
    assert found[0].n_new_tokens == 3
    assert 2 <= server.most_running <= 4
    expected = {
        "model": "tuned",
        "messages": [{"role": "user", "content": "row 0"}],
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 0,
    }
    assert expected in server.bodies


def test_a_busy_server_is_asked_again_and_a_bad_row_does_not_stop_the_others(server: Server) -> None:
    engine = connect_server(server.address, None, concurrency=2)
    found: dict[int, str] = {}
    with pytest.raises(RowError, match=r"rows.jsonl:too long: the server refuses the row \(HTTP 400: over the context length\)"):
        found.update((i, answer.text) for i, answer in engine.generate([ask("too long"), ask("busy"), ask("fine")], Sampling()))
    assert found == {1: "BUSY", 2: "FINE"}
    assert server.attempts == {"too long": 1, "busy": 3, "fine": 1}


def test_a_server_that_went_away_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WAITS", (0.01, 0.01))
    engine = http.HttpEngine("http://127.0.0.1:9/v1", "tuned", None, concurrency=1, max_prompt_tokens=None, key=None)
    with pytest.raises(EngineError, match="the server does not answer"):
        list(engine.generate([ask("hello")], Sampling()))
    with pytest.raises(EngineError, match="set OPENAI_API_KEY"):
        list(connect_server(server.address, None, concurrency=1).generate([ask("secret")], Sampling()))
    with pytest.raises(EngineError, match="cannot be reached"):
        connect_server("http://127.0.0.1:9/v1", None, concurrency=1)


def test_a_reply_that_breaks_off_is_asked_for_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WAITS", (0.01, 0.01))
    ((_, answer),) = connect_server(server.address, None, concurrency=1).generate([ask("torn row")], Sampling())
    assert (answer.text, server.attempts["torn row"]) == ("TORN ROW", 2)


@pytest.mark.parametrize("address", ["http://127.0.0.1:PORT/v1", "http:///v1", "127.0.0.1:8000/v1"])
def test_what_is_no_address_is_told_at_once(address: str) -> None:
    with pytest.raises(EngineError, match=f"{re.escape(address)}: this is no server's address"):
        connect_server(address, None, concurrency=1)


def test_what_is_no_address_is_told_where_the_model_is_named_too() -> None:
    engine = connect_server("http://127.0.0.1:PORT/v1#tuned", None, concurrency=1)
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:PORT/v1: this is no server's address"):
        list(engine.generate([ask("hello")], Sampling()))


def test_one_refused_row_after_the_other_is_the_servers_fault(server: Server) -> None:
    engine = connect_server(server.address, None, concurrency=8)
    with pytest.raises(EngineError, match="refuses one row after the other"):
        list(engine.generate([ask(f"too long {i}") for i in range(40)], Sampling()))


def test_several_models_must_be_named(server: Server) -> None:
    server.models = ["base", "tuned"]
    with pytest.raises(EngineError, match="serves 2 models") as raised:
        connect_server(server.address, None, concurrency=1)
    assert f"{server.address}#NAME (served: base, tuned)" in raised.value.hint
    list(connect_server(f"{server.address}#base", None, concurrency=1).generate([ask("hi")], Sampling()))
    assert server.bodies[0]["model"] == "base"


def test_constraints_go_along_and_a_server_that_ignores_them_is_refused(server: Server) -> None:
    engine = connect_server(server.address, None, concurrency=1)
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    list(engine.generate([ask("hi")], Sampling(), lambda _sample: Constraint(json_schema=schema)))
    assert server.bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
    ((_, answer),) = engine.score_labels([ask("hm")], lambda _sample: ["体育", "财经"])
    assert (answer.text, answer.label_probabilities) == ("财经", None)
    assert server.bodies[-1]["max_tokens"] == 9, "four tokens a character, and the stop token"
    with pytest.raises(EngineError, match="did not hold to the labels"):
        list(engine.score_labels([ask("ignore")], lambda _sample: ["体育", "财经"]))
    with pytest.raises(EngineError, match="does not tell the likelihood"):
        engine.likelihood([])


def test_a_pattern_goes_along_and_is_checked_unless_the_answer_was_cut(server: Server) -> None:
    engine = connect_server(server.address, None, concurrency=1)

    def answer(text: str) -> str:
        ((_, found),) = engine.generate([ask(text)], Sampling(), lambda _sample: Constraint(regex="a+"))
        return found.text

    assert answer("hi") == "aaa"
    assert server.bodies[-1]["structured_outputs"] == {"regex": "a+"}
    with pytest.raises(EngineError, match="did not hold to the answer's form: it answered 'IGNORE'"):
        answer("ignore")
    assert answer("ignore, long") == "IGNORE, LONG"


def test_all_refused_rows_are_named_at_once_where_the_server_answers_others(server: Server) -> None:
    engine = connect_server(server.address, None, concurrency=1)
    rows = [ask("fine"), *(ask(f"too long {i}") for i in range(40)), ask("well")]
    found: dict[int, str] = {}
    with pytest.raises(Problems, match="40 rows are refused") as raised:
        found.update((i, answer.text) for i, answer in engine.generate(rows, Sampling()))
    assert found == {0: "FINE", 41: "WELL"}
    assert [error.where for error in raised.value.problems] == [f"rows.jsonl:too long {i}" for i in range(40)]


def test_a_proxy_is_not_asked_for_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    ((_, answer),) = connect_server(server.address, None, concurrency=1).generate([ask("hi")], Sampling())
    assert answer.text == "HI"
    assert http.session_for("https://models.example.org/v1").trust_env


def test_another_chat_template_is_told(server: Server, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    renderer = make_renderer(tiny_tokenizer, Chat())
    n_tokens = len(renderer.prompt(ask("hello").messages).input_ids)
    with caplog.at_level(logging.WARNING, "weitiao"):
        for counted, n_warnings in ((n_tokens, 0), (n_tokens + 4, 1)):
            server.n_prompt_tokens = counted
            list(connect_server(server.address, renderer, concurrency=1).generate([ask("hello")], Sampling()))
            assert len(caplog.records) == n_warnings
    assert f"counts {n_tokens + 4} prompt tokens where the run has {n_tokens}: its chat template is another" in caplog.text


def test_texts_that_the_run_would_shorten_are_refused(server: Server, tiny_tokenizer: Any) -> None:
    engine = connect_server(server.address, make_renderer(tiny_tokenizer, Chat()), concurrency=1, max_prompt_tokens=24)
    long = Sample("1", "rows.jsonl:1", (Message("user", (Part("text", "word " * 60, shortenable=True),)),))
    with pytest.raises(RowError, match=r"rows.jsonl:1: the text is .* tokens longer than the run was trained for"):
        list(engine.generate([long], Sampling()))


def test_images_travel_as_data(server: Server, tmp_path: Any) -> None:
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    picture = Sample("1", "rows.jsonl:1", (Message("user", (Part("image", image=tmp_path / "dot.png"), Part("text", "what?"))),))
    ((_, answer),) = connect_server(server.address, None, concurrency=1).generate([picture], Sampling())
    assert answer.text == "WHAT?"
    content = server.bodies[0]["messages"][0]["content"]
    assert content[0] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}
    json.dumps(content)
