"""What decoding may produce: every trained answer, and nothing that the task could not read."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weitiao.chat import make_renderer
from weitiao.evaluate import answer_questions
from weitiao.infer.constrain import Grammars
from weitiao.recipe.sections import Chat, Evaluate
from weitiao.recipe.tasks import Classification, Ner, Text
from weitiao.seams import Answer, Constraint, Entity, Record
from weitiao.tasks import make_task

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
NER = make_task(Ner(kind="ner", labels=["PER", "G.P.E (地)"]))
MANY = make_task(Classification(kind="classification", labels=["油", "油、气", "C++\n#", "水"], multi_label=True))
TYPED = Record("f:1", "1", text='张"三\\在\n上海。', entities=(Entity(0, 4, '张"三\\', "PER"), Entity(5, 8, "\n上海", "G.P.E (地)")))
EMPTY = Record("f:2", "2", text="无人。", entities=())
TWO = Record("f:3", "3", text="T", labels=("水", "油"))
BROKEN = Record("f:3", "3", text="T", labels=("水", "C++\n#"))
NONE = Record("f:4", "4", text="T", answer="无")


def allows(task, record, answer):
    return re.fullmatch(task.constraint(task.make_sample(record)).regex, answer) is not None


@pytest.mark.parametrize(("task", "record"), [(NER, TYPED), (NER, EMPTY), (MANY, TWO), (MANY, BROKEN), (MANY, NONE)])
def test_trained_answers_can_be_decoded(tiny_tokenizer, task, record):
    grammars = Grammars(tiny_tokenizer, len(tiny_tokenizer), make_renderer(tiny_tokenizer, Chat(), "head"))
    sample = task.make_sample(record)
    matcher = grammars.matcher(task.constraint(sample), "f:1", 256)
    for token in tiny_tokenizer.encode(sample.messages[-1].text, add_special_tokens=False):
        assert matcher.allowed()[token]
        assert matcher.take(token)
    assert matcher.is_complete() or matcher.allowed()[tiny_tokenizer.eos_token_id]


class EchoEngine:
    """Keeps the constraints of what it is asked."""

    def generate(self, samples, _sampling, constraint):
        self.constraints = [constraint(sample) for sample in samples]
        return ((i, Answer("", 1, 1, "stop")) for i in range(len(samples)))


@pytest.mark.parametrize("marks", ["\n", ":\n", "。\r\n\n", "\t", "/*\n"])
def test_a_beginning_of_a_document_may_end_in_line_breaks(tiny_tokenizer, marks):
    engine = EchoEngine()
    answer_questions(engine, make_task(Text(kind="text", questions=[f"the model answers{marks}"])).questions, Evaluate(), 1)
    grammars = Grammars(tiny_tokenizer, len(tiny_tokenizer), make_renderer(tiny_tokenizer, Chat(), "head"))
    matcher = grammars.matcher(engine.constraints[0], "question-1", 16)
    assert all(matcher.take(token) for token in tiny_tokenizer.encode(f"{marks}it\nis", add_special_tokens=False))
    other = grammars.matcher(engine.constraints[0], "question-1", 16)
    assert not other.take(tiny_tokenizer.encode("it", add_special_tokens=False)[0])


@pytest.mark.parametrize(
    "answer",
    [
        '{"entity_text": "张三", "entity_label": "ORG"}',
        '{"entity_text": "", "entity_label": "PER"}',
        '{"entity_text": "张三", "entity_label": "PER"}\n没有找到任何实体',
        '{"entity_text": "张"三", "entity_label": "PER"}',
        '{"entity_text": "张三", "entity_label": "G+P+E (地)"}',
        "没有找到任何实体。",
        "",
    ],
)
def test_entity_answers_that_cannot_be_decoded(answer):
    assert not allows(NER, EMPTY, answer)


def test_entity_types_may_be_the_rows_own_or_unknown():
    free = make_task(Ner(kind="ner"))
    line = '{"entity_text": "张三", "entity_label": "PER"}'
    assert allows(free, Record("f:1", "1", text="张三", entities=(), candidates=("PER",)), line)
    assert not allows(free, Record("f:1", "1", text="张三", entities=(), candidates=("ORG",)), line)
    assert allows(free, Record("f:1", "1", text="张三"), line)


@pytest.mark.parametrize(
    ("answer", "is_allowed"),
    [
        ("油", True),
        ("油；水", True),
        ("油；油、气；C++\n#；水", True),
        ("水；油", False),
        ("油；油", False),
        ("油；", False),
        ("CC\n#", False),
        ("", False),
    ],
)
def test_several_labels_in_their_order_each_once(answer, is_allowed):
    assert allows(MANY, NONE, answer) == is_allowed


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.sampled_from(["PER", "G.P.E (地)"])), max_size=3))
def test_any_entity_can_be_decoded_and_is_read_back(named):
    named = [(surface, label) for surface, label in named if surface.strip() and not re.search(r"[\ud800-\udfff]", surface)]
    lines = [json.dumps({"entity_text": surface, "entity_label": label}, ensure_ascii=False) for surface, label in named]
    answer = "\n".join(lines) or "没有找到任何实体"
    sample = NER.make_sample(Record("f:1", "1", text="|".join(surface for surface, _ in named) or "T"))
    assert allows(NER, Record("f:1", "1", text="T"), answer)
    assert NER.parse(Answer(answer, 1, 1, "stop"), sample).is_valid


@pytest.mark.parametrize("name", ["ner_ccfbdci", "ner_weibo"])
def test_every_trained_answer_of_the_real_files_can_be_decoded(name):
    path = DATA / name / "dev.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:2000]]
    task = make_task(Ner(kind="ner", labels=sorted({entity["entity_label"] for row in rows for entity in row["entities"]})))
    for row in rows:
        entities = tuple(Entity(e["start_idx"], e["end_idx"], e["entity_text"], e["entity_label"]) for e in row["entities"])
        sample = task.make_sample(Record("f:1", "1", text=row["text"], entities=entities))
        assert re.fullmatch(task.constraint(sample).regex, sample.messages[-1].text)


FORMS = {
    "name": {"type": "string"},
    "date": {"anyOf": [{"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}, {"type": "null"}]},
    "kind": {"enum": ["地点", "机构", "\\"]},
    "amount": {"type": "number"},
    "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "sure": {"type": "boolean"},
}
WHOLE = Constraint(json_schema={"type": "object", "properties": FORMS, "required": list(FORMS), "additionalProperties": False})
ROOM = 120


@settings(deadline=None)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=12),
    date=st.sampled_from(["2026-11-22", None]),
    amount=st.sampled_from([-3.25, 0, 12]),
    tags=st.lists(st.sampled_from(["一", 'a"b', "\n", "null"]), min_size=1, max_size=3),
    cut=st.floats(0, 1),
)
def test_json_is_finished_from_wherever_its_limit_comes_near(tiny_tokenizer, name, date, amount, tags, cut):
    grammars = Grammars(tiny_tokenizer, len(tiny_tokenizer), make_renderer(tiny_tokenizer, Chat(), "head"))
    value = {"name": name, "date": date, "kind": "\\", "amount": amount, "tags": tags, "sure": True}
    whole = tiny_tokenizer.encode(json.dumps(value, ensure_ascii=False), add_special_tokens=False)
    tokens = whole[: int(cut * len(whole))]
    (more,) = tiny_tokenizer.encode("a", add_special_tokens=False)
    matcher, answer = grammars.matcher(WHOLE, "f:1", 256), []
    for i in range(len(tokens) + ROOM):
        n_left = len(tokens) + ROOM - i
        answer.append(matcher.in_time(tokens[i], n_left + 1000) if i < len(tokens) else matcher.in_time(more, n_left))
        assert matcher.take(answer[-1])
        if matcher.is_complete():
            break
    written = tiny_tokenizer.decode(answer)
    assert list(json.loads(written)) == list(FORMS)
    assert written.startswith(tiny_tokenizer.decode(tokens).rstrip("\ufffd"))
    assert matcher.was_closed() == (len(tokens) < len(whole))
