"""ocr, caption, chat and text: prompts, answers, row checks."""

import json
import math
from pathlib import Path

import pytest

from weitiao.errors import RecipeError, RowError
from weitiao.recipe import load_recipe
from weitiao.recipe.tasks import Caption, Conversation, Ocr, Text
from weitiao.seams import Answer, Message, Part, Record, Task, text_message
from weitiao.tasks import make_task
from weitiao.tasks.table import TASKS

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
PICTURE = Path("a.png")
OCR = make_task(Ocr(kind="ocr"))
CAPTION = make_task(Caption(kind="caption"))
CHAT = make_task(Conversation(kind="chat"))
TEXT = make_task(Text(kind="text"))


def said(text, **more):
    return Answer(text, 1, 1, "stop", **more)


def codes(task, record):
    return [(problem.code, problem.severity) for problem in task.check_record(record)]


def file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_every_kind_of_work_has_a_task_with_all_that_the_protocol_names():
    assert set(TASKS) == {"caption", "chat", "classification", "extraction", "ner", "ocr", "text"}
    wanted = {name for name in [*Task.__annotations__, *vars(Task)] if not name.startswith("_")}
    for task in (OCR, CAPTION, CHAT, TEXT):
        assert wanted <= set(dir(task))


# ---- ocr --------------------------------------------------------------------------------------------------------------


def test_the_ocr_prompt_is_that_of_s1_to_the_letter_after_the_picture():
    sample = OCR.make_sample(Record("f:1", "1", images=(PICTURE,), answer=r"x^2 \label{a}"))
    prompt = "你是一个LaText OCR助手,目标是读取用户输入的照片，转换成LaTex公式。"
    assert sample.messages == (Message("user", (Part("image", image=PICTURE), Part("text", prompt))), text_message("assistant", "x^2"))
    assert sample.reference == "x^2"


@pytest.mark.parametrize(
    ("latex", "found"),
    [
        ("x^2", []),
        (r"\{{D}\} 5\%", []),
        (r"x \label{eq:1}", [("latex-label", "warning")]),
        ("x % more", [("latex-comment", "warning")]),
        ("$x$", []),
        (r"\mbox{$x$}", [("latex-dollar", "note")]),
        ("$$", [("empty-answer", "error")]),
        (r"\label{a}", [("latex-label", "warning"), ("empty-answer", "error")]),
        ("", [("empty-answer", "error"), ("empty-answer", "error")]),
    ],
)
def test_latex_row_checks(latex, found):
    assert codes(OCR, Record("f:1", "1", images=(PICTURE,), answer=latex)) == found


def test_a_row_without_an_image_is_refused():
    for task in (OCR, CAPTION):
        assert codes(task, Record("f:1", "1", answer="x")) == [("no-image", "error")]


def test_latex_oddities_of_the_real_file_are_counted():
    found = [
        problem.code for row in file("latex_im2latex_images/dev.jsonl")
        for problem in OCR.check_record(Record("", "", images=(PICTURE,), answer=row["latex"]))
    ]  # fmt: skip
    assert {code: found.count(code) for code in set(found)} == {"latex-label": 465, "latex-comment": 33, "latex-dollar": 12}


def test_ocr_answers_lose_a_code_fence():
    prediction = OCR.parse(said("```latex\nx^2\n```"), OCR.make_sample(Record("f:1", "1", images=(PICTURE,), answer="x^2")))
    assert (prediction.value, prediction.is_valid, prediction.forgiven) == ("x^2", True, ("code fence",))
    assert OCR.lower_is_better == {"cer"}


# ---- caption ----------------------------------------------------------------------------------------------------------


def test_captions_are_joined_after_the_prompt_of_s4():
    sample = CAPTION.make_sample(Record("f:1", "1", images=(PICTURE,), captions=(" A cat. ", "A\ncat sits.")))
    assert sample.messages[0] == Message("user", (Part("image", image=PICTURE), Part("text", "COCO Yes:")))
    assert sample.messages[1] == text_message("assistant", "A cat.&&A cat sits.")
    assert sample.reference == ["A cat.", "A cat sits."]
    assert CAPTION.make_sample(Record("f:1", "1", images=(PICTURE,), answer="A cat.&&A cat sits.")) == sample


def test_the_first_caption_of_an_answer_counts():
    sample = CAPTION.make_sample(Record("f:1", "1", images=(PICTURE,), captions=("a cat",)))
    prediction = CAPTION.parse(said("a cat && a dog"), sample)
    assert prediction.value == ["a cat"]
    assert CAPTION.row_scores(prediction, sample) == {"rouge_l": 1.0}
    assert CAPTION.parse(said(" "), sample).is_valid is False


def test_cider_knows_the_whole_set_of_rows():
    said_and_true = [("a cat sits on the mat", "a cat sits on the mat"), ("a dog", "two dogs run in the park")]
    photos = (Path("a.png"), Path("b.png"))
    samples = [
        CAPTION.make_sample(Record("f", str(i), images=(photo,), captions=(true,)))
        for i, (photo, (_, true)) in enumerate(zip(photos, said_and_true, strict=True))
    ]
    scorer = CAPTION.for_rows(samples)
    rows = [
        scorer.counts(scorer.parse(said(text), sample), said(text), sample)
        for (text, _), sample in zip(said_and_true, samples, strict=True)
    ]
    assert rows[0]["cider"] == pytest.approx(10.0)
    assert rows[1]["cider"] < 1


def test_caption_row_checks():
    assert codes(CAPTION, Record("f:1", "1", images=(PICTURE,), captions=("a ", "b"))) == [("untidy-caption", "note")]
    assert codes(CAPTION, Record("f:1", "1", images=(PICTURE,), captions=("a", " "))) == [("empty-answer", "error")]
    assert codes(CAPTION, Record("f:1", "1", images=(PICTURE,))) == []


def test_untidy_captions_of_the_real_file_are_found():
    rows = [Record("", "", images=(PICTURE,), captions=tuple(row["captions"])) for row in file("caption_coco/dev.jsonl")]
    assert sum(codes(CAPTION, row) == [("untidy-caption", "note")] for row in rows) == 33


# ---- chat -------------------------------------------------------------------------------------------------------------


def turns(*roles_and_texts):
    return tuple(text_message(role, text) for role, text in roles_and_texts)


TALK = turns(("user", "hi"), ("assistant", "hello"), ("user", "who?"), ("assistant", "me"))


def test_a_conversation_stays_as_it_is_and_its_last_question_may_be_shortened():
    sample = CHAT.make_sample(Record("f:1", "1", messages=TALK))
    assert [(message.role, message.text) for message in sample.messages] == [(message.role, message.text) for message in TALK]
    assert [part.shortenable for message in sample.messages for part in message.parts] == [False, False, True, False]
    assert (sample.reference, [message.text for message in sample.prompt]) == ("me", ["hi", "hello", "who?"])


@pytest.mark.parametrize(
    ("of_recipe", "own", "wanted"), [(None, (), None), ("", (), ""), (None, (("system", "own"),), "own"), ("R", (("system", "own"),), "R")]
)
def test_the_system_message_of_a_conversation(of_recipe, own, wanted):
    task = make_task(Conversation(kind="chat"), of_recipe)
    first = task.make_sample(Record("f:1", "1", messages=turns(*own) + TALK)).messages[0]
    assert (first.text if first.role == "system" else None) == wanted


def test_alpaca_rows_are_a_question_and_an_answer():
    sample = CHAT.make_sample(Record("f:1", "1", instruction="Translate.", text="你好", answer="hello"))
    assert [(message.role, message.text) for message in sample.messages] == [("user", "Translate.\n你好"), ("assistant", "hello")]
    alone = CHAT.make_sample(Record("f:1", "1", instruction="Say hello.", answer="hello"))
    assert alone.messages[0].text == "Say hello."


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        (TALK, []),
        (TALK[:3], []),
        (TALK[1:], [("turns-out-of-order", "error")]),
        ((*TALK[:2], *TALK[:2], TALK[1]), [("turns-out-of-order", "error")]),
        ((*TALK[:2], text_message("system", "s"), *TALK[2:]), [("turns-out-of-order", "error")]),
        ((*TALK[:3], text_message("assistant", " ")), [("empty-turn", "error")]),
        ((*TALK[:3], text_message("assistant", "I am {{name}}")), [("placeholder", "warning")]),
    ],
)
def test_conversation_checks(messages, found):
    assert codes(CHAT, Record("f:1", "1", messages=messages)) == found


def test_a_conversation_out_of_order_says_where():
    with pytest.raises(RowError, match=r"two turns of the user follow each other \(turn 2\)"):
        CHAT.make_sample(Record("f:1", "1", messages=turns(("user", "a"), ("user", "b"), ("assistant", "c"))))


def test_placeholders_of_the_real_file_are_counted():
    rows = [Record("", "", instruction=row["instruction"], text=row["input"], answer=row["output"]) for row in file("chat/identity.json")]
    assert (len(rows), sum(codes(CHAT, row) == [("placeholder", "warning")] for row in rows)) == (91, 85)


def test_perplexity_is_per_token_over_all_rows():
    import numpy as np

    sample = CHAT.make_sample(Record("f:1", "1", text="hi", answer="hello"))
    answers = [said("hello", nll=1.0, n_scored_tokens=1), said("no", nll=9.0, n_scored_tokens=3), said("no")]
    rows = [CHAT.counts(CHAT.parse(answer, sample), answer, sample) for answer in answers]
    values = CHAT.metrics({name: np.array(sum(row[name] for row in rows)) for name in rows[0]})
    assert values["perplexity"] == pytest.approx(math.exp(10 / 4))
    assert values["rouge_l"] == pytest.approx(1 / 3)
    nothing = CHAT.counts(CHAT.parse(said("x"), sample), said("x"), sample)
    assert np.isnan(CHAT.metrics({name: np.array(value) for name, value in nothing.items()})["perplexity"])


def test_the_published_recipe_has_an_empty_system_message_where_rows_have_none():
    recipe = load_recipe(Path(__file__).resolve().parents[2] / "recipes" / "capybara-chat.yaml")
    task = make_task(recipe.task, recipe.data.system)
    sample = task.make_sample(Record("f:1", "1", messages=TALK[:2]))
    assert [(message.role, message.text) for message in sample.messages] == [("system", ""), ("user", "hi"), ("assistant", "hello")]
    assert (task.questions[0].messages[0].role, task.questions[0].messages[0].text) == ("system", "")


# ---- text -------------------------------------------------------------------------------------------------------------


def test_a_document_is_one_assistant_message():
    sample = TEXT.make_sample(Record("f:1", "1", text="Capybara 是"))
    assert sample.messages == (Message("assistant", (Part("text", "Capybara 是", shortenable=True),)),)
    assert (TEXT.answer_mode, sample.prompt) == ("likelihood", ())


def test_beginnings_are_continued_as_documents():
    (question,) = make_task(Text(kind="text", questions=["Capybara 翻译软件的主要特性:"])).questions
    assert question.prompt == (text_message("assistant", "Capybara 翻译软件的主要特性:"),)


def test_a_document_is_scored_by_its_likelihood():
    sample = TEXT.make_sample(Record("f:1", "1", text="abc"))
    prediction = TEXT.parse(said("", nll=6.0, n_scored_tokens=3), sample)
    assert prediction.value == {"perplexity": pytest.approx(math.exp(2))}
    assert TEXT.row_scores(prediction, sample) == {"token_probability": pytest.approx(math.exp(-2))}
    assert TEXT.row_scores(TEXT.parse(said(""), sample), sample) == {"token_probability": 0.0}


@pytest.mark.parametrize(
    ("section", "system", "where"),
    [
        (Text(kind="text", prompt="{text}"), None, "task.prompt"),
        (Text(kind="text"), "S", "data.system"),
        (Conversation(kind="chat", prompt="Question: {text}"), None, "task.prompt"),
    ],
)
def test_settings_without_effect_on_documents_and_conversations_are_errors(section, system, where):
    with pytest.raises(RecipeError) as caught:
        make_task(section, system)
    assert caught.value.where == where
