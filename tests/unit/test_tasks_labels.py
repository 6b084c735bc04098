"""classification and ner: prompts, answers, parsers, row checks."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.errors import RowError
from weitiao.recipe.tasks import Classification, Ner
from weitiao.seams import Answer, Constraint, Entity, Part, Prediction, Record, Sample, text_message
from weitiao.tasks import make_task
from weitiao.tasks.entities import locate

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"


def said(text):
    return Answer(text, 1, 1, "stop")


def rows_of(name):
    path = DATA / name / "dev.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def codes(task, record):
    return [(problem.code, problem.severity) for problem in task.check_record(record)]


# ---- classification ---------------------------------------------------------------------------------------------------

ONE = make_task(Classification(kind="classification"))
MANY = make_task(Classification(kind="classification", labels=["油", "气", "水"], multi_label=True))


def article(label="Art", candidates=("Sports", "Art"), text="TEXT", **more):
    return Record("f:1", "1", text=text, labels=(label,) if label else (), candidates=candidates, **more)


def test_the_default_prompt_is_that_of_s3_to_the_letter():
    sample = ONE.make_sample(article())
    system = "你是一个文本分类领域的专家，你会接收到一段文本和几个潜在的分类选项，请输出文本内容的正确类型"
    assert sample.messages[0] == text_message("system", system)
    assert sample.messages[1].text == "文本:TEXT,类型选型:['Sports', 'Art']"
    assert sample.messages[2] == text_message("assistant", "Art")
    assert (sample.reference, sample.candidates) == ("Art", ("Sports", "Art"))


def test_only_the_article_may_be_shortened():
    shortenable = [part.text for part in ONE.make_sample(article()).messages[1].parts if part.shortenable]
    assert shortenable == ["TEXT"]
    assert Part("text", "['Sports', 'Art']") in ONE.make_sample(article()).messages[1].parts


def test_labels_are_scored_one_and_generated_several():
    assert (ONE.answer_mode, MANY.answer_mode) == ("labels", "generate")
    assert ONE.constraint(ONE.make_sample(article())) == Constraint(choices=("Sports", "Art"))
    assert MANY.constraint(Sample("1", "", ())) == Constraint(regex="无|油|(?:油；)?气|(?:油；)?(?:气；)?水")


def test_the_recipes_labels_stand_in_where_a_row_has_no_candidates():
    task = make_task(Classification(kind="classification", labels=["Sports", "Art"]))
    assert task.make_sample(article(candidates=())).candidates == ("Sports", "Art")
    assert task.make_sample(article(candidates=("Art", "Sports"))).candidates == ("Art", "Sports")


@pytest.mark.parametrize(
    ("answer", "value", "is_valid", "forgiven"),
    [
        ("Art", "Art", True, ()),
        (" Art\n", "Art", True, ()),
        ("art.", "Art", False, ("spelling",)),
        ("“Art”", "Art", False, ("spelling",)),
        ("The label is Art", "Art", False, ("text around the label",)),
        ("Art or Sports", None, False, ()),
        ("Music", None, False, ()),
        ("", None, False, ()),
    ],
)
def test_reading_one_label(answer, value, is_valid, forgiven):
    prediction = ONE.parse(said(answer), ONE.make_sample(article()))
    assert (prediction.value, prediction.is_valid, prediction.forgiven) == (value, is_valid, forgiven)


def test_a_label_inside_a_longer_one_is_not_meant():
    sample = ONE.make_sample(article("C3-Art", ("Art", "C3-Art")))
    assert ONE.parse(said("it is C3-Art"), sample).value == "C3-Art"


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (article(), []),
        (article(label=None), []),
        (article("Music"), [("label-outside-candidates", "error")]),
        (article(candidates=("Art",)), [("no-candidates", "error")]),
        (article(text=""), [("empty-text", "error")]),
        (Record("f:1", "1", text="T", labels=("Art", "Sports"), candidates=("Sports", "Art")), [("several-labels", "error")]),
        (Record("f:1", "1", text="T", answer="Art", candidates=("Sports", "Art")), []),
        (Record("f:1", "1", text="T", answer="", candidates=("Sports", "Art")), [("empty-answer", "error")]),
    ],
)
def test_classification_row_checks(record, found):
    assert codes(ONE, record) == found


def test_a_candidate_that_the_recipe_does_not_know_is_an_error():
    task = make_task(Classification(kind="classification", labels=["Sports", "Art"]))
    assert codes(task, article(candidates=("Art", "Music"))) == [("unknown-label", "error")]


@pytest.mark.parametrize(
    ("record", "answer", "reference"),
    [
        (Record("f:1", "1", text="T", labels=("水", "油")), "油；水", ["油", "水"]),
        (Record("f:1", "1", text="T", answer="水, 油"), "油；水", ["油", "水"]),
        (Record("f:1", "1", text="T", labels=("水, 油",)), "油；水", ["油", "水"]),
        (Record("f:1", "1", text="T", answer=""), "无", []),
        (Record("f:1", "1", text="T", answer="无"), "无", []),
    ],
)
def test_several_labels_are_joined_in_the_order_of_the_candidates(record, answer, reference):
    sample = MANY.make_sample(record)
    assert (sample.messages[-1].text, sample.reference) == (answer, reference)
    assert MANY.parse(said(answer), sample).value == reference
    assert MANY.parse(said(answer), sample).is_valid


@pytest.mark.parametrize(
    ("answer", "value", "forgiven"),
    [
        ("水、油", ["油", "水"], ()),
        ("油；油", ["油"], ("repeated label",)),
        ("油；金", ["油"], ("unknown label 金",)),
        ("标签是油", ["油"], ("text around the labels",)),
        ("金", None, ()),
    ],
)
def test_reading_several_labels(answer, value, forgiven):
    prediction = MANY.parse(said(answer), Sample("1", "", (), []))
    assert (prediction.value, prediction.forgiven) == (value, forgiven)


LABELS = ["食品", "Food", "Food, drinks", "drinks", "b、c", "C\nD"]


@pytest.mark.parametrize(
    ("answer", "value", "forgiven"),
    [
        ("食品；Food, drinks", ["食品", "Food, drinks"], ()),
        ("Food；drinks", ["Food", "drinks"], ()),
        ("b、c,食品\nFood, drinks", ["食品", "Food, drinks", "b、c"], ()),
        ("drinks, Food；C\nD", ["Food", "drinks", "C\nD"], ()),
        ("Food|drinks, tea", ["Food", "drinks"], ("unknown label tea",)),
    ],
)
def test_labels_that_hold_a_separator_are_read_back(answer, value, forgiven):
    task = make_task(Classification(kind="classification", labels=LABELS, multi_label=True))
    prediction = task.parse(said(answer), Sample("1", "", (), []))
    assert (prediction.value, prediction.forgiven) == (value, forgiven)


@given(
    st.lists(st.text("ab ,、；;，|\n无", min_size=1, max_size=6), min_size=2, max_size=5, unique_by=str.strip), st.sets(st.integers(0, 4))
)
def test_every_set_of_labels_is_refused_or_read_back(labels, chosen):
    task = make_task(Classification(kind="classification", labels=labels, multi_label=True))
    record = Record("f:1", "1", text="T", labels=tuple(labels[i] for i in chosen if i < len(labels)), answer="")
    if any("；" in label or label.strip() in ("无", "") for label in labels):
        assert "unclear-label" in {code for code, _ in codes(task, record)}
        return
    sample = task.make_sample(record)
    assert task.parse(said(sample.messages[-1].text), sample).value == sample.reference
    assert set(sample.reference) == set(record.labels)


@pytest.mark.parametrize("label", ["无", "油；气"])
def test_labels_that_several_could_not_be_told_from_are_refused(label):
    several, one = (make_task(Classification(kind="classification", labels=[label, "水"], multi_label=many)) for many in (True, False))
    assert codes(several, Record("f:1", "1", text="T", labels=("水",))) == [("unclear-label", "error")]
    assert codes(one, Record("f:1", "1", text="T", labels=("水",))) == []


@given(st.text(max_size=30))
def test_reading_labels_never_raises(answer):
    for task in (ONE, MANY):
        task.parse(said(answer), Sample("1", "", (), "Art", candidates=("Art", "Sports")))


@pytest.mark.parametrize("name", ["cls_fudan", "cls_thucnews_titles"])
def test_classification_files_are_read_whole(name):
    for line, row in enumerate(rows_of(name), 1):
        record = Record(f"f:{line}", str(line), text=row["text"], labels=(row["output"],), candidates=tuple(row["category"]))
        assert not [problem for problem in ONE.check_record(record) if problem.severity == "error"]
        sample = ONE.make_sample(record)
        assert ONE.row_scores(ONE.parse(said(sample.messages[-1].text), sample), sample) == {"accuracy": 1.0}


# ---- ner --------------------------------------------------------------------------------------------------------------

NER = make_task(Ner(kind="ner", labels=["PER", "GPE", "ORG"]))
BANK = "中国银行在中国，张三也在。"
ENTITIES = (Entity(5, 7, "中国", "GPE"), Entity(0, 4, "中国银行", "ORG"), Entity(8, 10, "张三", "PER"))
LINES = """{"entity_text": "中国银行", "entity_label": "ORG"}
{"entity_text": "中国", "entity_label": "GPE"}
{"entity_text": "张三", "entity_label": "PER"}"""
REFERENCE = [
    {"start": 0, "end": 4, "text": "中国银行", "label": "ORG"},
    {"start": 5, "end": 7, "text": "中国", "label": "GPE"},
    {"start": 8, "end": 10, "text": "张三", "label": "PER"},
]


def test_entities_are_trained_as_json_lines_in_the_order_of_the_text():
    sample = NER.make_sample(Record("f:1", "1", text=BANK, entities=ENTITIES))
    assert sample.messages[0].text == (
        "你负责从文本中找出命名实体，类型有：PER、GPE、ORG。"
        "每个实体输出一行 JSON，键为 entity_text 和 entity_label；没有实体时只输出：没有找到任何实体"
    )
    assert sample.messages[1].parts == (Part("text", BANK, shortenable=True),)
    assert sample.messages[2] == text_message("assistant", LINES)
    assert sample.reference == REFERENCE


def test_quotes_in_an_entity_and_labels_that_differ_come_back():
    """Built by joining strings, the first would break the JSON; with a label kept between entities, the second would be ORG too."""
    text = '"甲"\\公司的乙'
    entities = (Entity(0, 6, '"甲"\\公司'[:6], "ORG"), Entity(7, 8, "乙", "PER"))
    sample = NER.make_sample(Record("f:1", "1", text=text, entities=entities))
    assert [json.loads(line)["entity_label"] for line in sample.messages[-1].text.split("\n")] == ["ORG", "PER"]
    assert NER.parse(said(sample.messages[-1].text), sample).value == sample.reference


def test_a_text_without_entities_says_so():
    sample = NER.make_sample(Record("f:1", "1", text="下雨了", entities=()))
    assert (sample.messages[-1].text, sample.reference) == ("没有找到任何实体", [])
    assert NER.row_scores(NER.parse(said("没有找到任何实体"), sample), sample) == {"entity_f1": 1.0}


def test_types_come_from_the_record_where_the_recipe_names_none():
    task = make_task(Ner(kind="ner"))
    sample = task.make_sample(Record("f:1", "1", text=BANK, entities=ENTITIES, candidates=("GPE", "ORG", "PER")))
    assert "类型有：GPE、ORG、PER。" in sample.messages[0].text
    assert sample.candidates == ("GPE", "ORG", "PER")


@pytest.mark.parametrize(
    ("answer", "is_valid", "forgiven"),
    [
        (LINES, True, ()),
        ("[" + LINES.replace("\n", ",") + "]", True, ()),
        (f"```json\n{LINES}\n```", True, ("code fence",)),
        (LINES.replace("\n", ""), False, ("text around the JSON",)),
        (f"实体如下：\n{LINES}", False, ("text around the JSON",)),
        (f"{LINES}\n{LINES}", True, ()),
        (LINES.replace("entity_text", "text").replace("entity_label", "type"), True, ("other keys",)),
        (LINES + '\n{"entity_text": 3, "entity_label": "PER"}', True, ("an object without text or label",)),
    ],
)
def test_entity_answers_that_are_understood(answer, is_valid, forgiven):
    prediction = NER.parse(said(answer), NER.make_sample(Record("f:1", "1", text=BANK, entities=ENTITIES)))
    assert (prediction.value, prediction.is_valid, prediction.forgiven) == (REFERENCE, is_valid, forgiven)


@pytest.mark.parametrize(
    ("answer", "value", "is_valid"),
    [("没有找到任何实体。", [], True), ("[]", [], True), ("我没有找到任何实体", [], False), ("不知道", None, False), ("", None, False)],
)
def test_answers_without_entities(answer, value, is_valid):
    prediction = NER.parse(said(answer), NER.make_sample(Record("f:1", "1", text=BANK, entities=ENTITIES)))
    assert (prediction.value, prediction.is_valid) == (value, is_valid)
    if value is None:
        assert NER.row_scores(prediction, Sample("1", "", (), [])) == {"entity_f1": 0.0}


def test_invented_entities_and_unknown_types_are_told():
    answer = '{"entity_text": "王五", "entity_label": "PER"}\n{"entity_text": "张三", "entity_label": "人"}'
    sample = NER.make_sample(Record("f:1", "1", text=BANK, entities=ENTITIES))
    prediction = NER.parse(said(answer), sample)
    assert (prediction.flags, prediction.forgiven, prediction.is_valid) == (("王五: not in the text",), ("unknown label 人",), False)
    assert NER.counts(prediction, said(answer), sample) == {"tp": 0, "fp": 2, "fn": 3}


@pytest.mark.parametrize(
    ("text", "mentions", "starts"),
    [
        ("甲乙甲乙甲", ["甲", "甲", "甲"], [0, 2, 4]),
        ("中国银行在中国", ["中国", "中国银行"], [5, 0]),
        ("甲说，乙来了，甲走了", ["乙", "甲"], [3, 7]),
        ("乙来了，甲走了", ["甲", "乙"], [4, 0]),
        ("甲", ["甲", "甲"], [0, 0]),
    ],
    ids=["repeated mentions in order", "not inside a longer one", "after the mention before", "in any order", "several types of one span"],
)
def test_offsets_are_recovered(text, mentions, starts):
    spans = locate([(surface, str(i)) for i, surface in enumerate(mentions)], text).spans
    assert [span["start"] for span in sorted(spans, key=lambda span: span["label"])] == starts


@pytest.mark.parametrize(
    ("named", "counts", "flags"),
    [
        (["GPE"], (1, 0, 0), ()),
        (["GPE", "ORG"], (1, 1, 0), ()),
        (["GPE", "GPE"], (1, 1, 0), ("中国: not in the text so often",)),
        (["ORG", "GPE", "ORG", "ORG"], (1, 3, 0), ("中国: not in the text so often",) * 2),
    ],
)
def test_what_is_named_too_often_is_a_false_positive(named, counts, flags):
    sample = NER.make_sample(Record("f:1", "1", text="我在中国", entities=(Entity(2, 4, "中国", "GPE"),)))
    answer = said("\n".join(f'{{"entity_text": "中国", "entity_label": "{label}"}}' for label in named))
    prediction = NER.parse(answer, sample)
    assert tuple(NER.counts(prediction, answer, sample).values()) == counts
    assert prediction.flags == flags
    assert NER.row_scores(prediction, sample)["entity_f1"] == pytest.approx(2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]))


@pytest.mark.parametrize(
    ("text", "spans"), [("我在中国", [(2, "GPE"), (2, "ORG")]), ("中国和中国", [(0, "GPE"), (0, "ORG"), (3, "GPE"), (3, "ORG")])]
)
def test_a_span_with_several_types_comes_back(text, spans):
    sample = NER.make_sample(Record("f:1", "1", text=text, entities=tuple(Entity(at, at + 2, "中国", label) for at, label in spans)))
    prediction = NER.parse(said(sample.messages[-1].text), sample)
    assert (prediction.value, prediction.flags) == (sample.reference, ())
    assert NER.row_scores(prediction, sample) == {"entity_f1": 1.0}


@given(st.text(max_size=60))
def test_reading_entities_never_raises(answer):
    NER.parse(said(answer), Sample("1", "", (text_message("user", BANK),), []))


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (Record("f:1", "1", text=BANK, entities=ENTITIES), []),
        (Record("f:1", "1", text=BANK, entities=(Entity(0, 3, "中国银行", "ORG"),)), [("offsets-do-not-fit", "error")]),
        (Record("f:1", "1", text=BANK, entities=(Entity(12, 99, "。", "ORG"),)), [("offsets-do-not-fit", "error")]),
        (Record("f:1", "1", text=BANK, entities=(Entity(8, 10, "张三", "人"),)), [("unknown-label", "error")]),
        (
            Record("f:1", "1", text=BANK, entities=(Entity(5, 7, "中国", "GPE"), Entity(5, 7, "中国", "ORG"))),
            [("span-with-several-types", "warning")],
        ),
        (Record("f:1", "1", text=BANK, answer=LINES), []),
        (Record("f:1", "1", text=BANK, answer="没有找到任何实体"), []),
        (Record("f:1", "1", text=BANK, answer="?"), [("invalid-json", "error")]),
        (Record("f:1", "1", text=BANK, answer=LINES.replace("张三", "王五")), [("value-not-in-text", "warning")]),
        (Record("f:1", "1", text=BANK, answer=f"{LINES}\n{LINES[LINES.rindex('{') :]}"), [("value-not-in-text", "warning")]),
    ],
)
def test_ner_row_checks(record, found):
    assert codes(NER, record) == found


def test_a_row_with_wrong_offsets_names_what_stands_there():
    with pytest.raises(RowError, match="at 0:3 stands '中国银', not '中国银行'"):
        NER.make_sample(Record("f:1", "1", text=BANK, entities=(Entity(0, 3, "中国银行", "ORG"),)))


def test_rows_whose_answer_lists_entities_train_like_rows_with_offsets():
    of_answer = NER.make_sample(Record("f:1", "1", text=BANK, answer=f"[{LINES.replace(chr(10), ',')}]"))
    assert of_answer == NER.make_sample(Record("f:1", "1", text=BANK, entities=ENTITIES))


@pytest.mark.parametrize(("name", "n_back", "n"), [("ner_ccfbdci", 4008, 4047), ("ner_weibo", 740, 747)])
def test_offsets_of_real_annotations_come_back_from_the_answer_form(name, n_back, n):
    """What is lost is a text that occurs several times and is annotated only later: the answer form cannot say which is meant."""
    task, outcome = make_task(Ner(kind="ner")), Counter()
    for line, row in enumerate(rows_of(name), 1):
        entities = tuple(Entity(e["start_idx"], e["end_idx"], e["entity_text"], e["entity_label"]) for e in row["entities"])
        if entities:
            sample = task.make_sample(Record(f"f:{line}", str(line), text=row["text"], entities=entities))
            outcome[task.parse(said(sample.messages[-1].text), sample).value == sample.reference] += 1
    assert outcome.total() == n
    assert outcome[True] >= n_back


def test_white_space_around_an_entity_is_left_out():
    row = Record("f:1", "1", text="在 \n北京 开会", entities=(Entity(2, 6, "\n北京 ", "ORG"),))
    assert codes(NER, row) == [("blanks-around-entity", "warning")]
    sample = NER.make_sample(row)
    assert sample.reference == [{"start": 3, "end": 5, "text": "北京", "label": "ORG"}]
    prediction = NER.parse(said(sample.messages[-1].text), sample)
    assert NER.counts(prediction, said(""), sample) == {"tp": 1.0, "fp": 0.0, "fn": 0.0}


def test_entities_without_a_place_are_counted_beside_the_types():
    sample = NER.make_sample(Record("f:1", "1", text=BANK, entities=ENTITIES))
    answer = said(f'{sample.messages[-1].text}\n{{"entity_text": "王五", "entity_label": "PER"}}')
    details = NER.details([NER.parse(answer, sample)], [answer], [sample])
    assert details["not_in_text"] == {"entities": 1, "rows": 1}


def test_an_answer_that_cannot_be_read_is_no_right_empty_list_of_labels():
    task = make_task(Classification(kind="classification", labels=["a", "b"], multi_label=True))
    sample = Sample("1", "", (text_message("user", "t"),), [], candidates=("a", "b"))
    assert task.row_scores(Prediction([], True), sample) == {"f1": 1.0, "accuracy": 1.0}
    assert task.row_scores(Prediction(None, False), sample) == {"f1": 0.0, "accuracy": 0.0}
