"""Pieces of the report: wording of figures, marked differences, scales."""

import pytest
from markupsafe import Markup

from weitiao.recipe.tasks import Caption, Classification, Conversation, Extraction, Ner, Ocr, TaskSection, Text
from weitiao.report import svg
from weitiao.report.curves import running_mean
from weitiao.report.dataset import describe_data
from weitiao.report.differences import compare_values, mark
from weitiao.report.formulas import draw
from weitiao.report.wording import LOWER_IS_BETTER, MAIN_METRIC, difference, duration, figure, number, size, span
from weitiao.tasks import make_task


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.9375, "93.8 %"),
        ("accuracy", 1.0, "100.0 %"),
        ("cer", 1.25, "125.0 %"),
        ("perplexity", 3.14159, "3.142"),
        ("perplexity", 12345.6, "12,346"),
        ("cider", 0.0, "0"),
        ("accuracy", None, "–"),
        ("accuracy", float("nan"), "–"),
    ],
)
def test_figures(name: str, value: float | None, text: str) -> None:
    assert figure(name, value) == text


@pytest.mark.parametrize(
    "section",
    [
        Extraction(kind="extraction", fields=["name"]),
        Classification(kind="classification"),
        Ner(kind="ner"),
        Ocr(kind="ocr"),
        Caption(kind="caption"),
        Conversation(kind="chat"),
        Text(kind="text"),
    ],
    ids=lambda section: section.kind,
)
def test_the_main_metric_is_the_one_that_the_task_selects_by(section: TaskSection) -> None:
    task = make_task(section)
    assert MAIN_METRIC[task.kind] == task.default_metric
    assert task.lower_is_better <= LOWER_IS_BETTER


def test_differences_have_a_sign_and_a_unit() -> None:
    assert difference("accuracy", 0.353) == "+35.3 points"
    assert difference("accuracy", -0.01) == "−1.0 points"
    assert difference("perplexity", -18.3) == "−18.3"
    assert span("accuracy", -0.0212, 0.04, signed=True) == "−2.1 to +4.0"
    assert span("accuracy", -0.00001, 0.04) == "0.0 to 4.0"


def test_units() -> None:
    assert [duration(seconds) for seconds in (1.234, 59.99, 532, 3600, 7325)] == [
        "1.23 s",
        "60 s",
        "8 min 52 s",
        "1 h 00 min",
        "2 h 02 min",
    ]
    assert [size(n) for n in (1_500_000, 3_210_000_000)] == ["1.5 MB", "3.21 GB"]
    assert [number(value) for value in (0.0001, 1e-5, 1234.5, 3, 0.12345)] == ["1.00e-04", "1.00e-05", "1,234", "3", "0.1235"]


def test_difference_is_marked_sign_by_sign() -> None:
    assert mark("科苑路15号", "科苑路15楼") == Markup("科苑路15<del>号</del><ins>楼</ins>")
    assert mark("a b", "a b c") == Markup("a b<ins> c</ins>")
    assert mark("same", "same") == Markup('<span class="same">same</span>')
    assert mark("电梯坏了", "<b>no</b>") == Markup('<span class="other">&lt;b&gt;no&lt;/b&gt;</span>')


def test_very_long_answers_are_compared_in_their_beginning_only() -> None:
    shown = mark("x " * 5000, "x " * 2500 + "y")
    assert "<del>" not in shown
    assert len(shown) < 7000


def test_entities_are_right_surplus_or_missed() -> None:
    wanted = [{"start": 0, "end": 2, "text": "李强", "label": "person"}, {"start": 5, "end": 7, "text": "北京", "label": "place"}]
    found = [wanted[0], {"start": 5, "end": 7, "text": "北京", "label": "person"}]
    ((_, _, base, tuned),) = compare_values(wanted, None, {"prediction": found})
    assert base is None
    assert tuned is not None
    assert tuned.split("</span> ")[:3] == [
        '<span class="chip right">李强 <small>person</small>',
        '<span class="chip surplus">北京 <small>person</small>',
        '<span class="chip missed">北京 <small>place</small>',
    ]


def test_rows_without_entities() -> None:
    ((_, truth, _, tuned),) = compare_values([], None, {"prediction": []})
    assert truth == tuned == Markup('<span class="quiet">none</span>')


def test_answer_that_could_not_be_read_is_shown_as_it_is() -> None:
    lines = list(compare_values({"name": "李强"}, {"prediction": None, "answer": "I can't"}, {"prediction": {"name": "李强"}}))
    assert lines == [("name", Markup("李强"), Markup('<span class="other">I can&#39;t</span>'), Markup('<span class="same">李强</span>'))]


def test_ticks_are_round() -> None:
    assert svg.ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert svg.ticks(0.03, 1.9) == [0.5, 1.0, 1.5]
    assert svg.ticks(5, 5) == [5]


def test_thinning_keeps_peaks_and_order() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[1234] = (1234.0, 99.0)
    points[8000] = (8000.0, -5.0)
    kept = svg.thinned(points)
    assert len(kept) <= svg.MAX_POINTS
    assert kept == sorted(kept)
    assert {(1234.0, 99.0), (8000.0, -5.0)} <= set(kept)


def test_running_mean_does_not_lag() -> None:
    points = [(float(i), float(i)) for i in range(200)]
    assert [value for _, value in running_mean(points)] == pytest.approx([value for _, value in points])


def test_chart_of_a_constant() -> None:
    drawn = svg.line_chart("loss", [svg.Series("loss", [(1.0, 0.0), (2.0, 0.0)], "tuned")], x_title="step")
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_chart_of_a_share_stays_between_0_and_1() -> None:
    for values, ends in (((0.0, 0.0), ("0 %", "100 %")), ((0.97, 1.0), ("97 %", "100 %"))):
        points = list(enumerate(values, 1))
        drawn = svg.line_chart("f1", [svg.Series("f1", points, "tuned")], x_title="step", percent=True)
        assert all(f">{end}<" in drawn for end in ends)
        assert "-" not in "".join(part.partition("<")[0] for part in drawn.split(">"))


def test_statistics_become_drawings() -> None:
    statistics = {
        "labels": {"体育": 3, "财经": 1},
        "by part": {"a": {"train": 2, "valid": 1, "test": 1}, "b": {"train": 3, "valid": 0, "test": 0}},
        "images": {"n": 7, "width": {"edges": [0, 10, 20], "counts": [1, 2]}},
        "nothing": {"edges": [], "counts": []},
        "candidates": ["体育", "财经"],
        "n_images": 1234,
        "longest_row": "a.jsonl:3",
        "empty": {},
    }
    section = describe_data({"statistics": statistics, "n_read": 4, "n_kept": 4, "split": {"train": 4}})
    assert section is not None
    assert [spread.title for spread in section.spreads] == ["labels", "by part", "images: width"]
    assert section.figures == (("n images", "1,234"), ("images", "7"))
    assert "10 to 20: 2" in section.spreads[2].drawing
    assert [part in section.spreads[1].drawing for part in (">4<", ">3<", ">2<")] == [True, True, False]


@pytest.mark.parametrize(
    ("spaced", "close"),
    [("x ^ 2", "x^2"), ("g _ { \\mu \\nu } = 0", "g_{\\mu\\nu}=0"), (r"\sum _ { i = 1 } ^ { n } a _ i", r"\sum_{i=1}^{n}a_i")],
)
def test_blanks_behind_scripts_change_no_picture(spaced: str, close: str) -> None:
    drawn = draw(spaced)
    assert drawn is not None
    assert drawn == draw(close)
    assert drawn != draw(close.replace("^", "").replace("_", ""))
