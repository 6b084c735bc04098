"""Made-up complaints with known answers: names, addresses and e-mails from Faker, complaints from our own tables.

What the fields mean, so that every answer can be told from its text alone:

* ``name``: the writer's full name; other people's names may stand inside the question.
* ``address``: as written, with the postcode where one follows.
* ``email``: as written, full-width characters included; ``""`` where there is none. Of two, the one said to be in use now; where nothing
  is said of that (a spare, a copy), the first.
* ``question``: the complaint as written, from its first word to its last mark, without labels, greetings, thanks, sign-off and junk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faker import Faker

from weitiao.demo import words
from weitiao.demo.subjects_home import HOME
from weitiao.demo.subjects_money import MONEY
from weitiao.demo.subjects_public import PUBLIC
from weitiao.demo.words import Subject

SYSTEM = (
    "将文本中的name、address、email、question提取出来，以json格式输出，字段为name、address、email、question，值为文本中提取出来的内容。"
)

SUBJECTS: tuple[Subject, ...] = (*HOME, *MONEY, *PUBLIC)

MAX_SIMILARITY = 0.7
"""Largest share of common character 3-grams (Jaccard) of two questions."""

MAX_CHARACTERS = 165

FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a complaint's text holds, and the answer to it."""

    name: str
    address: str
    email: str
    """The address that counts, or empty."""
    written_email: str
    """How the text gives it: alone, beside a second one, or not at all."""
    question: str


def make_complaints(n: int = 800, seed: int = 42) -> list[dict[str, str]]:
    """Make complaints, no two questions of which are alike.

    Args:
        n: how many, 1 to 3000.
        seed: the same seed and Faker release give the same rows on every machine.

    Returns:
        Rows with ``id``, ``system``, ``instruction`` (the text), ``input`` (empty) and ``output`` (JSON of the four fields, each standing
        in the text to the letter).

    Raises:
        ValueError: ``n`` is out of bounds.
    """
    if not 1 <= n <= 3000:
        raise ValueError("n must lie between 1 and 3000")
    draw = Random(seed)
    faker = Faker("zh_CN")
    faker.seed_instance(seed)
    seen: dict[str, list[frozenset[str]]] = {subject.name: [] for subject in SUBJECTS}
    rows: list[dict[str, str]] = []
    while len(rows) < n:
        subject = SUBJECTS[len(rows) % len(SUBJECTS)]
        facts = _make_facts(draw, faker, subject)
        text = _make_text(draw, facts)
        grams = _grams(facts.question)
        if len(text) > MAX_CHARACTERS or any(_similarity(grams, other) > MAX_SIMILARITY for other in seen[subject.name]):
            continue
        seen[subject.name].append(grams)
        rows.append(_row(len(rows) + 1, facts, text))
    draw.shuffle(rows)
    return rows


def write_complaints(path: Path, n: int = 800, seed: int = 42) -> None:
    """Write ``make_complaints(n, seed)`` as JSON Lines.

    Args:
        path: written anew when it is there; its folder is made where it is not.
        n: rows, 1 to 3000.
        seed: of everything random.
    """
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in make_complaints(n, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), "utf-8")


def _row(number: int, facts: Facts, text: str) -> dict[str, str]:
    answer = {"name": facts.name, "address": facts.address, "email": facts.email, "question": facts.question}
    return {
        "id": f"complaint-{number:04}",
        "system": SYSTEM,
        "instruction": text,
        "input": "",
        "output": json.dumps(answer, ensure_ascii=False),
    }


def _make_facts(draw: Random, faker: Faker, subject: Subject) -> Facts:
    email, written = _make_email(draw, faker)
    return Facts(faker.name(), _make_address(draw, faker), email, written, _make_question(draw, faker, subject))


def _make_address(draw: Random, faker: Faker) -> str:
    street, postcode = faker.address().rsplit(" ", 1)
    if draw.random() < 0.25:
        street += f"{draw.randint(1, 9)}单元{draw.randint(1, 28)}0{draw.randint(1, 4)}室"
    if draw.random() < 0.08:
        postcode = postcode.translate(FULL_WIDTH)
    return draw.choices([f"{street} {postcode}", f"{street}{postcode}", street], [70, 12, 18])[0]


def _make_email(draw: Random, faker: Faker) -> tuple[str, str]:
    """An e-mail address and how it is written; both empty for one complaint in eight."""
    first, second = _one_email(draw, faker), _one_email(draw, faker)
    kind = draw.choices(["one", "none", "two", "full-width"], [69, 12, 14, 5])[0]
    if kind == "none":
        return "", ""
    if kind == "two":
        frame, which = draw.choice(words.TWO_MAILS)
        return (first, second)[which], frame.format(first=first, second=second)
    if kind == "full-width":
        wide = draw.choice([first.replace("@", "＠"), first.translate(FULL_WIDTH)])
        return wide, wide
    return first, first


def _one_email(draw: Random, faker: Faker) -> str:
    user = faker.user_name()
    if draw.random() < 0.3:
        user += draw.choice(["_", "."]) + str(draw.randint(1, 2030))
    if draw.random() < 0.1:
        user = user.capitalize()
    return f"{user}@{draw.choice(['', '', 'mail.', 'corp.'])}example.{draw.choice(['com', 'org', 'net', 'cn'])}"


def _make_question(draw: Random, faker: Faker, subject: Subject) -> str:
    register = draw.choices(tuple(words.REGISTERS), [22, 20, 16, 12, 14, 16])[0]
    event, detail, ask = (_fill(draw, draw.choice(clauses)) for clauses in (subject.events, subject.details, subject.asks))
    if draw.random() < 0.15:
        witness = draw.choice(words.WITNESSES).format(person=faker.name())
        detail = f"{detail}，{witness}"
    aside, aside2 = draw.sample(words.ASIDES, 2)
    question = draw.choice(words.REGISTERS[register]).format(
        subject=subject.name,
        event=event,
        detail=detail,
        ask=ask,
        aside=aside,
        aside2=aside2,
        rage=draw.choice(words.RAGES),
        tail=draw.choice(words.TAILS),
    )
    if draw.random() < 0.06:
        head, mark, tail = question.partition("，")
        question = f"{head}{mark}\n{tail}" if tail else question
    return question


def _fill(draw: Random, clause: str) -> str:
    return clause.format(
        days=draw.choice(words.DAYS),
        hour=draw.choice(words.HOURS),
        times=draw.choice(words.TIMES),
        money=f"{draw.randint(3, 999) * draw.choice([1, 1, 10])}{draw.choice(['元', '块', '块钱'])}",
        block=f"{draw.randint(1, 30)}{draw.choice(['号楼', '栋', '幢', '单元'])}",
        n=str(draw.randint(2, 99)),
    )


def _make_text(draw: Random, facts: Facts) -> str:
    layout: Callable[[Random, Facts], str] = draw.choices([_as_fields, _as_letter, _as_one_word], [52, 40, 8])[0]
    text = layout(draw, facts)
    if draw.random() < 0.18:
        text += draw.choice(words.JUNK).format(number=draw.randint(1000, 99999))
    return text


def _as_fields(draw: Random, facts: Facts) -> str:
    """The four fields in some order, with or without labels; the question stands first or last."""
    labels = draw.choice(words.LABELS)
    named = [labels[0] + facts.name, labels[1] + facts.address]
    if facts.written_email:
        named.append(labels[2] + facts.written_email)
    if draw.random() < 0.35:
        draw.shuffle(named)
    question = labels[3] + facts.question
    separator = draw.choice(words.SEPARATORS)
    if draw.random() < 0.2:
        # Without a mark of its own at the end, only a line break says where the question ends.
        return separator.join([f"{question}\n{named[0]}", *named[1:]])
    return separator.join([*named, question])


def _as_letter(draw: Random, facts: Facts) -> str:
    mail = draw.choice(words.MAILS).format(email=facts.written_email) if facts.written_email else ""
    frame = draw.choice(words.SENTENCES)
    question = facts.question
    if not question.endswith(("。", "！", "？", "~")) and "{question}\n" not in frame and not frame.endswith("{question}"):
        frame = words.SENTENCES[0]
    return frame.format(name=facts.name, address=facts.address, mail=mail, question=question)


def _as_one_word(_draw: Random, facts: Facts) -> str:
    """Everything in one breath, without any mark in between."""
    return f"{facts.name}{facts.address}{facts.written_email}{facts.question}"


def _grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 3] for i in range(max(1, len(text) - 2)))


def _similarity(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)
