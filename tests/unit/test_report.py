"""The report page: its figures, its words, its manners with anything that a run may or may not have left behind."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.report_runs import EVIL, SCORES, make_run

from weitiao.errors import CommandError
from weitiao.report import write_report


class Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tiles = dict(re.findall(r'data-count="(\w+)">([\d,]+)<', html))
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", "extraction")


@pytest.mark.parametrize("kind", list(SCORES))
def test_figures_on_the_page_are_those_of_scores_json(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", kind)
    page = page_of(run)
    shown: dict[tuple[str, str], set[float]] = {}
    for _, attributes in page.elements:
        if "data-metric" in attributes:
            key = (str(attributes["data-side"]), str(attributes["data-metric"]))
            shown.setdefault(key, set()).add(float(str(attributes["data-value"])))
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    expected = {
        (side, name): {value} for side in ("baseline", "tuned") for name, value in scores[side]["metrics"].items() if value is not None
    }
    expected |= {("gain", name): {value[0]} for name, value in scores["gain"].items() if value[0] is not None}
    assert shown == expected


def test_verdict_says_better_with_gain_and_interval(run: Path) -> None:
    text = page_of(run).text
    assert "Better than the base model +35.3 points in Field F1 (95 % interval +29.5 to +41.1): the interval excludes 0." in text
    assert "40 held-out rows" in text
    assert "Started from Qwen/Qwen3-0.6B" in text


def test_verdict_without_proof_says_so(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", "ner")).text
    assert "No proof of a gain +1.0 points in Entity F1 (95 % interval −2.0 to +4.0): the interval includes 0." in text


def test_verdict_of_a_worse_model(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", "ocr")).text
    assert "Worse than the base model −19.0 points in Exact match (95 % interval −28.0 to −10.0)" in text
    assert "Character error rate lower is better 8.0 % 5.0 to 11.0 19.0 % 15.0 to 23.0 +11.0 points +7.0 to +15.0 worse" in text


def test_falling_perplexity_is_better(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", "chat")).text
    assert "Perplexity lower is better 21.46 18.2 to 25.1 3.142 2.8 to 3.6 −18.32 −21.9 to −15.2 better" in text


def test_metric_that_the_recipe_selects_by_is_the_main_one(run: Path) -> None:
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(recipe.replace("evaluate: {}", "evaluate: {select_by: exact_match}"), encoding="utf-8")
    select_by(run, None)
    assert "+70.0 points in Exact match" in page_of(run).text


@pytest.mark.parametrize(
    ("kind", "chosen_by", "headline"),
    [
        ("classification", "macro_f1", "+49.8 points in Macro F1"),
        ("classification", "accuracy", "+43.0 points in Accuracy"),
        ("classification", None, "+49.8 points in Macro F1"),
        ("ocr", "cer", "Worse than the base model +11.0 points in Character error rate"),
        ("ocr", "exact_match", "−19.0 points in Exact match"),
        ("ocr", None, "+11.0 points in Character error rate"),
        ("extraction", "exact_match", "+70.0 points in Exact match"),
        ("extraction", "no_such_metric", "+35.3 points in Field F1"),
    ],
)
def test_the_headline_judges_by_the_metric_that_chose_the_checkpoint(
    tmp_path: Path, kind: str, chosen_by: str | None, headline: str
) -> None:
    run = make_run(tmp_path / "run", kind)
    select_by(run, chosen_by)
    assert headline in page_of(run).text


def select_by(run: Path, metric: str | None) -> None:
    """Record what chose the checkpoint; None for a run that stopped before."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    facts["training"] = {**facts["training"], "select_by": metric}
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")


def scored(run: Path, n: int, **values: Any) -> None:
    """Write both sides' scores anew, as if they were of ``n`` rows."""
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    for side in ("baseline", "tuned"):
        scores[side] |= {"n": n} | values
        (run / side / "scores.json").write_text(json.dumps(scores[side]), encoding="utf-8")
    (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")


def test_few_rows_prove_nothing(run: Path) -> None:
    scored(run, 5)
    text = page_of(run).text
    assert "Better than the base model" not in text
    assert "No proof of a gain" in text
    assert "5 test rows are too few for one, whatever they say; 6 is the least." in text
    scored(run, 6)
    assert "Better than the base model" in page_of(run).text


def test_a_run_without_test_rows_says_so(run: Path) -> None:
    scored(run, 0, metrics={}, intervals={})
    text = page_of(run).text
    assert "No test rows Nothing was measured on held-out rows" in text
    assert "Not scored yet" not in text


def test_answers_cut_off_at_the_limit_are_warned_of(run: Path) -> None:
    text = page_of(run).text
    assert (
        "5.0 % of the base model's answers ran into the limit on new tokens (evaluate.max_new_tokens): they are cut off there, or" in text
    )
    assert "of the tuned model's answers ran" not in text


@pytest.mark.parametrize("kind", list(SCORES))
def test_texts_of_users_stay_texts(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / 'run "with" <b>quotes</b>', kind)
    page = page_of(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert EVIL in "".join(page.texts)
    assert "<b>quotes" not in html


@pytest.mark.parametrize("kind", list(SCORES))
def test_page_needs_nothing_from_outside(tmp_path: Path, kind: str) -> None:
    page = page_of(make_run(tmp_path / "run", kind))
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, attributes)
        assert tag not in {"iframe", "object", "embed", "base", "form"}
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!data:)|@import", html)


def test_answers_that_changed_are_counted_and_shown(run: Path) -> None:
    page = page_of(run)
    # Base right in every fourth row (10 of 40); tuned wrong in rows 7, 8 and 11, of which only 8 was right before.
    assert {name: int(value) for name, value in page.tiles.items() if name in {"fixed", "broken", "right", "wrong"}} == {
        "fixed": 28,
        "broken": 1,
        "right": 9,
        "wrong": 2,
    }
    assert "Right → wrong 1 of 1" in page.text
    assert "Wrong → right 20 of 28" in page.text


def test_worst_answers_come_first(run: Path) -> None:
    worst = page_of(run).text.partition("Worst answers")[2]
    places = [worst.find(origin) for origin in ("complaints.jsonl:12", "complaints.jsonl:8")]
    assert -1 < places[0] < places[1]
    assert "tuned: address: not in the text" in worst
    assert "base: the answer could not be read" not in worst


def test_classification_shows_classes_confusion_and_coverage(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", "classification")).text
    assert "体育 50.0 % 98.0 % 96.0 % 97.0 % 48 1 2" in text
    assert "Commonest mix-ups right label answered rows Enviornment 财经 3" in text
    assert "Expected calibration error 2.1 % (before calibration 6.4 %, temperature 1.37)." in text
    assert "95.0 % 47.1 % 98.5 % 94.9 % 99.0 %" in text
    assert "99.0 % not reached 0.0 % – 0.0 %" in text
    assert "tuned is 69 % sure of 体育, 31 % sure of 财经" in text, "0.75 at a temperature of 1.37"
    assert "for a wanted precision it decides those that reach the confidence. That was chosen on validation rows as the lowest one" in text
    assert "Coverage and precision Share of right answers among the rows decided" in text
    assert "chosen on validation rows: 0.949 at 0.985" in text


def test_rows_that_the_calibration_was_chosen_on_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "classification")
    scores = json.loads((run / "tuned" / "scores.json").read_text(encoding="utf-8"))
    scores["details"]["confidence"]["n_valid"] = 1234
    (run / "tuned" / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    text = page_of(run).text
    assert "temperature 1.37, chosen on 1,234 validation rows)." in text
    assert "That was chosen on 1,234 validation rows as the lowest one from which on they show the precision with 95 % certainty" in text


def test_training_rows_that_look_wrong(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "classification")
    text = page_of(run).text
    assert "200 of 316 training rows were looked at in 12.5 s (evaluate.n_suspects)" in text
    assert "news.jsonl:17 loss 4.605, probability 1.0 %" in text
    assert text.index("news.jsonl:17") < text.index("news.jsonl:4 ")
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    facts["suspects"] |= {"n_found": 0, "out_of_time": True}
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    (run / "suspects.jsonl").write_text("", encoding="utf-8")
    text = page_of(run).text
    assert "in 12.5 s (the search may take a tenth of the training time, or ten seconds" in text
    assert "None of them: the tuned model agrees" in text
    del facts["suspects"]
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    assert "look wrong" not in page_of(run).text


def test_other_tables_of_tasks(tmp_path: Path) -> None:
    entities = page_of(make_run(tmp_path / "ner", "ner")).text
    assert "person 71.0 % 73.0 % 71.0 % 72.0 % 71 26 29 100" in entities
    assert "Rows without entities base tuned rows – 25 left without, as they should be – 22" in entities
    assert "249 rows without entities" in entities
    formulas = page_of(make_run(tmp_path / "ocr", "ocr")).text
    assert "tokens rows base tuned up to 20 30 60.0 % 38.0 % over 100 10 20.0 % 10.0 %" in formulas
    chat = page_of(make_run(tmp_path / "chat", "chat")).text
    assert "Length in characters, on average base tuned truth 13 13 answers 61.5 14.25" in chat


def test_documents_are_shown_with_their_perplexity(run: Path) -> None:
    (run / "recipe.yaml").write_text("task: {kind: text}\n", encoding="utf-8")
    for side, value in (("baseline", 21.5), ("tuned", 3.25)):
        row = {"id": "a", "origin": "laws/1.md:1", "prompt": "", "answer": "", "reference": "第一条 为了规范", "ended_by": "stop"}
        row |= {"prediction": {"perplexity": value}, "scores": {"token_probability": 1 / value}}
        (run / side / "answers.jsonl").write_text(json.dumps(row), encoding="utf-8")
    text = page_of(run).text
    assert (
        "第一条 为了规范 Token probability: base 5 % → tuned 31 % Truth Base Tuned 第一条 为了规范 Perplexity 21.5 Perplexity 3.25" in text
    )


def test_questions_of_the_recipe_stand_side_by_side(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "run", "chat")).text
    assert "特性有什么? Capybara 是一种动物。 多语言、离线、" in text


def test_pictures_are_small_copies_in_the_page(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", "ocr"))
    sources = [str(attributes["src"]) for tag, attributes in page.elements if tag == "img"]
    assert len(sources) >= 20
    assert all(source.startswith("data:image/png;base64,") and len(source) < 20_000 for source in sources)


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "ocr")
    for picture in tmp_path.glob("formula-*.png"):
        picture.unlink()
    assert f"{tmp_path / 'formula-8.png'} (cannot be read any more)" in page_of(run).text


def test_audit_of_the_data(run: Path) -> None:
    page = page_of(run)
    assert (page.tiles["read"], page.tiles["kept"]) == ("400", "395")
    assert "316 train · 80 %" in page.text
    assert "41,234 training tokens 12,345 of these trained 4 rows shortened to fit" in page.text
    assert "complaints.jsonl:9: the answer alone is longer than max_tokens" in page.text
    assert "median 71, 99 % are at most 320, largest 400, smallest 3" in page.text
    assert "broken JSON 2 complaints.jsonl:22, complaints.jsonl:83" in page.text
    assert page.text.index("does not stand in the text") < page.text.index("70 rows ask nearly the same question")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["tuned", "scores.json", "best", "merged"], "The tuned model was not scored"),
        (["baseline", "scores.json"], "No baseline to compare with"),
        (["baseline", "tuned", "scores.json"], "Not scored yet"),
        (["events.jsonl", "evaluations.jsonl"], "No step was logged"),
        (["data.json"], "No data.json: the run stopped before its data was read."),
        (["run.json"], "No run.json."),
        (["baseline/answers.jsonl", "tuned/answers.jsonl"], "No answers yet"),
        (["scores.json"], "No comparison"),
        (["evaluations.jsonl"], "Training loss"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("kind", list(SCORES))
def test_missing_pieces_are_named(tmp_path: Path, kind: str, missing: list[str], said: str) -> None:
    run = make_run(tmp_path / "run", kind)
    for name in missing:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said in page_of(run).text


def test_run_that_has_only_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("task: {kind: ner}\n", encoding="utf-8")
    text = page_of(tmp_path).text
    assert "Not scored yet" in text
    assert f"weitiao run {tmp_path}/recipe.yaml -o {tmp_path} --resume" in text


@pytest.mark.parametrize("broken", ["{", "[1, 2", "null", "[]", '{"metrics": null, "n": 3}', '{"baseline": null, "tuned": {}}'])
def test_broken_files_give_a_page(run: Path, broken: str) -> None:
    for name in ("scores.json", "run.json", "data.json", "baseline/scores.json", "tuned/scores.json"):
        (run / name).write_text(broken, encoding="utf-8")
    text = page_of(run).text
    assert "Not scored yet" in text
    assert ("Not readable: run.json: " in text) == (broken in {"{", "[1, 2"})


def test_line_that_was_cut_off_at_the_end_is_left_out_and_others_are_named(run: Path) -> None:
    events = (run / "events.jsonl").read_text(encoding="utf-8")
    (run / "events.jsonl").write_text(events + '{"step": 121, "lo', encoding="utf-8")
    assert "Not readable" not in page_of(run).text
    (run / "events.jsonl").write_text("{oops\n" + events, encoding="utf-8")
    assert "Not readable: events.jsonl, line 1: Expecting property name" in page_of(run).text


def test_interrupted_run_says_so(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(facts | {"status": "interrupted"}), encoding="utf-8")
    assert "This run was interrupted before its end; what follows is what it left behind." in page_of(run).text


def test_folder_without_recipe_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="this is not a run folder"):
        write_report(tmp_path)


@pytest.mark.parametrize("n_steps", [1, 5, 10_000])
def test_curves_hold_few_and_many_steps(tmp_path: Path, n_steps: int) -> None:
    run = make_run(tmp_path / "run", "extraction", n_steps=n_steps)
    page = page_of(run)
    lines = [str(attributes["points"]).split() for tag, attributes in page.elements if tag == "polyline"]
    assert lines
    assert max(len(line) for line in lines) <= 400
    assert "Training loss" in page.text
    assert (run / "report.html").stat().st_size < 400_000


def test_step_that_was_logged_again_after_a_resume_counts_once(run: Path) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 3, "loss": None}]
    (run / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "3 at the first step, 1.5 at the last" in page_of(run).text


def test_same_run_gives_the_same_page_and_nothing_else(run: Path) -> None:
    first = write_report(run).read_bytes()
    before = sorted(path.name for path in run.iterdir())
    assert write_report(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir()) == before
    assert first.endswith(b"</html>")


def test_share_of_validation_in_the_training_time(run: Path) -> None:
    assert "Validation 25 s (5 % of training)" in page_of(run).text


def test_models_that_score_alike(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    scores["tuned"]["metrics"] = scores["baseline"]["metrics"]
    scores["gain"] = {name: [0.0, 0.0, 0.0] for name in scores["gain"]}
    (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    assert "No difference Both models have the same Field F1" in page_of(run).text


def test_commands_can_be_pasted(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "my run", "extraction")).text
    assert f"weitiao predict '{tmp_path}/my run' -i rows.jsonl -o answers.jsonl" in text
    assert f'AutoModelForCausalLM.from_pretrained("{tmp_path}/my run/merged")' in text
    vision = page_of(make_run(tmp_path / "ocr", "ocr")).text
    assert "AutoModelForImageTextToText" in vision


def test_report_loads_without_torch() -> None:
    code = "import sys, weitiao.report; print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
