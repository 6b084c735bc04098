"""weitiao asks weitiao: ``--engine http`` against ``weitiao serve`` gives the answers of the run's own engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serve.runs import CLASSIFICATION, make_run
from tests.serve.servers import Server, running
from tests.tiny import sentences
from weitiao.infer import connect_server
from weitiao.seams import Constraint, Engine, Sample, Sampling
from weitiao.serve import Served
from weitiao.serving import load_served

pytestmark = pytest.mark.timeout(600)

TEXTS = [text for text in sentences(8, seed=3) if not text.startswith("{")]
NER = {"kind": "ner", "labels": ["person", "place"]}
SEVERAL = {**CLASSIFICATION, "multi_label": True}


@contextmanager
def asked_over_http(run: Path) -> Iterator[tuple[Served, Engine, list[Sample], Server]]:
    """A run as it was loaded, as a server gives it, and rows."""
    served = load_served(run)
    samples = [sample for sample in served.read_rows([{"text": text} for text in TEXTS], lambda _: Path()) if isinstance(sample, Sample)]
    assert len(samples) == len(TEXTS)
    with running(run) as server:
        yield served, connect_server(f"{server.url}/v1", served.renderer, concurrency=4, max_prompt_tokens=400), samples, server


def test_a_label_is_chosen(tiny_qwen3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path / "news", tiny_qwen3, CLASSIFICATION)
    labels = ("体育", "财经", "科技")
    with asked_over_http(run) as (served, engine, samples, server), caplog.at_level(logging.WARNING, "weitiao"):
        answers = dict(engine.score_labels(samples, lambda _: labels))
        refused = [
            server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], **body})
            for body in (
                {"structured_outputs": {"choice": ["a"]}, "response_format": {"type": "json_object"}},
                {"structured_outputs": {"choice": ["a"], "regex": "a"}},
                {"structured_outputs": {"choice": []}},
                {"structured_outputs": {"regex": "("}},
                {"structured_outputs": {"grammar": "a"}},
            )
        ]
    chosen = dict(served.engine.generate(samples, Sampling(20), lambda _: Constraint(choices=labels)))
    assert [answers[i].text for i in range(len(samples))] == [chosen[i].text for i in range(len(samples))]
    assert {answer.text for answer in answers.values()} <= set(labels)
    assert {answer.ended_by for answer in answers.values()} == {"stop"}
    assert "another, answers will be worse" not in caplog.text, "the server counts the tokens of the run's own prompt"
    assert [answer.status_code for answer in refused] == [400] * 5
    assert refused[0].json()["error"]["message"] == (
        "an answer has one form: leave out either structured_outputs or the response_format json_object"
    )


@pytest.mark.parametrize("task", [NER, SEVERAL], ids=["entities", "several labels"])
def test_a_pattern_is_kept(tiny_qwen3: Path, tmp_path: Path, task: dict[str, object]) -> None:
    run = make_run(tmp_path / "run", tiny_qwen3, task)
    with asked_over_http(run) as (served, engine, samples, _):
        answers = dict(engine.generate(samples, Sampling(24), served.task.constraint))
    own = dict(served.engine.generate(samples, Sampling(24), served.task.constraint))
    assert [answers[i].text for i in range(len(samples))] == [own[i].text for i in range(len(samples))]
    free = dict(served.engine.generate(samples, Sampling(24)))
    assert any(answers[i].text != free[i].text for i in range(len(samples)))
