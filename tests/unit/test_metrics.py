"""Metrics against the libraries that define them, on literal rows and on random ones."""

import json
import random

import numpy as np
import pytest

from weitiao.evaluate.bootstrap import gains, intervals
from weitiao.evaluate.confidence import (
    Calibration,
    Threshold,
    confidence_details,
    coverage_curve,
    expected_calibration_error,
    fit_calibration,
    precision_bound,
    reliability,
)
from weitiao.recipe.tasks import Classification, Ner, Ocr
from weitiao.seams import Answer, Entity, Prediction, Record, Sample
from weitiao.tasks import make_task
from weitiao.tasks.latex import normalised, tokens
from weitiao.tasks.wording import bleu, bleu_counts, cider_d, document_frequencies, rouge_l, words

SAID = Answer("", 1, 1, "stop")


def totals(task, predictions, samples):
    rows = [task.counts(prediction, SAID, sample) for prediction, sample in zip(predictions, samples, strict=True)]
    return {name: np.array(sum(row.get(name, 0.0) for row in rows)) for name in {name for row in rows for name in row}}


# ---- words, ROUGE-L, BLEU, CIDEr --------------------------------------------------------------------------------------


def test_words_are_chinese_characters_and_lower_case_runs():
    assert words("GPT-4 翻译按需计费, don't 100%！") == ["gpt", "4", "翻", "译", "按", "需", "计", "费", "don't", "100"]


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("今天天气好", "今天天气很好", 2 * 1.0 * (5 / 6) / (1 + 5 / 6)),
        ("b a", "a b", 0.5),
        ("same words", "same words", 1.0),
        ("", "something", 0.0),
        ("something", "", 0.0),
        ("", "", 1.0),
    ],
)
def test_rouge_l_of_literal_texts(prediction, reference, value):
    assert rouge_l(words(prediction), [words(reference)]) == pytest.approx(value)


def test_rouge_l_equals_the_rouge_score_library():
    from rouge_score.rouge_scorer import RougeScorer

    scorer, draw = RougeScorer(["rougeL"]), random.Random(1)
    for _ in range(50):
        a, b = (" ".join(draw.choices("abcdefg", k=draw.randint(1, 12))) for _ in range(2))
        assert rouge_l(words(a), [words(b)]) == pytest.approx(scorer.score(b, a)["rougeL"].fmeasure)


HYPOTHESES = ["a cat sits on the mat", "two dogs play in the park", "a red bus"]
REFERENCES = [
    ["a cat is sitting on the mat", "the cat sits on a mat"],
    ["two dogs are playing in the park", "dogs play in a park"],
    ["a man rides a horse", "a person on a horse"],
]


def test_cider_and_caption_rouge_equal_the_coco_scorers():
    """The figures are those of pycocoevalcap 1.2 for the same tokens (CiderScorer n=4, sigma=6; Rouge)."""
    frequencies = document_frequencies([words(text) for text in row] for row in REFERENCES)
    pairs = [(words(said), [words(text) for text in row]) for said, row in zip(HYPOTHESES, REFERENCES, strict=True)]
    ciders = [cider_d(said, references, frequencies, 3) for said, references in pairs]
    assert ciders == pytest.approx([3.81229475, 3.8541888, 0.0])
    rouges = [rouge_l(said, references, 1.2) for said, references in pairs]
    assert rouges == pytest.approx([0.7587064676616916, 0.8133333333333334, 0.23921568627450981])


def test_bleu_from_summed_rows_equals_sacrebleu_over_the_corpus():
    import sacrebleu

    draw = random.Random(2)
    said = [" ".join(draw.choices("abc", k=draw.randint(4, 15))) for _ in range(30)]
    references = [[" ".join(draw.choices("abc", k=draw.randint(4, 15))) for _ in said] for _ in range(2)]
    rows = [bleu_counts(text.split(), [stream[i].split() for stream in references]) for i, text in enumerate(said)]
    whole = sacrebleu.BLEU(tokenize="none", smooth_method="none").corpus_score(said, references)
    assert bleu({name: np.array(sum(row[name] for row in rows)) for name in rows[0]}) == pytest.approx(whole.score / 100)


def test_bleu_without_a_matching_four_gram_is_zero_and_never_nan():
    for said in ("", "a", "a b c d"):
        row = bleu_counts(said.split(), [["x", "y", "z", "w"]])
        assert float(bleu({name: np.array(value) for name, value in row.items()})) == 0.0


# ---- LaTeX ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"x ^ 2", r"x^2"),
        (r"\left ( x \right )", r"\left(x\right)"),
        (r"$ \frac{1}{2} $", r"\frac { 1 } { 2 }"),
        ("$$x$$", "x"),
        (r"\[ x \]", "x"),
        (r"\( x \)", "x"),
        (r"x = 1 \label{eq:1}", "x=1"),
        ("x\n + y", "x+y"),
    ],
)
def test_latex_that_is_the_same(one, other):
    assert tokens(one) == tokens(other)


@pytest.mark.parametrize(
    ("one", "other"), [(r"\alpha x", r"\alphax"), ("x^2", "x^{2}"), (r"\left(x\right)", "(x)"), (r"a\ b", "ab"), ("$a$ b $c$", "a b c")]
)
def test_latex_that_is_not_the_same(one, other):
    assert tokens(one) != tokens(other)


def test_normalised_latex_keeps_a_blank_only_where_two_tokens_would_melt():
    assert normalised(r"$ \alpha   x + \beta 2 \, y \operatorname * {max} $") == r"\alpha x+\beta2\,y\operatorname *{max}"


def test_ocr_metrics_equal_jiwer_and_are_exact_on_normalised_latex():
    jiwer = pytest.importorskip("jiwer")
    task = make_task(Ocr(kind="ocr"))
    pairs = [(r"\frac { 1 } { 2 }", r"\frac{1}{2}"), ("x+y", "x-y"), ("", "ab"), ("abcdef", "abc")]
    samples = [Sample(str(i), "", (), truth) for i, (_, truth) in enumerate(pairs)]
    predictions = [task.parse(Answer(said, 1, 1, "stop"), samples[i]) for i, (said, _) in enumerate(pairs)]
    values = task.metrics(totals(task, predictions, samples))
    assert values["exact_match"] == 0.25
    assert values["cer"] == pytest.approx(jiwer.cer([normalised(truth) for _, truth in pairs], [normalised(said) for said, _ in pairs]))
    assert values["cer"] == pytest.approx((0 + 1 + 2 + 3) / (11 + 3 + 2 + 3))
    assert [task.row_scores(p, s)["similarity"] for p, s in zip(predictions, samples, strict=True)] == pytest.approx([1, 2 / 3, 0, 0])


# ---- classification and entities --------------------------------------------------------------------------------------


def test_accuracy_and_macro_f1_equal_scikit_learn():
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    draw = random.Random(3)
    task = make_task(Classification(kind="classification", labels=["a", "b", "c", "d"]))
    truth, said = draw.choices("abc", k=200), draw.choices("abcd", k=200)
    samples = [Sample(str(i), "", (), label) for i, label in enumerate(truth)]
    predictions = [Prediction(label, True) for label in said]
    values = task.metrics(totals(task, predictions, samples))
    assert values["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert values["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
    confusion = task.details(predictions, [SAID] * 200, samples)["confusion"]
    assert confusion["labels"] == ["a", "b", "c", "d"]
    assert confusion["rows_are_the_truth"] == confusion_matrix(truth, said).tolist()


def test_multi_label_metrics_equal_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    draw = random.Random(4)
    task = make_task(Classification(kind="classification", labels=["a", "b", "c"], multi_label=True))
    truth, said = ([[label for label in "abc" if draw.random() < 0.4] for _ in range(100)] for _ in range(2))
    samples = [Sample(str(i), "", (), labels) for i, labels in enumerate(truth)]
    values = task.metrics(totals(task, [Prediction(labels, True) for labels in said], samples))
    binary = MultiLabelBinarizer(classes=["a", "b", "c"])
    wanted, got = binary.fit_transform(truth), binary.fit_transform(said)
    assert values["accuracy"] == pytest.approx(accuracy_score(wanted, got))
    assert values["macro_f1"] == pytest.approx(f1_score(wanted, got, average="macro"))
    assert values["micro_f1"] == pytest.approx(f1_score(wanted, got, average="micro"))


def test_entity_metrics_equal_nervaluate_strict():
    """Spans keep apart: nervaluate takes ends as inclusive, so that for it neighbours would overlap."""
    nervaluate = pytest.importorskip("nervaluate")
    draw = random.Random(5)
    task = make_task(Ner(kind="ner", labels=["PER", "LOC"]))

    def entities():
        spans = {(start, start + 2): draw.choice(["PER", "LOC"]) for start in draw.sample(range(0, 20, 4), draw.randint(0, 5))}
        return [{"start": start, "end": end, "text": "..", "label": label} for (start, end), label in spans.items()]

    truth, said = [entities() for _ in range(60)], [entities() for _ in range(60)]
    samples = [Sample(str(i), "", (), row) for i, row in enumerate(truth)]
    predictions = [Prediction(row, True) for row in said]
    values = task.metrics(totals(task, predictions, samples))
    report = nervaluate.Evaluator(truth, said, tags=["PER", "LOC"], loader="dict").evaluate()
    strict = report["overall"]["strict"]
    assert (values["entity_precision"], values["entity_recall"]) == pytest.approx((strict.precision, strict.recall))
    assert values["entity_f1"] == pytest.approx(strict.f1)
    details = task.details(predictions, [SAID] * 60, samples)
    for label, row in details["types"].items():
        assert row["f1"] == pytest.approx(report["entities"][label]["strict"].f1)
    assert details["rows_without_entities"]["n"] == sum(not row for row in truth)


def test_rows_without_entities_count_where_something_is_invented():
    task = make_task(Ner(kind="ner", labels=["PER"]))
    samples = [task.make_sample(Record("f:1", "1", text="张三来了", entities=(Entity(0, 2, "张三", "PER"),))),
               task.make_sample(Record("f:2", "2", text="下雨了", entities=()))]  # fmt: skip
    said = ['{"entity_text": "张三", "entity_label": "PER"}', '{"entity_text": "李四", "entity_label": "PER"}']
    predictions = [task.parse(Answer(text, 1, 1, "stop"), sample) for text, sample in zip(said, samples, strict=True)]
    assert predictions[1].flags == ("李四: not in the text",)
    values = task.metrics(totals(task, predictions, samples))
    assert (values["entity_precision"], values["entity_recall"]) == (0.5, 1.0)
    assert task.details(predictions, [SAID] * 2, samples)["rows_without_entities"] == {"n": 1, "right": 0}


# ---- bootstrap --------------------------------------------------------------------------------------------------------


def accuracy(sums):
    return {"accuracy": sums["right"] / sums["rows"], "undefined": sums["right"] * np.nan}


def counts(right):
    return {"right": np.array(right, dtype=float), "rows": np.ones(len(right))}


def test_the_interval_of_a_share_is_that_of_its_normal_approximation():
    low, high = intervals(counts([1] * 700 + [0] * 300), accuracy, 4000, seed=1)["accuracy"]
    spread = 1.96 * (0.7 * 0.3 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.7 - spread, 0.7 + spread), abs=0.003)


def test_intervals_depend_on_the_seed_alone_and_survive_what_is_not_defined():
    rows = counts([1, 0, 1, 1, 0, 1] * 50)
    first, again, other = (intervals(rows, accuracy, 300, seed) for seed in (7, 7, 8))
    assert first["accuracy"] == again["accuracy"]
    assert first["accuracy"] != other["accuracy"]
    assert np.isnan(first["undefined"]).all()


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    rows = counts([1, 0, 1, 1, 0, 1])
    whole = intervals(rows, accuracy, 300, seed=7)["accuracy"]
    monkeypatch.setattr("weitiao.evaluate.bootstrap.BLOCK_NUMBERS", 60)
    assert intervals(rows, accuracy, 300, seed=7)["accuracy"] == whole


def test_a_paired_gain_is_narrower_than_two_intervals():
    """Both sides fail on the same rows but for 20 that only the second gets right: the gain is certain, the levels are not."""
    before = counts([1] * 500 + [0] * 500)
    after = counts([1] * 520 + [0] * 480)
    difference, low, high = gains(before, after, accuracy, 2000, seed=1)["accuracy"]
    assert difference == pytest.approx(0.02)
    assert 0.01 < low < 0.02 < high < 0.03
    level_low, level_high = intervals(before, accuracy, 2000, seed=1)["accuracy"]
    assert level_high - level_low > 0.05


# ---- confidence -------------------------------------------------------------------------------------------------------


def scored(confidences, right):
    answers = [Answer("a", 1, 1, "constraint", label_probabilities={"a": p, "b": 1 - p}) for p in confidences]
    return answers, [Sample(str(i), "", (), "a" if ok else "b") for i, ok in enumerate(right)]


def test_reliability_and_calibration_error_of_literal_rows():
    confidence, right = np.array([0.95, 0.95, 0.65, 0.65]), np.array([1.0, 1.0, 1.0, 0.0])
    assert reliability(confidence, right) == [
        {"from": 0.6, "to": 0.7, "n": 2, "confidence": pytest.approx(0.65), "accuracy": 0.5},
        {"from": 0.9, "to": 1.0, "n": 2, "confidence": pytest.approx(0.95), "accuracy": 1.0},
    ]
    assert expected_calibration_error(confidence, right) == pytest.approx((2 * 0.15 + 2 * 0.05) / 4)


def test_the_temperature_mends_probabilities_that_are_too_sure():
    """Labels are drawn with the odds' square root, so the right temperature is 2."""
    draw = np.random.default_rng(6)
    logits = draw.normal(0, 4, size=4000)
    sure = 1 / (1 + np.exp(-logits))
    right = draw.random(4000) < 1 / (1 + np.exp(-logits / 2))
    answers, samples = scored(sure, right)
    calibration = fit_calibration(answers, samples)
    assert calibration.temperature == pytest.approx(2.0, abs=0.15)
    assert calibration.temperature == pytest.approx(likeliest_temperature(logits, right), rel=0.01), "so many rows outweigh the prior"
    table = confidence_details(answers, samples, calibration)["confidence"]
    assert table["ece"] < 0.02 < table["ece_raw"]


def likeliest_temperature(logits, right):
    from scipy.optimize import minimize_scalar

    odds = np.where(right, logits, -logits)
    return float(np.exp(minimize_scalar(lambda log_t: np.logaddexp(0, -odds / np.exp(log_t)).sum(), bounds=(-3, 3), method="bounded").x))


@pytest.mark.parametrize(
    ("n_right", "n_wrong", "temperature"),
    [(1, 0, 0.9659), (10, 0, 0.7878), (40, 0, 0.6104), (0, 1, 1.3086), (36, 4, 1.0)],
    ids=["one right", "ten right", "forty right", "one wrong", "as often as said"],
)
def test_few_rows_leave_the_temperature_near_one(n_right, n_wrong, temperature):
    """Rows of 0.9: T solves n·l·(σ(l/T) - share) = 6·(T - 1), where l = ln 9 and share that of the right rows."""
    answers, samples = scored([0.9] * (n_right + n_wrong), [True] * n_right + [False] * n_wrong)
    found = fit_calibration(answers, samples).temperature
    assert found == pytest.approx(temperature, abs=0.0002)
    n, odds = n_right + n_wrong, np.log(9)
    assert n * odds * (1 / (1 + np.exp(-odds / found)) - n_right / n) == pytest.approx(6 * (found - 1), abs=0.005)


def test_forty_right_rows_neither_run_away_nor_promise_a_precision():
    draw = np.random.default_rng(8)
    valid, test = draw.uniform(0.7, 0.99, 40), draw.uniform(0.7, 0.99, 3000)
    calibration = fit_calibration(*scored(valid, [True] * 40))
    assert 0.5 < calibration.temperature < 0.7
    assert [threshold.confidence for threshold in calibration.thresholds] == [None, None, None]
    rows = scored(test, draw.random(3000) < test)
    table, run_away = (confidence_details(*rows, chosen)["confidence"] for chosen in (calibration, Calibration(0.05, (), 40)))
    assert table["ece"] < 0.75 * run_away["ece"]
    assert table["n_valid"] == 40


def test_the_bound_of_a_precision_is_that_of_clopper_and_pearson():
    from scipy.stats import binomtest

    pairs = [(95, 100), (40, 40), (59, 59), (1, 3)]
    exact = [binomtest(k, n, alternative="greater").proportion_ci(0.95, "exact").low for k, n in pairs]
    assert precision_bound(*np.array(pairs).T) == pytest.approx(exact)
    assert precision_bound(np.array([0]), np.array([5])) == pytest.approx([0.0])


def test_thresholds_are_the_lowest_confidence_that_shows_the_precision():
    """59 right rows show 95 %, 93 with one wrong one do; 92 with one wrong one and 58 right ones do not."""
    confidences = np.linspace(0.99, 0.6, 110)
    right = [place not in (60, 100) for place in range(110)]
    at_95, at_98, at_99 = fit_calibration(*scored(confidences, right)).thresholds
    assert (at_95.precision, at_95.coverage, at_95.reached) == (0.95, 100 / 110, 99 / 100)
    assert (at_98.confidence, at_98.coverage, at_98.reached) == (None, 0.0, None)
    assert at_99.confidence is None
    assert fit_calibration(*scored(confidences[:59], right[:59])).thresholds[0].coverage == 1.0
    assert fit_calibration(*scored(confidences[:58], right[:58])).thresholds[0].confidence is None


def test_thresholds_of_validation_rows_are_tried_on_test_rows():
    calibration = Calibration(1.0, (Threshold(0.95, 0.8, 0.7, 0.99), Threshold(0.98, 0.95, 0.2, 1.0)), 200)
    table = confidence_details(*scored([0.99, 0.6, 0.9], [False, True, True]), calibration)["confidence"]
    assert table["coverage"][0] == {
        "precision": 0.95,
        "confidence": 0.8,
        "valid": {"coverage": 0.7, "precision": 0.99},
        "test": {"coverage": pytest.approx(2 / 3), "precision": 0.5, "n": 2},
    }
    assert [row["precision"] for row in table["coverage"]] == [0.95, 0.98]


def test_a_calibration_is_json_and_is_read_back():
    calibration = Calibration(1.5, (Threshold(0.95, 0.8, 0.7, 0.99), Threshold(0.99, None, 0.0, None)), 200)
    text = json.dumps(calibration.as_json(), allow_nan=False)
    assert Calibration.from_json(json.loads(text)) == calibration
    assert Calibration.from_json(json.loads(text.replace("null", "NaN"))) == calibration


def test_the_coverage_curve_goes_from_the_surest_rows_to_all():
    confidence, right = np.array([0.6, 0.99, 0.8, 0.8]), np.array([0.0, 1.0, 1.0, 0.0])
    assert coverage_curve(confidence, right) == [(0.25, 1.0), (0.75, pytest.approx(2 / 3)), (1.0, 0.5)]
    many = np.linspace(0, 1, 5000)
    assert len(coverage_curve(many, many)) == 200


def test_equal_confidences_are_not_told_apart():
    answers, samples = scored([0.9] * 100, [True] * 90 + [False] * 10)
    assert fit_calibration(answers, samples).thresholds[0].confidence is None
    unreachable = Calibration(1.0, (Threshold(0.95, None, 0.0, None),), 100)
    row = confidence_details(answers, samples, unreachable)["confidence"]["coverage"][0]
    assert row["test"] == {"coverage": 0.0, "precision": None, "n": 0}


def test_answers_without_probabilities_have_no_confidence():
    assert fit_calibration([SAID], [Sample("1", "", (), "a")]) is None
    assert confidence_details([SAID], [Sample("1", "", (), "a")], None) == {}
