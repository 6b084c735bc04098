"""The search for wrong training rows and the drawing of answers, with an engine that answers from a table."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from weitiao import evaluate
from weitiao.errors import RecipeError
from weitiao.evaluate.questions import answer_questions
from weitiao.recipe import load_recipe
from weitiao.recipe.sections import Evaluate
from weitiao.recipe.tasks import Conversation, Extraction, Text
from weitiao.seams import Answer, Constraint, Record, Sample, Sampling, Task
from weitiao.tasks import make_task


class TableEngine:
    """Says ``answers``; a row's own answer costs ``losses`` nats per token, over two tokens."""

    def __init__(self, answers: dict[str, str], losses: dict[str, float]) -> None:
        self.answers, self.losses = answers, losses
        self.scored: list[str] = []
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        constraint: Callable[[Sample], Constraint | None] | None = None,  # noqa: ARG002 - part of the protocol
    ) -> Iterator[tuple[int, Answer]]:
        self.samplings.append(sampling)
        for i, sample in enumerate(samples):
            self.asked.append(sample.id)
            yield i, Answer(self.answers.get(sample.id, "?"), 1, 1, "stop")

    def score_labels(self, samples: Sequence[Sample], labels: Callable[[Sample], Sequence[str]]) -> Iterator[tuple[int, Answer]]:
        raise NotImplementedError

    def likelihood(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Answer]]:
        for i, sample in enumerate(samples):
            self.scored.append(sample.id)
            yield i, Answer("", 1, 2, "stop", nll=2 * self.losses[sample.id])


def rows(task: Task, n: int) -> list[Sample]:
    return [task.make_sample(Record(f"f:{i}", f"r{i}", text=f"我是{i}号。", answer=json.dumps({"name": str(i)}))) for i in range(n)]


def found(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_unlikely_answers_that_the_model_would_not_give_are_suspects_worst_first(tmp_path: Path) -> None:
    task = make_task(Extraction(kind="extraction", fields=["name"]))
    samples = rows(task, 5)
    losses = {"r0": 0.1, "r1": 3.0, "r2": 2.0, "r3": 4.0, "r4": 0.2}
    answers = {"r0": '{"name": "0"}', "r1": '{"name": "9"}', "r2": '{"name": "2"}', "r3": "?", "r4": '{"name": "4"}'}
    engine = TableEngine(answers, losses)
    search = evaluate.find_suspects(engine, task, samples, tmp_path / "s.jsonl", Evaluate(), seed=1, max_seconds=60)
    assert [(row["id"], row["origin"], row["model_answer"]) for row in found(tmp_path / "s.jsonl")] == [
        ("r3", "f:3", "?"),
        ("r1", "f:1", '{"name": "9"}'),
    ]
    assert found(tmp_path / "s.jsonl")[0] == {
        **found(tmp_path / "s.jsonl")[0],
        "prompt": "我是3号。",
        "answer": '{"name": "3"}',
        "loss": 4.0,
    }
    assert (search.n_rows, search.n_train, search.n_found, search.out_of_time) == (5, 5, 2, False)


def test_the_search_is_bounded_by_rows_and_by_time(tmp_path: Path) -> None:
    task = make_task(Extraction(kind="extraction", fields=["name"]))
    samples = rows(task, 300)
    losses = {sample.id: 1.0 for sample in samples}
    engine = TableEngine({}, losses)
    search = evaluate.find_suspects(engine, task, samples, tmp_path / "s.jsonl", Evaluate(n_suspects=30), seed=1, max_seconds=60)
    assert (search.n_rows, len(engine.scored), len(engine.asked), search.n_found) == (30, 30, 20, 20)
    again = TableEngine({}, losses)
    evaluate.find_suspects(again, task, samples, tmp_path / "s.jsonl", Evaluate(n_suspects=30), seed=1, max_seconds=60)
    assert again.scored == engine.scored
    late = evaluate.find_suspects(TableEngine({}, losses), task, samples, tmp_path / "s.jsonl", Evaluate(), seed=1, max_seconds=0)
    assert (late.n_rows, late.out_of_time) == (0, True)
    none = evaluate.find_suspects(TableEngine({}, {}), task, samples, tmp_path / "s.jsonl", Evaluate(n_suspects=0), seed=1, max_seconds=9)
    assert (none.n_rows, none.out_of_time) == (0, False)


def test_a_row_of_a_weighted_source_is_looked_at_once(tmp_path: Path) -> None:
    task = make_task(Extraction(kind="extraction", fields=["name"]))
    samples = rows(task, 5) * 2
    engine = TableEngine({}, {sample.id: 1.0 for sample in samples})
    search = evaluate.find_suspects(engine, task, samples, tmp_path / "s.jsonl", Evaluate(), seed=1, max_seconds=60)
    assert sorted(row["id"] for row in found(tmp_path / "s.jsonl")) == ["r0", "r1", "r2", "r3", "r4"]
    assert (search.n_rows, search.n_found) == (5, 5)


def test_documents_are_listed_by_their_loss_alone(tmp_path: Path) -> None:
    task = make_task(Text(kind="text"))
    samples = [task.make_sample(Record(f"{i}.txt", f"r{i}", text=f"第{i}条")) for i in range(3)]
    engine = TableEngine({}, {"r0": 1.0, "r1": 5.0, "r2": 2.0})
    evaluate.find_suspects(engine, task, samples, tmp_path / "s.jsonl", Evaluate(), seed=1, max_seconds=60)
    assert [(row["answer"], row["model_answer"]) for row in found(tmp_path / "s.jsonl")] == [
        ("第1条", None),
        ("第2条", None),
        ("第0条", None),
    ]
    assert engine.asked == []


def test_answers_are_drawn_as_the_recipe_says_and_with_its_seed(tmp_path: Path) -> None:
    task = make_task(Conversation(kind="chat", questions=["你好"]))
    sample = task.make_sample(Record("f:1", "r0", text="问", answer="答"))
    engine = TableEngine({}, {"r0": 1.0})
    section = Evaluate(max_new_tokens=128, temperature=0.8, top_p=0.95, top_k=40, n_bootstrap=100)
    evaluate.measure(engine, task, [sample], tmp_path, section, title="answering", seed=7)
    assert engine.samplings == [Sampling(128, 0.8, 0.95, 40, 7)] * 2, "the row's answer and the recipe's own question"
    assert json.loads((tmp_path / "questions.json").read_text()) == [{"question": "你好", "answer": "?"}]


@pytest.mark.parametrize("setting", ["evaluate.top_p=0.9", "evaluate.top_k=40"])
def test_how_to_draw_has_no_effect_on_greedy_answers(setting: str) -> None:
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "capybara-chat.yaml"
    assert load_recipe(recipe, [setting, "evaluate.temperature=0.5"]).evaluate.temperature == 0.5
    with pytest.raises(RecipeError, match="no effect"):
        load_recipe(recipe, [setting])


def test_a_beginning_is_continued_from_its_last_word_with_its_marks_held() -> None:
    """``:`` and the line breaks after it are one token in the trained text: nothing was ever learnt to follow a colon by itself."""
    task = make_task(Text(kind="text", questions=["主要特性:", "第一条"]))
    engine = ContinuingEngine()
    rows = answer_questions(engine, task.questions, Evaluate(), 1)
    assert engine.prompts == ["主要特性", "第一条"]
    assert engine.constraints == [Constraint(regex=":(?:.|\\n)*"), None]
    assert rows == [{"question": "主要特性:", "answer": "\n\n1. 多平台"}, {"question": "第一条", "answer": ":\n\n1. 多平台"}]


class ContinuingEngine(TableEngine):
    """Goes on with a colon, two line breaks and a list, whatever it is asked."""

    def __init__(self) -> None:
        super().__init__({}, {})
        self.prompts: list[str] = []
        self.constraints: list[Constraint | None] = []

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,  # noqa: ARG002 - part of the protocol
        constraint: Callable[[Sample], Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        for i, sample in enumerate(samples):
            self.prompts.append(sample.prompt[-1].text)
            self.constraints.append(constraint(sample) if constraint else None)
            yield i, Answer(":\n\n1. 多平台", 1, 1, "stop")
