"""Every row shape, recognised from the rows alone, and what is said when none fits."""

import base64
import logging

import pytest
from PIL import Image
from tests.data.rows import load, task_of, write

from weitiao.data import load_file, load_samples
from weitiao.errors import DataError, Problems
from weitiao.recipe.sections import Data, Source
from weitiao.recipe.tasks import Classification
from weitiao.tasks import make_task


def turns(sample):
    return [(message.role, message.text) for message in sample.messages]


def load_one(tmp_path, row, kind, **data):
    return load(write(tmp_path / "rows.jsonl", [row]), kind, **data)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    image = Image.new("RGB", (40, 30), "white")
    image.putpixel((3, 3), (0, 0, 0))
    image.save(path)
    return path


CHATS = {
    "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    "content in parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
        ]
    },
    "sharegpt from": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    "sharegpt role": {"conversations": [{"role": "user", "value": "hi"}, {"role": "assistant", "value": "hello"}]},
    "alpaca": {"instruction": "hi", "input": "", "output": "hello"},
    "alpaca without input": {"instruction": "hi", "output": "hello"},
    "prompt and completion": {"prompt": "hi", "completion": "hello"},
    "question and answer": {"question": "hi", "answer": "hello"},
}


@pytest.mark.parametrize("row", CHATS.values(), ids=CHATS.keys())
def test_a_chat_in_every_shape(tmp_path, row):
    samples = load_one(tmp_path, row, "chat")
    assert turns(samples.train[0]) == [("user", "hi"), ("assistant", "hello")]
    assert samples.train[0].reference == "hello"


def test_alpaca_with_input_system_and_history(tmp_path):
    row = {
        "instruction": "Translate",
        "input": "你好",
        "output": "hello",
        "system": "Be brief",
        "history": [["Who?", "Me."], ["Where?", "Here."]],
    }
    samples = load_one(tmp_path, row, "chat")
    assert turns(samples.train[0]) == [
        ("system", "Be brief"),
        ("user", "Who?"),
        ("assistant", "Me."),
        ("user", "Where?"),
        ("assistant", "Here."),
        ("user", "Translate\n你好"),
        ("assistant", "hello"),
    ]
    assert samples.report.shape == "alpaca (instruction, answer from `output`, text from `input`, system, history)"


def test_alpaca_for_extraction_takes_the_instruction_as_text_where_input_is_empty(tmp_path):
    answer = '```json\n{"name": "龙琳"}\n```'
    rows = [
        {"system": "提取name", "instruction": "龙琳：小区垃圾成堆。", "input": "", "output": answer},
        {"system": "提取name", "instruction": "提取姓名", "input": "龙琳来了", "output": answer},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    samples = load(path, "extraction", task={"fields": ["name"]})
    assert turns(samples.train[0]) == [("system", "提取name"), ("user", "龙琳：小区垃圾成堆。"), ("assistant", '{"name": "龙琳"}')]
    assert turns(samples.train[1])[1] == ("user", "提取姓名\n龙琳来了")
    mapped = load(path, "extraction", task={"fields": ["name"]}, columns={"text": "instruction", "answer": "output"})
    assert mapped.report.shape == "text-answer (text from `instruction`, answer from `output`, system)"
    assert mapped.train[0].reference == {"name": "龙琳"}


@pytest.mark.parametrize(
    ("row", "label", "candidates"),
    [
        ({"text": "t", "label": "a"}, "a", ()),
        ({"text": "t", "category": "a"}, "a", ()),
        ({"text": "t", "category": ["a", "b"], "output": "a"}, "a", ("a", "b")),
        ({"text": "t", "category": '["a", "b"]', "output": "a"}, "a", ("a", "b")),
        ({"text": "t", "category": "['a', 'b']", "output": "a"}, "a", ("a", "b")),
        ({"content": "t", "label": 1}, "1", ()),
    ],
)
def test_labelled_texts(tmp_path, row, label, candidates):
    path = write(tmp_path / "rows.jsonl", [row, {**row, "text" if "text" in row else "content": "other"}])
    second = {key: ("b" if value == label else 2 if value == 1 else value) for key, value in row.items()}
    path = write(tmp_path / "rows.jsonl", [row, {**second, "text" if "text" in row else "content": "other"}])
    samples = load(path, "classification")
    assert samples.train[0].reference == label
    assert samples.train[0].candidates == (candidates or tuple(sorted({label, "b" if label == "a" else "2"})))


SEVERAL = {
    "text": (["A,B", "B", "", "B；A", "无"], {}),
    "list": ([["A", "B"], ["B"], [], ["B", "A"], ["无"]], {}),
    "list written as text": (['["A", "B"]', "['B']", "[]", '["B", "A"]', "无"], {}),
    "of another name": (["A\nB", "B", "", "B|A", "无"], {"columns": {"label": "labels"}}),
}


@pytest.mark.parametrize(("cells", "data"), SEVERAL.values(), ids=SEVERAL.keys())
def test_several_labels_in_every_form(tmp_path, cells, data):
    path = write(tmp_path / "rows.jsonl", [{"text": f"t{i}", "labels": cell} for i, cell in enumerate(cells)])
    samples = load(path, "classification", task={"multi_label": True}, **data)
    assert [sample.reference for sample in samples.train] == [["A", "B"], ["B"], [], ["A", "B"], []]
    assert {sample.candidates for sample in samples.train} == {("A", "B")}
    assert samples.report.statistics["labels"] == {"A": {"train": 2, "valid": 0, "test": 0}, "B": {"train": 3, "valid": 0, "test": 0}}


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "t", "output": "B；Food, drinks"},
        {"prompt": "t", "completion": "B；Food, drinks"},
        {"text": "t", "label": "B；Food, drinks"},
        {"messages": [{"role": "user", "content": "t"}, {"role": "assistant", "content": "B；Food, drinks"}]},
        {"text": "t", "category": ["B", "Food, drinks", "C"], "output": "Food, drinks;B"},
    ],
    ids=["alpaca", "prompt and completion", "label", "messages", "own candidates"],
)
def test_several_labels_in_an_answer_are_told_apart_by_the_recipes_labels(tmp_path, row):
    samples = load_one(tmp_path, row, "classification", task={"multi_label": True, "labels": ["B", "Food, drinks", "C"]})
    assert samples.train[0].reference == ["B", "Food, drinks"]
    assert list(samples.report.statistics["labels"]) == ["B", "Food, drinks"]


ENTITY = {"start_idx": 2, "end_idx": 4, "entity_text": "北京", "entity_label": "LOC", "entity_names": ["地点"]}
NER = {
    "objects": {"text": "我在北京。", "entities": [ENTITY]},
    "triples": {"text": "我在北京。", "entities": [[2, 4, "LOC"]]},
    "triples under label": {"text": "我在北京。", "label": [[2, 4, "LOC"]]},
    "json text": {"text": "我在北京。", "entities": '[{"start": 2, "end": 4, "label": "LOC"}]'},
    "inclusive ends": {"text": "我在北京。", "entities": [{"start": 2, "end": 3, "text": "北京", "type": "LOC"}]},
    "bio lists": {"tokens": list("我在北京。"), "ner_tags": ["O", "O", "B-LOC", "I-LOC", "O"]},
    "bio texts": {"tokens": "我 在 北 京 。", "tags": "O O B-LOC I-LOC O"},
    "bmes": {"tokens": list("我在北京。"), "labels": ["O", "O", "B-LOC", "E-LOC", "O"]},
}


@pytest.mark.parametrize("row", NER.values(), ids=NER.keys())
def test_entities_in_every_shape(tmp_path, row):
    sample = load_one(tmp_path, row, "ner").train[0]
    assert sample.messages[-2].text.endswith("我在北京。")
    assert [(entity["text"], entity["label"]) for entity in sample.reference] == [("北京", "LOC")]


def test_bio_columns_of_other_names_are_mapped(tmp_path):
    row = {"chars": list("我在北京。"), "bio_seq": ["O", "O", "B-LOC", "I-LOC", "O"]}
    sample = load_one(tmp_path, row, "ner", columns={"tokens": "chars", "tags": "bio_seq"}).train[0]
    assert sample.messages[-2].text.endswith("我在北京。")
    assert [(entity["text"], entity["label"]) for entity in sample.reference] == [("北京", "LOC")]
    with pytest.raises(DataError) as caught:
        load_one(tmp_path, row, "ner")
    assert str(caught.value).splitlines()[1:] == [
        "  columns of the file: chars, bio_seq",
        "  entities: lacks text, entities",
        "  bio: lacks tokens, tags",
        "  this would make it fit: data.columns: {tokens: chars, tags: bio_seq}",
    ]
    with pytest.raises(DataError) as caught:
        load_one(tmp_path, {"chars": row["chars"]}, "ner")
    needs = "entities needs text and entities, bio needs tokens and tags"
    assert str(caught.value).splitlines()[-1] == f"  no choice of these columns would make it fit: {needs}"


def test_bio_tags_of_words_that_are_written_apart(tmp_path):
    (tmp_path / "rows.conll").write_text("Angela B-PER\nMerkel I-PER\nvisits O\nNew B-LOC\nYork I-LOC\n. O\n\nYes O\n", encoding="utf-8")
    samples = load(tmp_path / "rows.conll", "ner")
    assert [sample.messages[-2].text for sample in samples.train] == ["Angela Merkel visits New York.", "Yes"]
    assert [entity["text"] for entity in samples.train[0].reference] == ["Angela Merkel", "New York"]
    assert [sample.origin for sample in samples.train] == ["rows.conll:1", "rows.conll:8"]


def test_tokens_without_tags_are_listed_and_not_lost(tmp_path):
    (tmp_path / "rows.conll").write_text("Yes O\n\nBerlin\n\nin O\nRome\n", encoding="utf-8")
    samples = load(tmp_path / "rows.conll", "ner", allow_dropped=1.0)
    assert [sample.origin for sample in samples.train] == ["rows.conll:1"]
    assert samples.report.n_read == 3
    (told,) = samples.report.rejected_examples.values()
    assert [line.split(": ")[0] for line in told] == ["rows.conll:3", "rows.conll:5"]


def test_offsets_that_do_not_match_reject_the_row(tmp_path):
    good = {"text": "我在北京。", "entities": [ENTITY]}
    rows = [
        good,
        {"text": "他在北京。", "entities": [{**ENTITY, "start_idx": 1, "end_idx": 3}]},
        {"text": "在", "entities": [[0, 9, "LOC"]]},
    ]
    samples = load(write(tmp_path / "rows.jsonl", rows), "ner", allow_dropped=1.0)
    assert samples.report.rejected_examples == {
        "entity offsets do not match the text": (
            "rows.jsonl:2: entity offsets do not match the text: `在北` stands at 1 to 3, not `北京`",
        ),
        "entity offsets lie outside the text": ("rows.jsonl:3: entity offsets lie outside the text: 0 to 9 of 1 characters",),
    }


SPAN = "COCO Yes: <|vision_start|>photos/a.png<|vision_end|>"
IMAGE_ROWS = {
    "columns": ({"image": "photos/a.png", "text": "x^2"}, ""),
    "image_path": ({"image_path": "photos/a.png", "latex": "x^2"}, ""),
    "value is the path": ({"conversations": [{"role": "user", "value": "photos/a.png"}, {"role": "assistant", "value": "x^2"}]}, ""),
    "value holds a span": ({"conversations": [{"from": "user", "value": SPAN}, {"from": "assistant", "value": "x^2"}]}, "COCO Yes: "),
    "image part": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "photos/a.png"}, {"type": "text", "text": "Read"}]},
                {"role": "assistant", "content": "x^2"},
            ]
        },
        "Read",
    ),
    "image_url part": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "photos/a.png"}}, {"type": "text", "text": "Read"}],
                },
                {"role": "assistant", "content": "x^2"},
            ]
        },
        "Read",
    ),
    "images column": (
        {
            "messages": [{"role": "user", "content": "<image>Read"}, {"role": "assistant", "content": "x^2"}],
            "images": ["photos/a.png"],
        },
        "Read",
    ),
}


ASKED = [{"role": "user", "content": "<image>Read"}, {"role": "assistant", "content": "x^2"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": ASKED, "image": "photos/a.png"}, ["Read"]),
        ({"prompt": "Read", "completion": "x^2", "image": "photos/a.png"}, ["Read"]),
        ({"question": "Read", "answer": "x^2", "images": ["photos/a.png"]}, ["Read"]),
        ({"instruction": "Read", "input": "", "output": "x^2", "image": "photos/a.png"}, ["Read"]),
        (
            {"instruction": "Read", "output": "x^2", "images": ["photos/a.png"], "history": [["<image>See?", "yes"]], "system": "S"},
            ["S", "See?", "yes", "Read"],
        ),
    ],
    ids=["messages", "prompt", "question", "alpaca", "history"],
)
def test_conversations_keep_their_image_and_their_turns(tmp_path, photo, row, said):
    sample = load_one(tmp_path, row, "chat").train[0]
    assert [text for _, text in turns(sample)] == [*said, "x^2"]
    assert [part.image for message in sample.messages for part in message.parts if part.image] == [photo]


def test_an_image_column_of_texts_to_be_sorted_may_hold_anything(tmp_path):
    sample = load_one(
        tmp_path, {"prompt": "t", "completion": "a", "image": "https://x.cn/1"}, "classification", task={"labels": ["a", "b"]}
    ).train[0]
    assert sample.reference == "a"


def test_a_conversation_that_marks_an_image_and_has_none_is_rejected(tmp_path):
    spoken_of = [{"role": "user", "content": "what does <image> mean?"}, ASKED[1]]
    path = write(tmp_path / "rows.jsonl", [{"messages": ASKED}, {"messages": spoken_of}])
    samples = load(path, "chat", allow_dropped=0.5)
    assert [turns(sample)[0][1] for sample in samples.train] == ["what does <image> mean?"]
    assert samples.report.rejected == {"the conversation marks an image (<image>) and has none": 1}


def test_a_column_of_system_messages_stands_before_the_turns(tmp_path):
    row = {"messages": [{"role": "user", "content": "q"}, ASKED[1]], "system": "S"}
    assert turns(load_one(tmp_path, row, "chat").train[0]) == [("system", "S"), ("user", "q"), ("assistant", "x^2")]


def test_a_question_that_ends_in_a_file_name_is_a_question(tmp_path):
    row = {"messages": [{"role": "user", "content": "How do I crop photo.jpg"}, {"role": "assistant", "content": "so"}]}
    assert turns(load_one(tmp_path, row, "chat").train[0])[0] == ("user", "How do I crop photo.jpg")


def test_reasoning_stands_before_the_answer_and_calls_of_tools_are_rejected(tmp_path):
    ask = {"role": "user", "content": "q"}
    rows = [
        {"messages": [ask, {"role": "assistant", "content": "a", "reasoning_content": "why"}]},
        {"messages": [ask, {"role": "assistant", "content": "let me look", "tool_calls": [{"id": "1"}]}]},
    ]
    samples = load(write(tmp_path / "rows.jsonl", rows), "chat", allow_dropped=0.5)
    assert [turns(sample)[-1][1] for sample in samples.train] == ["<think>\nwhy\n</think>\n\na"]
    assert samples.report.rejected == {"a turn calls a tool, which cannot be trained": 1}


@pytest.mark.parametrize(("row", "said"), IMAGE_ROWS.values(), ids=IMAGE_ROWS.keys())
def test_images_in_every_form(tmp_path, photo, row, said):
    sample = load_one(tmp_path, row, "chat" if "messages" in row or "conversations" in row else "ocr").train[0]
    user = sample.messages[-2]
    assert [part.image for part in user.parts if part.kind == "image"] == [photo]
    assert user.text == said or "columns" in row or "image" in row or "image_path" in row
    assert sample.reference == "x^2"
    assert load_one(tmp_path, row, "ocr").train[0].reference == "x^2"


def test_images_held_in_the_row(tmp_path, photo, monkeypatch):
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    address = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
    sample = load_one(tmp_path, {"image": address, "text": "x"}, "ocr").train[0]
    kept = next(part.image for part in sample.messages[-2].parts if part.image)
    assert kept.read_bytes() == photo.read_bytes()
    assert kept.parent == tmp_path / "cache" / "images"


@pytest.mark.usefixtures("photo")
def test_several_captions_of_an_image(tmp_path):
    for row in (
        {"image": "photos/a.png", "captions": ["a dog", "a brown dog"]},
        {"conversations": [{"from": "user", "value": SPAN}, {"from": "assistant", "value": "a dog&&a brown dog"}]},
        {"image_path": "photos/a.png", "caption": "a dog&&a brown dog"},
    ):
        assert load_one(tmp_path, row, "caption").train[0].reference == ["a dog", "a brown dog"]
    mapped = {"image": "photos/a.png", "words": "A man, a plan&&Second, one"}
    sample = load_one(tmp_path, mapped, "caption", columns={"image": "image", "captions": "words"}).train[0]
    assert sample.reference == ["A man, a plan", "Second, one"]


def test_an_image_folder_with_its_table(photo):
    (photo.parent / "metadata.csv").write_text("file_name,text\na.png,x^2\n", encoding="utf-8")
    assert load(photo.parent, "ocr").train[0].reference == "x^2"
    (photo.parent / "metadata.csv").unlink()
    with pytest.raises(DataError, match=r"the folder holds no table \(1 images\)"):
        load(photo.parent, "ocr")


@pytest.mark.usefixtures("photo")
def test_a_missing_image_names_the_nearest(tmp_path):
    with pytest.raises(Problems) as caught:
        load_one(tmp_path, {"image": "photos/A1.png", "text": "x"}, "ocr")
    assert "rows.jsonl:1: the image file is missing: photos/A1.png" in str(caught.value)
    assert "did you mean a.png?" in str(caught.value)


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "the conversation is empty"),
        (
            [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "yes"}],
            "rows.jsonl:1, message 0: the assistant speaks first",
        ),
        ([{"role": "user", "content": "hi"}, {"role": "user", "content": "yes"}], "the user speaks twice in a row"),
        ([{"role": "user", "content": "hi"}], "the conversation does not end with the assistant's answer"),
        ([{"role": "robot", "content": "hi"}], "unknown role in a turn: 'robot'"),
        ([{"role": "user", "content": 3}], "a turn's content is neither text nor a list of parts: int"),
        (["hi"], "a turn is not an object with role and content"),
    ],
)
def test_conversations_that_are_none(tmp_path, conversation, message):
    rows = [CHATS["messages"], CHATS["messages"], {"messages": conversation}]
    samples = load(write(tmp_path / "rows.jsonl", rows), "chat", allow_dropped=0.5)
    shown = [line for lines in samples.report.rejected_examples.values() for line in lines]
    assert len(shown) == 1
    assert message.split(", message 0: ")[-1] in shown[0]


def test_no_shape_fits_and_the_line_that_makes_it_fit(tmp_path):
    path = write(
        tmp_path / "rows.jsonl",
        [{"body_of_mail": "a long mail " * 5, "kind_of_mail": "spam"}, {"body_of_mail": "b" * 30, "kind_of_mail": "ham"}],
    )
    with pytest.raises(DataError) as caught:
        load(path, "classification")
    assert str(caught.value).splitlines() == [
        f"{path}: the rows fit no shape that classification can use",
        "  columns of the file: body_of_mail, kind_of_mail",
        "  labelled-text: lacks text, label",
        "  multi-label-text: lacks text, labels",
        "  alpaca: lacks instruction, answer",
        "  prompt-completion: lacks text, answer",
        "  messages: lacks messages",
        "  sharegpt: lacks messages",
        "  this would make it fit: data.columns: {text: body_of_mail, label: kind_of_mail}",
    ]
    samples = load(path, "classification", columns={"text": "body_of_mail", "label": "kind_of_mail"})
    assert [sample.reference for sample in samples.train] == ["spam", "ham"]


def test_a_mapped_column_that_is_not_there(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"body": "x", "topic": "y"}])
    with pytest.raises(DataError) as caught:
        load(path, "classification", columns={"text": "boddy", "label": "topic"})
    assert str(caught.value).splitlines() == [
        f"{path}: there is no column `boddy`, which data.columns names for text",
        "  columns of the file: body, topic",
        "  data.columns: {text: body}",
    ]


def test_a_named_shape_is_the_only_one_tried(tmp_path):
    row = {"messages": CHATS["messages"]["messages"], "prompt": "p", "completion": "c"}
    assert turns(load_one(tmp_path, row, "chat", shape="prompt-completion").train[0]) == [("user", "p"), ("assistant", "c")]
    with pytest.raises(DataError, match=r"unknown shape `mesages`\n  did you mean messages\?"):
        load_one(tmp_path, row, "chat", shape="mesages")


def test_rows_without_an_answer(tmp_path):
    rows = [
        {"instruction": "hi", "output": "hello"},
        {"instruction": "you", "output": None},
        {"instruction": "me"},
        {"instruction": "he", "output": ""},
    ]
    samples = load(write(tmp_path / "rows.jsonl", rows), "chat", allow_dropped=1.0)
    assert samples.report.n_kept == 1
    assert sum(samples.report.rejected.values()) == 3
    assert samples.report.rejected["there is no answer: column `output` is missing or null"] == 2


def test_a_file_to_be_answered_needs_no_answers_and_lists_its_bad_rows(tmp_path):
    path = write(tmp_path / "new.jsonl", [{"id": "a", "text": "good"}, {"id": "a", "text": "bad"}, {"id": "b", "text": ""}, {"id": "c"}])
    section = Data.model_validate({"train": {"path": "unused.jsonl"}})
    task = task_of("classification")
    rows = load_file(path, section, task, candidates=("x", "y"), with_answers=False)
    assert [(sample.id, sample.has_answer, sample.candidates) for sample in rows] == [("a", False, ("x", "y")), ("a#2", False, ("x", "y"))]
    assert rows.rejected == (
        ("new.jsonl:3", "the text is empty"),
        ("new.jsonl:4", "there is no text: column `text` is missing or null"),
    )
    assert rows.n_read == 4
    with pytest.raises(DataError, match="the rows fit no shape that classification can use"):
        load_file(path, section, task, candidates=("x", "y"))


def test_a_file_to_be_scored_tells_what_it_leaves_out_and_is_held_to_the_share(tmp_path, caplog):
    rows = [{"text": f"停水第{i}天", "label": "ab"[i % 2]} for i in range(8)]
    path = write(tmp_path / "new.jsonl", [*rows, {"text": "", "label": "a"}, {"text": "x"}])
    section = Data.model_validate({"train": {"path": "unused.jsonl"}, "allow_dropped": 0.2})
    with caplog.at_level(logging.WARNING, "weitiao"):
        assert len(load_file(path, section, task_of("classification"), candidates=("a", "b"))) == 8
    assert caplog.messages == [
        f"{path}: 2 of 10 rows cannot be used and are not scored: the text is empty (1 row: new.jsonl:9); "
        "there is no label: column `label` is missing or null (1 row: new.jsonl:10)"
    ]
    with pytest.raises(Problems) as caught:
        load_file(path, section.model_copy(update={"allow_dropped": 0.1}), task_of("classification"), candidates=("a", "b"))
    assert str(caught.value).splitlines()[0] == (
        "2 of 10 rows cannot be used (20.0%); 10.0% may be left out. Mend them, or allow it: data.allow_dropped: 0.2"
    )


def test_a_broken_image_rejects_its_row_of_a_file_to_be_scored(tmp_path, photo):
    (photo.parent / "b.png").write_bytes(photo.read_bytes()[:60])
    path = write(tmp_path / "new.jsonl", [{"image": f"photos/{name}.png", "text": "x^2"} for name in "bab"])
    section = Data.model_validate({"train": {"path": "unused.jsonl"}, "allow_dropped": 0.7})
    rows = load_file(path, section, task_of("ocr"))
    assert [sample.origin for sample in rows] == ["new.jsonl:2"]
    assert [origin for origin, _reason in rows.rejected] == ["new.jsonl:1", "new.jsonl:3"]
    assert rows.n_read == 3


def test_ids_are_the_rows_own_or_made_of_their_content(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"id": 7, "text": "a"}, {"id": 7, "text": "b"}, {"text": "c"}, {"text": "c"}])
    ids = [sample.id for sample in load(path).train]
    assert ids[:2] == ["7", "7#2"]
    assert len(ids[2]) == 16
    assert ids[3] == f"{ids[2]}#2"


def test_a_row_that_no_label_fits_is_answered_by_no_label(tmp_path):
    made = [{"text": f"停水第{i}天", "labels": [] if i % 2 else ["water"]} for i in range(8)]
    task = make_task(Classification(kind="classification", labels=["water", "noise"], multi_label=True))
    source = Source(path=str(write(tmp_path / "rows.jsonl", made)))
    samples = load_samples(Data(train=source, split={"valid": 0, "test": 0}), task, 1)
    assert len(samples.train) == 8
    assert all(sample.has_answer for sample in samples.train)
    assert sorted(str(sample.reference) for sample in samples.train) == ["['water']"] * 4 + ["[]"] * 4
