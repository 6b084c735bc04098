"""A vision run over HTTP: images as data URLs, alone and as rows of the task."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import openai
import pytest
from PIL import Image
from starlette.requests import Request

from tests.serve.runs import make_run
from tests.serve.servers import Server, running
from weitiao.seams import Message, Part, Sample, Sampling
from weitiao.serve import Limits
from weitiao.serve.app import N_READERS, Desk
from weitiao.serve.counts import Counts
from weitiao.serve.refusal import Refusal
from weitiao.serve.schemas import ChatRequest
from weitiao.serve.worker import Worker
from weitiao.serving import load_served

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def run(tiny_qwen2_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serve") / "formulas", tiny_qwen2_vl, {"kind": "ocr"}, max_new_tokens=6)


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with running(run, "--max-pixels", "20000", "--max-images", "2") as started:
        yield started


def png(seed: int, width: int = 60, height: int = 40) -> bytes:
    buffer = BytesIO()
    Image.effect_noise((width, height), 40 + 40 * seed).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def address(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def asked(*images: str) -> list[dict[str, object]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "a question"}]}]


def test_an_image_is_answered_as_the_engine_does(server, run, tmp_path):
    served = load_served(run)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)
    for seed in range(2):
        data = png(seed)
        (tmp_path / "image.png").write_bytes(data)
        message = Message("user", (Part("image", image=tmp_path / "image.png"), Part("text", "a question")))
        wanted = dict(served.engine.generate([Sample("a", "a", (message,))], Sampling(6)))[0]
        done = client.chat.completions.create(model="formulas", messages=asked(address(data)), max_tokens=6)
        assert done.choices[0].message.content == wanted.text
        assert done.usage.prompt_tokens == wanted.n_prompt_tokens


def test_rows_with_images_are_answered_and_files_of_the_machine_are_not_read(server, run):
    rows = [{"image": image} for image in (address(png(0)), str(run / "run.json"), "https://example.com/a.png", address(b"no"))]
    rows.append({"messages": asked(*[address(png(0))] * 3)})
    done = server.post("/v1/tasks/predict", {"rows": rows}).json()["rows"]
    assert done[0]["error"] is None
    assert isinstance(done[0]["answer"], str)
    assert [row["error"]["message"].split(":")[0].split(" (")[0] for row in done[1:]] == [
        "the image is no address",
        "this server fetches no images from the web",
        "the image cannot be decoded",
        "3 images are more than the 2 allowed",
    ]


def test_images_beyond_the_limits_are_refused(server):
    def refused(*images: str) -> tuple[int, str]:
        answer = server.post("/v1/chat/completions", {"messages": asked(*images)})
        return answer.status_code, answer.json()["error"]["code"]

    assert refused(address(png(0, 200, 101))) == (400, "image_too_large")
    assert refused(*[address(png(0))] * 3) == (400, "too_many_images")
    assert refused("https://example.com/a.png") == (400, "image_urls_not_allowed")
    assert refused(address(b"GIF89a")) == (400, "invalid_image")


def test_an_image_that_goes_away_before_it_is_read_ends_its_own_answer_alone(run, tmp_path):
    served = load_served(run)
    batch, tickets = served.new_batch(), []
    for seed in range(3):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(png(seed))
        sample = Sample(str(seed), str(seed), (Message("user", (Part("image", image=path), Part("text", "a question"))),))
        tickets.append(batch.join(sample, Sampling(6)).ticket)
    (tmp_path / "1.png").unlink()
    answers: dict[int, str] = {}
    refused = []
    while batch.n_waiting or batch.n_working:
        answers |= {stepped.ticket: stepped.answer.text for stepped in batch.step() if stepped.answer}
        refused += batch.refused()
    assert [(one.ticket, one.error.what) for one in refused] == [(tickets[1], "the image file is missing")]
    assert sorted(answers) == [tickets[0], tickets[2]]
    for seed in (0, 2):
        message = Message("user", (Part("image", image=tmp_path / f"{seed}.png"), Part("text", "a question")))
        assert answers[tickets[seed]] == dict(served.engine.generate([Sample("a", "a", (message,))], Sampling(6)))[0].text


def test_a_request_does_not_wait_for_readers_beyond_its_time(run):
    """All readers are busy, as with images from servers that do not answer."""
    served, free = load_served(run), threading.Event()
    worker = Worker(served.engine, served.new_batch, served.renderer.decode, lambda _: (), lambda _: None, batch_rows=1, max_waiting=1)
    desk = Desk(served, Limits(max_seconds=0.3), worker, Counts(), allow_image_urls=False)

    async def ask() -> None:
        for _ in range(N_READERS):
            desk.readers.submit(free.wait, 20)
        async with asyncio.timeout(10):
            await desk.chat(ChatRequest.model_validate({"messages": asked(address(png(0)))}), Request({"type": "http"}))

    with pytest.raises(Refusal, match="took too long") as caught:
        asyncio.run(ask())
    free.set()
    assert caught.value.status == 504
