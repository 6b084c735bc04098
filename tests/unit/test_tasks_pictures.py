"""Scores of captions against the COCO scorers, captions that stand one to a row, and formulas drawn in the report."""

from pathlib import Path

import pytest
from markupsafe import Markup

from weitiao.recipe.tasks import Caption, Ocr
from weitiao.report.formulas import Blackboard, bare, draw
from weitiao.seams import Answer, Record
from weitiao.tasks import make_task

REFERENCES = [
    ["a small red circle above a large blue square", "a large blue square below a small red circle", "there is a red circle"],
    ["a golden disc floats in the dark", "in the dark floats a golden disc", "the night sky with a golden disc"],
    ["two dogs run in the park", "dogs running through a park", "a pair of dogs outside"],
    ["a table with plates and cups", "plates on a table", "a dinner table set for seven people"],
]
SAID = ["a small red circle above a large green square", "in the dark floats a golden box", "a cat sleeps", "a table with plates"]


def said(text):
    return Answer(text, 1, 1, "stop")


def scored(task, samples, answers):
    """The metrics of answers to samples, as ``evaluate`` computes them."""
    whole = task.for_rows(samples)
    rows = [whole.counts(whole.parse(said(text), sample), said(text), sample) for text, sample in zip(answers, samples, strict=True)]
    return {name: float(value) for name, value in whole.metrics({key: sum(row[key] for row in rows) for key in rows[0]}).items()}


def rows_of(captions_of, *, one_each):
    task = make_task(Caption(kind="caption"))
    samples = []
    for i, captions in enumerate(captions_of):
        for said_of in [[caption] for caption in captions] if one_each else [captions]:
            samples.append(task.make_sample(Record("rows", f"{len(samples)}", images=(Path(f"{i}.png"),), captions=tuple(said_of))))
    return task, samples


def test_caption_metrics_equal_pycocoevalcap():
    cider_scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    assert cider_scorer.CiderScorer
    truth, answers = dict(enumerate(REFERENCES)), {i: [text] for i, text in enumerate(SAID)}
    metrics = scored(*rows_of(REFERENCES, one_each=False), SAID)
    assert metrics["cider"] == pytest.approx(Cider().compute_score(truth, answers)[0])
    assert metrics["rouge_l"] == pytest.approx(Rouge().compute_score(truth, answers)[0])
    # pycocoevalcap adds 1e-9 to lengths and counts.
    assert metrics["bleu4"] == pytest.approx(Bleu(4).compute_score(truth, answers, verbose=0)[0][3], rel=1e-5)


def test_captions_one_to_a_row_score_as_joined_ones():
    joined = scored(*rows_of(REFERENCES, one_each=False), SAID)
    apart = scored(*rows_of(REFERENCES, one_each=True), [text for text in SAID for _ in range(3)])
    assert apart == pytest.approx(joined)


def test_a_caption_is_right_where_it_equals_any_caption_of_its_photo():
    task, samples = rows_of(REFERENCES[:2], one_each=True)
    whole = task.for_rows(samples)
    answer = said(REFERENCES[0][1])
    assert whole.row_scores(whole.parse(answer, samples[0]), samples[0])["rouge_l"] == 1.0


# ---- the rule of LaTeX, as scores see it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "exact"),
    [
        (r"\frac{a}{b}+\left(x\right)", 1.0),
        (r"$ \frac { a } { b } + \left ( x \right ) $", 1.0),
        (r"\[\frac{a}{b}+\left(x\right)\label{eq:1}\]", 1.0),
        ("```latex\n\\frac{a}{b}+\\left(x\\right)\n```", 1.0),
        (r"\frac{a}{b}+(x)", 0.0),
        (r"\frac ab+\left(x\right)", 0.0),
    ],
)
def test_exact_match_is_that_of_the_documented_rule(answer, exact):
    task = make_task(Ocr(kind="ocr"))
    sample = task.make_sample(Record("rows", "1", images=(Path("a.png"),), answer=r"\frac{a}{b}+\left(x\right)"))
    metrics = scored(task, [sample], [answer])
    assert metrics["exact_match"] == exact
    assert (metrics["cer"] == 0.0) == bool(exact)


# ---- formulas in the report -------------------------------------------------------------------------------------------


def test_the_report_draws_truth_and_answers_where_mathtext_can():
    board = Blackboard()
    truth, base, tuned = board.line(r"$x^{2}$", {"prediction": r"\begin{array}"}, {"prediction": r"x^2"})
    assert truth == tuned
    assert truth.startswith('<img class="formula" src="data:image/png;base64,')
    assert base == Markup('<span class="quiet">cannot be drawn</span>')
    assert board.looks_right("x^{2}", {"prediction": "x^2"}) is True
    assert board.looks_right("x^{2}", {"prediction": "x_2"}) is False
    assert board.looks_right("x^{2}", {"prediction": r"\begin{array}"}) is None
    assert board.line(r"\begin{array}{c}a\end{array}", None, {"prediction": "a"}) is None


@pytest.mark.parametrize("latex", ["", "{" * 50, "x" * 400, "a$b", r"\frac{", "\\", "^", "\x00", "你好", r"\hspace{9999}"])
def test_no_answer_breaks_the_report(latex):
    assert draw(latex) is None or draw(latex).startswith(b"\x89PNG")


def test_delimiters_are_taken_off_before_drawing():
    assert [bare(text) for text in ("$x$", "$$x$$", r"\[ x \]", r"\(x\)", "x", "$")] == ["x", "x", "x", "x", "x", "$"]
