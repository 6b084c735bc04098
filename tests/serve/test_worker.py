"""The model's thread: what goes wrong with one request is told to that one, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.requests import Request

from tests.serve.runs import CLASSIFICATION, EXTRACTION, make_run
from weitiao.errors import EngineError
from weitiao.seams import Constraint, Sample, Sampling, text_message
from weitiao.serve import Limits, Served
from weitiao.serve.app import Desk
from weitiao.serve.counts import Counts
from weitiao.serve.jobs import Failed, Finished, Job
from weitiao.serve.refusal import Refusal
from weitiao.serve.rows import job_of
from weitiao.serve.schemas import PredictRequest
from weitiao.serve.worker import Worker
from weitiao.serving import load_served

TOO_MANY = {"type": "object", "properties": {f"field_{i}": {"type": "boolean"} for i in range(500)}}
"""Compiles; where the first property may begin, the grammar has more ways to go on than llguidance follows."""
NO_SAMPLE = Sample("broken", "broken", (None,))  # type: ignore[arg-type]
"""Stands for whatever nobody thought of: rendering it raises an ``AttributeError``."""


@pytest.fixture(scope="module")
def served(complaints_run: Path) -> Served:
    return load_served(complaints_run)


@pytest.fixture(scope="module")
def news(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return load_served(make_run(tmp_path_factory.mktemp("worker") / "news", tiny_qwen3, CLASSIFICATION))


def asked(text: str) -> Sample:
    return Sample(text, text, (text_message("user", text),))


def ends(served: Served, jobs: Sequence[Job]) -> list[Finished | Failed]:
    """What becomes of jobs that come together."""

    async def wait() -> list[Finished | Failed]:
        labels = ("体育", "财经")
        decode = served.renderer.decode
        worker = Worker(served.engine, served.new_batch, decode, lambda _: labels, lambda _: None, batch_rows=8, max_waiting=100)
        worker.start()
        worker.submit(jobs)
        async with asyncio.timeout(60):
            found = [await job.events.get() for job in jobs]
        await asyncio.to_thread(worker.stop)
        return [end for end in found if isinstance(end, Finished | Failed)]

    return asyncio.run(wait())


def test_a_schema_that_cannot_be_followed_ends_its_own_answer_alone(served):
    texts = ["王伟，北京市和平路3号。", "停车难。"]
    alone = [dict(served.engine.generate([asked(text)], Sampling(12)))[0].text for text in texts]
    good = [Job(asked(text), Sampling(12)) for text in texts]
    first, failed, second = ends(served, [good[0], Job(asked("a"), Sampling(12), Constraint(json_schema=TOO_MANY)), good[1]])
    assert [first.answer.text, second.answer.text] == alone
    assert isinstance(failed.error, EngineError)
    assert not failed.is_ours
    assert "Current row has" in failed.error.what
    assert "field_1" not in failed.error.what, "the schema is not told back"


def test_what_nobody_foresaw_is_told_to_its_own_request(news, caplog):
    score, bad_score = Job(asked("a"), None), Job(NO_SAMPLE, None)
    write, bad_write = Job(asked("a"), Sampling(3)), Job(NO_SAMPLE, Sampling(3))
    first, failed_score, second, failed_write = ends(news, [score, bad_score, write, bad_write])
    assert first.answer.text in ("体育", "财经")
    assert second.answer.n_new_tokens == 3
    for failed in (failed_score, failed_write):
        assert isinstance(failed.error, AttributeError)
        assert failed.is_ours
    assert "was not foreseen" in caplog.text


def test_the_smallest_temperature_ends_no_answer(served):
    texts = ["王伟，北京市和平路3号。", "停车难。"]
    alone = [dict(served.engine.generate([asked(text)], Sampling(3)))[0].text for text in texts]
    good, cold = ends(served, [Job(asked(texts[0]), Sampling(3)), Job(asked(texts[1]), Sampling(3, temperature=5e-324))])
    assert isinstance(good, Finished)
    assert isinstance(cold, Finished)
    assert [good.answer.text, cold.answer.text] == alone


def test_rows_that_can_never_wait_together_are_too_many(served):
    worker = Worker(served.engine, served.new_batch, served.renderer.decode, lambda _: (), lambda _: None, batch_rows=1, max_waiting=1)
    desk = Desk(served, Limits(max_waiting=1), worker, Counts(), allow_image_urls=False)
    with pytest.raises(Refusal, match="2 rows are more than the 1 prompts that may wait here; send them in several requests") as caught:
        asyncio.run(desk.predict(PredictRequest(rows=[{"input": "a"}, {"input": "b"}]), Request({"type": "http"})))
    assert (caught.value.status, caught.value.retry_after) == (413, None)


def test_rows_are_drawn_as_in_evaluation(tiny_qwen3: Path, tmp_path: Path):
    evaluate = {"temperature": 1.5, "top_p": 0.9, "top_k": 50}
    served = load_served(make_run(tmp_path / "run", tiny_qwen3, EXTRACTION, evaluate=evaluate))
    (sample,) = served.read_rows([{"input": "王伟，北京市和平路3号。"}], lambda _: Path())
    assert job_of(sample, served, 1000).sampling == Sampling(24, 1.5, 0.9, 50, seed=42)
    assert job_of(sample, served, 7).sampling == Sampling(7, 1.5, 0.9, 50, seed=42)
