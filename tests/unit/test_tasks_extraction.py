"""extraction: prompt, trained answer, forgiving parser, schema, scores, row checks."""

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weitiao.chat import make_renderer
from weitiao.errors import RecipeError, RowError
from weitiao.infer.constrain import Grammars
from weitiao.recipe.sections import Chat
from weitiao.recipe.tasks import Extraction, FieldSpec
from weitiao.seams import Answer, Message, Part, Record, text_message
from weitiao.tasks import make_task
from weitiao.tasks.fields import canonical, comparable, not_in_text, read_date, read_number
from weitiao.tasks.reading import read_objects

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
S5 = "将文本中的name、address、email、question提取出来，以json格式输出，字段为name、address、email、question，值为文本中提取出来的内容。"
NAMES = ["name", "address", "email", "question"]


def task(fields=("name", "email"), system=None, prompt=None):
    return make_task(Extraction(kind="extraction", fields=fields if isinstance(fields, dict) else list(fields), prompt=prompt), system)


def record(text="张三，邮箱z@x.cn", answer='{"name": "张三", "email": "z@x.cn"}', **more):
    return Record("f.jsonl:1", "1", text=text, answer=answer, **more)


def parse(answer, text="张三，邮箱z@x.cn", fields=("name", "email")):
    it = task(fields)
    return it.parse(Answer(answer, 1, 1, "stop"), it.make_sample(record(text, None)))


def codes(it, row):
    return [(problem.code, problem.severity) for problem in it.check_record(row)]


# ---- prompt -----------------------------------------------------------------------------------------------------------


def test_the_default_prompt_is_that_of_s5_to_the_letter():
    sample = task(NAMES).make_sample(record("龙琳，宁夏…", None))
    assert sample.messages == (text_message("system", S5), Message("user", (Part("text", "龙琳，宁夏…", shortenable=True),)))


@pytest.mark.parametrize(
    ("of_recipe", "of_row", "wanted"),
    [("R", "row", "R"), ("", "row", ""), (None, "row", "row"), (None, "", S5)],
    ids=repr,
)
def test_system_is_the_recipes_then_the_rows_then_the_tasks(of_recipe, of_row, wanted):
    sample = task(NAMES, of_recipe).make_sample(record(answer=None, system=of_row))
    assert sample.messages[0] == text_message("system", wanted)


def test_an_instruction_stands_before_the_text_and_is_never_shortened():
    user = task().make_sample(record("TEXT", None, instruction="Do it.")).messages[1]
    assert user.parts == (Part("text", "Do it.\n"), Part("text", "TEXT", shortenable=True))
    placed = task(prompt="{text} <- {instruction} {{json}}").make_sample(record("TEXT", None, instruction="Do it.")).messages[1]
    assert placed.text == "TEXT <- Do it. {json}"


def test_alpaca_rows_without_input_have_their_instruction_as_text():
    user = task().make_sample(record("", None, instruction="TEXT")).messages[1]
    assert user.parts == (Part("text", "TEXT", shortenable=True),)


def test_a_conversation_of_one_turn_is_a_row():
    turns = (text_message("system", "S"), text_message("user", "张三"), text_message("assistant", '{"name": "张三", "email": ""}'))
    sample = task().make_sample(Record("f:1", "1", messages=turns))
    assert [message.text for message in sample.messages] == ["S", "张三", '{"name": "张三", "email": ""}']
    several = Record("f:1", "1", messages=(*turns, *turns[1:]))
    assert codes(task(), several) == [("not-one-turn", "error")]
    with pytest.raises(RowError, match="a conversation of 4 turns"):
        task().make_sample(several)


@pytest.mark.parametrize(("prompt", "what"), [("{txt}", "unknown field {txt}"), ("{text", "cannot be read"), ('{"a": 1}', "unknown field")])
def test_a_wrong_template_is_an_error_of_the_recipe(prompt, what):
    with pytest.raises(RecipeError, match=what) as caught:
        task(prompt=prompt)
    assert caught.value.where == "task.prompt"
    assert "{{" in caught.value.hint


def test_a_template_without_the_text_is_an_error_of_the_recipe():
    with pytest.raises(RecipeError, match="leaves the row's text out") as caught:
        task(prompt="提取姓名")
    assert (caught.value.where, caught.value.hint) == ("task.prompt", "put {text} where the row's text belongs")


# ---- trained answer ---------------------------------------------------------------------------------------------------


def test_the_trained_answer_is_compact_json_in_the_order_of_the_fields():
    answer = '```json\n{\n  "email": "z@x.cn",\n  "name": "张三"\n}\n```'
    sample = task().make_sample(record(answer=answer))
    assert sample.messages[-1] == text_message("assistant", '{"name": "张三", "email": "z@x.cn"}')
    assert sample.reference == {"name": "张三", "email": "z@x.cn"}
    assert sample.prompt == sample.messages[:2]


def test_optional_fields_are_null_and_required_ones_empty():
    it = task({"name": FieldSpec(), "email": FieldSpec(optional=True), "tags": FieldSpec(type="list")})
    sample = it.make_sample(record(answer='{"email": ""}'))
    assert sample.messages[-1].text == '{"name": "", "email": null, "tags": []}'


@pytest.mark.parametrize(
    ("value", "spec", "wanted"),
    [
        ("RM 1,021.50", FieldSpec(type="number"), 1021.5),
        (3, FieldSpec(type="number"), 3),
        ("１２", FieldSpec(type="number"), 12),
        ("Rs.500", FieldSpec(type="number"), 500),
        ("Rs.500.50", FieldSpec(type="number"), 500.5),
        ("No.12", FieldSpec(type="number"), 12),
        ("$.50", FieldSpec(type="number"), 0.5),
        ("-$5", FieldSpec(type="number"), -5),
        ("\u22125.5", FieldSpec(type="number"), -5.5),
        (["a", None, ""], FieldSpec(type="list"), ["a"]),
        (["", None], FieldSpec(type="list", optional=True), None),
        (12, FieldSpec(), "12"),
        ("one", FieldSpec(type="list"), ["one"]),
        ("19 APR 2018", FieldSpec(type="date"), "19 APR 2018"),
        ("b", FieldSpec(type="enum", values=["a", "b"]), "b"),
        (None, FieldSpec(type="number", optional=True), None),
    ],
)
def test_canonical_values(value, spec, wanted):
    assert canonical(value, spec) == wanted


@pytest.mark.parametrize(
    ("value", "spec", "why"),
    [
        ("ten", FieldSpec(type="number"), "'ten' is not a number"),
        ("", FieldSpec(type="number"), "cannot be left empty"),
        ("someday", FieldSpec(type="date"), "'someday' is not a calendar date"),
        ("2018-04-09\n", FieldSpec(type="date"), "is not a calendar date"),
        ("c", FieldSpec(type="enum", values=["a", "b"]), "'c' is none of a, b"),
        ({"a": 1}, FieldSpec(), "is not a text"),
    ],
)
def test_values_of_another_type_are_refused(value, spec, why):
    with pytest.raises(ValueError, match=why):
        canonical(value, spec)


# ---- schema -----------------------------------------------------------------------------------------------------------


def test_trained_answers_fit_the_schema_and_others_do_not():
    fields = {
        "name": FieldSpec(),
        "total": FieldSpec(type="number", optional=True),
        "day": FieldSpec(type="date"),
        "kind": FieldSpec(type="enum", values=["a", "b"]),
        "tags": FieldSpec(type="list"),
    }
    it = task(fields)
    row = record(answer=json.dumps({"name": "张三", "total": "RM 3.50", "day": "2018年4月9日", "kind": "a", "tags": ["x"]}))
    sample = it.make_sample(row)
    schema = it.constraint(sample).json_schema
    assert list(schema["properties"]) == schema["required"] == list(fields)
    jsonschema.validate(json.loads(sample.messages[-1].text), schema)
    good = sample.reference
    jsonschema.validate({**good, "total": None}, schema)
    for bad in ({**good, "more": 1}, {**good, "kind": "c"}, {**good, "day": "?"}, {**good, "tags": "x"}, {"name": "张三"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_decoding_under_the_constraint_can_produce_the_trained_answers(tiny_tokenizer):
    grammars = Grammars(tiny_tokenizer, len(tiny_tokenizer), make_renderer(tiny_tokenizer, Chat(), "head"))
    fields = {"name": FieldSpec(), "total": FieldSpec(type="number", optional=True), "day": FieldSpec(type="date"),
              "kind": FieldSpec(type="enum", values=["a", "现金"]), "tags": FieldSpec(type="list", optional=True)}  # fmt: skip
    it = task(fields)
    for answer in (
        {"name": '张"三\n', "total": "RM 3.50", "day": "2018年4月9日（星期一）", "kind": "现金", "tags": ["x", "y"]},
        {"day": "19 APR 2018", "kind": "a"},
    ):
        sample = it.make_sample(record(answer=json.dumps(answer)))
        matcher = grammars.matcher(it.constraint(sample), "f:1", 256)
        for token in tiny_tokenizer.encode(f"{sample.messages[-1].text}<|im_end|>", add_special_tokens=False):
            assert matcher.take(token)
        assert matcher.is_complete()


# ---- parser -----------------------------------------------------------------------------------------------------------

WANTED = {"name": "张三", "email": "z@x.cn"}
PLAIN = '{"name": "张三", "email": "z@x.cn"}'


@pytest.mark.parametrize(
    ("answer", "is_valid", "forgiven"),
    [
        (PLAIN, True, ()),
        (f"\n {PLAIN} \n", True, ()),
        (f"```json\n{PLAIN}\n```", True, ("code fence",)),
        (f"```\n{PLAIN}```", True, ("code fence",)),
        (f"Here it is:\n```json\n{PLAIN}\n```\nDone.", False, ("text around the JSON",)),
        (f"{PLAIN} I hope this helps", False, ("text around the JSON",)),
        (f"<think>\n\n</think>\n\n{PLAIN}", False, ("think block",)),
        (f"[{PLAIN}]", False, ("list around the object",)),
        (f"{PLAIN}\n{PLAIN}", False, ("several objects",)),
        (f"{PLAIN}{PLAIN}", False, ("text around the JSON", "several objects")),
        ("{'name': '张三', 'email': 'z@x.cn'}", False, ("broken JSON",)),
        ('{"name": "张三", "email": "z@x.cn",}', False, ("broken JSON",)),
        ('{"name": "张三", "email": "z@x.cn', False, ("broken JSON",)),
        ('{"name": "张三", "email": "z@x.cn", "age": 3}', True, ("unknown field age",)),
    ],
)
def test_answers_that_are_understood_and_what_was_forgiven(answer, is_valid, forgiven):
    prediction = parse(answer)
    assert (prediction.value, prediction.is_valid, prediction.forgiven) == (WANTED, is_valid, forgiven)


@pytest.mark.parametrize(
    "answer", ["", "无法提取", "null", "3", "[]", '"text"', "{", "{}{", "```json\n```", '{"a": NaN}', "[" * 10_000, '{"a":' * 10_000]
)
def test_answers_without_fields_are_no_readings_of_them(answer):
    prediction = parse(answer)
    assert prediction.value is None or set(prediction.value.values()) == {None}


def test_valid_json_without_fields_is_valid_and_wrong():
    prediction = parse("{}")
    assert (prediction.value, prediction.is_valid) == ({"name": None, "email": None}, True)


@given(st.text(alphabet="{}[]\",:'`\\ \n\tanulltrue0123.eE-张<think>/", max_size=60))
def test_reading_never_raises_and_gives_json(answer):
    for found in read_objects(answer).objects:
        json.dumps(found, allow_nan=False)


def test_an_answer_that_the_limit_ended_is_flagged():
    it, text = task(), '{"name": "张三", "email": "z@x.cn"}'
    cut, whole = (it.parse(Answer(text, 1, 1, ended_by), it.make_sample(record())) for ended_by in ("length", "constraint"))
    assert (len(cut.flags), whole.flags) == (1, ())
    assert "limit on new tokens" in cut.flags[0]


def test_a_value_that_stands_nowhere_in_the_text_is_flagged():
    assert parse('{"name": "李四", "email": "z@x.cn"}').flags == ("name: not in the text",)
    assert parse('{"name": "张 三", "email": "ｚ@x.cn"}').flags == ()
    assert parse('{"name": ["张三", "王五"]}', fields={"name": FieldSpec(type="list")}).flags == ("name: not in the text",)
    assert parse('{"name": "李四"}', fields={"name": FieldSpec(copied=False)}).flags == ()


@pytest.mark.parametrize(
    ("value", "text", "stands"),
    [
        (20.4, "TOTAL RM 20.40", True),
        ("RM 20.40", "共２０.４元", True),
        (1021.5, "RM 1,021.50.", True),
        (5, "20-5", True),
        (-3, "-3 °C", True),
        (-3, "3 °C", False),
        (99.5, "TOTAL RM 20.40", False),
        (12, "123.45, 1,012 and 12.5", False),
        (200, "100,2000", False),
        ("n/a", "total: n/a", True),
        ("ten", "total: 10", False),
    ],
)
def test_a_number_stands_in_the_text_by_its_value(value, text, stands):
    flags = () if stands else ("n: not in the text",)
    answer = json.dumps({"n": value})
    assert parse(answer, text, {"n": FieldSpec(type="number")}).flags == flags
    assert parse(answer, text, {"n": FieldSpec(type="number", copied=False)}).flags == ()


@pytest.mark.parametrize(
    ("value", "text", "stands"),
    [
        ("2018-04-09", "issued 9 Apr 2018, 10:50", True),
        ("2018-04-09", "April 9th, 2018", True),
        ("2018-04-09", "于2018 年 4 月 9 日开具", True),
        ("2018-04-09", "no. 1 2 09/04/18 10:50", True),
        ("2018-04-09", "2018-04-09T10:50", True),
        ("2018年4月9日（星期一）", "2018年4月9日（星期一）", True),
        ("2018年4月9日", "20180409", True),
        ("2018-04-09", "10/04/2018", False),
        ("1/2/2018", "11/2/2018", False),
        ("2018-04-09", "4月9日", False),
        ("2018-04-09", "120180409", False),
        ("someday", "some other day", False),
    ],
)
def test_a_date_stands_in_the_text_in_any_form(value, text, stands):
    flags = () if stands else ("day: not in the text",)
    answer = json.dumps({"day": value})
    assert parse(answer, text, {"day": FieldSpec(type="date")}).flags == flags
    assert parse(answer, text, {"day": FieldSpec(type="date", copied=False)}).flags == ()


def test_numbers_and_dates_of_receipts_stand_in_their_texts():
    it = task({"date": FieldSpec(type="date", optional=True), "total": FieldSpec(type="number", optional=True)})
    rows = [(row["input"], json.loads(row["output"])) for row in rows_of("extract_receipts")]
    records = [record(text, json.dumps({"date": said["date"], "total": said.get("total")})) for text, said in rows]
    assert not [problem for row in records for problem in it.check_record(row) if problem.code == "value-not-in-text"]


@given(st.text("0123456789-/.,+年月日 aprmy'T٣²", max_size=40))
def test_looking_for_numbers_and_dates_never_raises(text):
    not_in_text(1, FieldSpec(type="number"), text)
    not_in_text("2018-04-09", FieldSpec(type="date"), text)


# ---- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "said", "counts"),
    [
        ({"name": "张三", "email": "z@x.cn"}, {"name": "张三", "email": "z@x.cn"}, (2, 0, 0, 1)),
        ({"name": "张三", "email": "z@x.cn"}, {"name": "张三", "email": "x@x.cn"}, (1, 1, 1, 0)),
        ({"name": "张三", "email": "z@x.cn"}, {"name": "张三", "email": None}, (1, 0, 1, 0)),
        ({"name": "张三", "email": ""}, {"name": "张三", "email": "z@x.cn"}, (1, 1, 0, 0)),
        ({"name": "张三", "email": ""}, {"name": "张三", "email": None}, (1, 0, 0, 1)),
        ({"name": "张三", "email": "z@x.cn"}, {"name": " 张三\n", "email": "ｚ@x.cn"}, (2, 0, 0, 1)),
        ({"name": "Ann", "email": ""}, {"name": "ann", "email": ""}, (0, 1, 1, 0)),
    ],
)
def test_counts_of_a_row(wanted, said, counts):
    it = task()
    sample = it.make_sample(record(answer=json.dumps(wanted)))
    prediction = it.parse(Answer(json.dumps(said), 1, 1, "stop"), sample)
    row = it.counts(prediction, None, sample)
    assert (row["tp"], row["fp"], row["fn"], row["exact"]) == counts


def test_an_answer_that_cannot_be_read_is_never_right():
    it = task()
    sample = it.make_sample(record(answer='{"name": "", "email": ""}'))
    prediction = it.parse(Answer("?", 1, 1, "stop"), sample)
    assert it.row_scores(prediction, sample) == {"field_f1": 0.0, "exact_match": 0.0}
    assert it.row_scores(it.parse(Answer('{"name": "", "email": ""}', 1, 1, "stop"), sample), sample) == {
        "field_f1": 1.0,
        "exact_match": 1.0,
    }
    assert it.counts(prediction, None, sample) == {"tp": 0, "fp": 0, "fn": 0, "exact": 0, "valid": 0, "rows": 1}


@pytest.mark.parametrize(
    ("one", "other", "kind", "same"),
    [
        ("RM 21.50", 21.5, "number", True),
        ("1,000", "1000.0", "number", True),
        ("21.5", "21.6", "number", False),
        ("2018年4月9日", "09/04/2018", "date", True),
        ("20180409", "9 Apr 2018", "date", True),
        ("2018-04-09", "2018-04-10", "date", False),
        (["b", "a"], ["a", "b"], "list", True),
        (["a", "a"], ["a"], "list", False),
        ("a  b", "a b", "string", True),
        ("n/a", "N/A", "number", False),
    ],
)
def test_values_are_compared_by_what_they_mean(one, other, kind, same):
    spec = FieldSpec(type=kind)
    assert (comparable(one, spec) == comparable(other, spec)) is same


@pytest.mark.parametrize(
    ("text", "number"), [("$9.90", "9.90"), ("-3", "-3"), (1e20, "100000000000000000000"), ("3 x 4", None), ("1e5", None), (True, None)]
)
def test_numbers(text, number):
    assert read_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "day"),
    [("19-09-17", date(2017, 9, 19)), ("01-NOV-2017", date(2017, 11, 1)), ("2018/4/9", date(2018, 4, 9)), ("April 2018", None),
     ("10:50", None), ("Monday", None), ("99/99/9999", None), (20180409, None), ("2018年13月1日", None)],
)  # fmt: skip
def test_dates(text, day):
    assert read_date(text) == day


@given(st.text(max_size=30) | st.integers() | st.floats() | st.booleans() | st.none())
def test_reading_numbers_and_dates_never_raises(value):
    for kind in ("string", "number", "date", "list"):
        comparable(value, FieldSpec(type=kind))


# ---- row checks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (record(), []),
        (record(answer=None), []),
        (record(text=" "), [("empty-text", "error")]),
        (record(answer=""), [("empty-answer", "error")]),
        (record(answer="not json"), [("invalid-json", "error")]),
        (record(answer="[]"), [("invalid-json", "error")]),
        (record(answer='{"name": "张三"}'), [("missing-field", "warning")]),
        (record(answer='{"name": "张三", "email": "z@x.cn", "age": 3}'), [("unknown-field", "error")]),
        (record(answer='{"name": "李四", "email": "z@x.cn"}'), [("value-not-in-text", "warning")]),
        (record(answer='{"name": {"a": 1}, "email": "z@x.cn"}'), [("wrong-value", "error")]),
        (record(text="{{name}} z@x.cn", answer='{"name": "{{name}}", "email": "z@x.cn"}'), [("placeholder", "warning")]),
        (record(text="张三\ufffd z@x.cn"), [("lost-characters", "warning")]),
    ],
)
def test_row_checks(row, found):
    assert codes(task(), row) == found


def test_an_empty_object_is_an_answer():
    row = record(answer="{}")
    optional = task({"name": FieldSpec(optional=True), "total": FieldSpec(type="number", optional=True)})
    assert codes(optional, row) == []
    assert optional.make_sample(row).messages[-1].text == '{"name": null, "total": null}'
    assert codes(task(), row) == [("missing-field", "warning")] * 2
    assert codes(task({"total": FieldSpec(type="number")}), row) == [("wrong-value", "error")]


def test_a_row_with_an_error_cannot_become_a_sample():
    with pytest.raises(RowError, match="fields that the task lacks: age") as caught:
        task().make_sample(record(answer='{"name": "张三", "email": "z@x.cn", "age": 3}'))
    assert caught.value.where == "f.jsonl:1"


def rows_of(name):
    path = DATA / name / "dev.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_complaints_are_read_and_the_two_values_not_in_the_text_are_found():
    it = task(NAMES)
    found = {}
    for line, row in enumerate(rows_of("extract_complaints"), 1):
        one = Record(f"dev.jsonl:{line}", str(line), instruction=row["instruction"], system=row["system"], answer=row["output"])
        sample = it.make_sample(one)
        assert json.loads(sample.messages[-1].text) == sample.reference
        assert it.row_scores(it.parse(Answer(sample.messages[-1].text, 1, 1, "stop"), sample), sample)["exact_match"] == 1.0
        found[line] = [problem.code for problem in it.check_record(one)]
    assert {line: problems for line, problems in found.items() if problems} == {22: ["value-not-in-text"], 83: ["value-not-in-text"]}


def test_receipts_are_read_and_their_oddities_found():
    it = task(["company", "date", "address", "total"])
    found = [
        (line, problem.code, problem.message.split(":")[0])
        for line, row in enumerate(rows_of("extract_receipts"), 1)
        for problem in it.check_record(Record("", str(line), text=row["input"], instruction=row["instruction"], answer=row["output"]))
    ]
    assert [row for row in found if row[1] != "value-not-in-text"] == [
        (137, "missing-field", "total is missing; it is trained as empty"),
        (391, "missing-field", "address is missing; it is trained as empty"),
    ]
    assert sum(field == "address" for _, code, field in found if code == "value-not-in-text") > 10


def test_half_a_character_in_an_answer_can_be_written_to_a_file():
    prediction = parse('{"name": "\\ud83d", "email": ["\\ude00"], "\\ud83d\\ude00": 1}', "x")
    assert prediction.value == {"name": "\ufffd", "email": ["\ufffd"]}
    assert prediction.forgiven == ("unknown field 😀",)
    json.dumps(prediction.value, ensure_ascii=False).encode()
