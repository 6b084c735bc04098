"""Real data in the shapes that people bring: every file reads by its path alone, and its oddities are found, each with its count."""

import functools
import time
from pathlib import Path

import pytest
from tests.data.rows import SECTION

from weitiao.data import load_samples, propose_recipe
from weitiao.errors import DataError, Problems
from weitiao.recipe import load_recipe
from weitiao.recipe.sections import Data
from weitiao.tasks import make_task

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data folder {DATA}")

COMPLAINT = {"kind": "extraction", "fields": ["name", "address", "email", "question"]}
RECEIPT = {
    "kind": "extraction",
    "fields": {
        "company": {},
        "date": {},
        "address": {"optional": True},
        "total": {"optional": True},
    },
}
FILES = {
    "cls_fudan/dev.jsonl": ({"kind": "classification"}, 1674, "labelled-text (text, label from `output`, candidates from `category`, id)"),
    "cls_thucnews_titles/dev.jsonl": (
        {"kind": "classification"},
        14000,
        "labelled-text (text, label from `output`, candidates from `category`, id)",
    ),
    "ner_ccfbdci/dev.jsonl": ({"kind": "ner"}, 11007, "entities (text, entities)"),
    "ner_weibo/dev.jsonl": ({"kind": "ner"}, 1323, "entities (text, entities, id)"),
    "extract_complaints/dev.jsonl": (COMPLAINT, 210, "alpaca (instruction, answer from `output`, text from `input`, system)"),
    "extract_receipts/dev.jsonl": (RECEIPT, 438, "alpaca (instruction, answer from `output`, text from `input`, id)"),
    "latex_im2latex_images/dev.jsonl": ({"kind": "ocr"}, 840, "image-text (image, answer from `latex`, id)"),
    "caption_coco/dev.jsonl": ({"kind": "caption"}, 58, "image-captions (image, captions, id)"),
    "chat/alpaca_zh_demo.json": ({"kind": "chat"}, 1000, "alpaca (instruction, answer from `output`, text from `input`)"),
    "chat/identity.json": ({"kind": "chat"}, 91, "alpaca (instruction, answer from `output`, text from `input`)"),
    "cpt_text_laws/dev.jsonl": ({"kind": "text"}, 129, "text (text, id)"),
    "capybara/pretrain.json": ({"kind": "text"}, 4, "text (text)"),
    "capybara/raw": ({"kind": "text"}, 4, "text (text)"),
    "capybara/sft_train.json": ({"kind": "chat"}, 4, "messages (messages)"),
}


@functools.cache
def loaded(name):
    section, _, _ = FILES[name]
    return load_samples(Data.model_validate({"train": {"path": str(DATA / name)}}), make_task(SECTION.validate_python(section)), 42)


def finding(name, code):
    return next(found for found in loaded(name).report.findings if found.code == code)


@pytest.mark.parametrize("name", FILES)
def test_every_file_reads_by_its_path_alone(name):
    _, n_rows, shape = FILES[name]
    report = loaded(name).report
    assert report.shape == shape
    assert report.n_read == report.n_kept == n_rows
    assert report.rejected == {}
    assert sum(report.split.values()) == n_rows
    assert [found.code for found in report.findings if found.severity == "error"] == []
    samples = loaded(name)
    assert len({sample.id for part in (samples.train, samples.valid, samples.test) for sample in part}) == n_rows


def test_a_file_of_one_unknown_column_reads_with_the_line_that_the_message_proposes():
    path = DATA / "latex_formulas" / "dev.jsonl"
    task = make_task(SECTION.validate_python({"kind": "text"}))
    with pytest.raises(DataError, match=r"this would make it fit: data.columns: \{text: latex\}"):
        load_samples(Data.model_validate({"train": {"path": str(path)}}), task, 42)
    section = Data.model_validate({"train": {"path": str(path)}, "columns": {"text": "latex"}})
    assert load_samples(section, task, 42).report.n_kept == 12543


@pytest.mark.parametrize("name", [*FILES, "latex_formulas/dev.jsonl", "latex_im2latex_images", "caption_coco"])
def test_a_recipe_is_proposed_for_every_file(name, tmp_path):
    proposal = propose_recipe(str(DATA / name), None)
    (tmp_path / "recipe.yaml").write_text(proposal.text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    if name in FILES:
        assert recipe.task.kind == FILES[name][0]["kind"]
    samples = load_samples(recipe.data, make_task(recipe.task, recipe.data.system), 42)
    assert samples.report.rejected == {}


@pytest.mark.parametrize(("name", "prompt"), [("cls_thucnews_titles", "类型选型:{category},文本:{text}"), ("cls_fudan", None)])
def test_candidates_that_all_rows_share_are_proposed_to_come_first(name, prompt, tmp_path):
    (tmp_path / "recipe.yaml").write_text(propose_recipe(str(DATA / name / "dev.jsonl"), None).text, encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml").task.prompt == prompt


def test_four_documents_can_all_be_trained_on():
    section = Data.model_validate({"train": {"path": str(DATA / "capybara/raw")}, "split": {"valid": 0, "test": 0}})
    report = load_samples(section, make_task(SECTION.validate_python({"kind": "text"})), 42).report
    assert report.split == {"train": 4, "valid": 0, "test": 0}


def test_fudan_headers_name_the_subject_and_classes_are_uneven():
    assert finding("cls_fudan/dev.jsonl", "header-leak").count == 511
    assert finding("cls_fudan/dev.jsonl", "uneven-labels").message == "labels are uneven: from 19 rows (`Communication`) to 147"
    assert sum(loaded("cls_fudan/dev.jsonl").report.statistics["labels"]["Enviornment"].values()) == 147


def test_fudan_dirty_examples():
    section = {"train": {"path": str(DATA / "cls_fudan/dirty_examples.jsonl")}}
    task = make_task(SECTION.validate_python({"kind": "classification"}))
    with pytest.raises(Problems) as caught:
        load_samples(Data.model_validate(section), task, 42)
    assert str(caught.value).splitlines() == [
        "1 of 49 rows cannot be used (2.0%); 1.0% may be left out. Mend them, or allow it: data.allow_dropped: 0.021",
        "the text is empty (1 row)",
        "  dirty_examples.jsonl:35: the text is empty",
    ]
    report = load_samples(Data.model_validate({**section, "allow_dropped": 0.021}), task, 42).report
    found = {finding.code: finding.count for finding in report.findings}
    assert (report.n_read, report.n_kept) == (49, 48)
    assert found["lost-characters"] == 12
    # twelve pairs, and one of the very short texts stands twice
    assert found["duplicate-rows"] == 13


def test_titles_with_lost_characters_and_one_text_with_two_labels():
    assert finding("cls_thucnews_titles/dev.jsonl", "lost-characters").count == 44
    contradicting = finding("cls_thucnews_titles/dev.jsonl", "contradicting-answers")
    assert (contradicting.count, contradicting.origins) == (1, ("dev.jsonl:893", "dev.jsonl:13067"))


def test_ccfbdci_duplicates_and_rows_without_entities():
    duplicates = finding("ner_ccfbdci/dev.jsonl", "duplicate-texts")
    assert duplicates.message == "110 inputs stand more than once (364 surplus rows, 360 of them with the same answer)"
    assert finding("ner_ccfbdci/dev.jsonl", "contradicting-answers").count == 4
    without = loaded("ner_ccfbdci/dev.jsonl").report.statistics["entities"]["rows_without"]
    assert round(without / 11007, 2) == 0.63


def test_weibo_texts_annotated_in_more_than_one_way():
    assert finding("ner_weibo/dev.jsonl", "contradicting-answers").count == 42


def test_complaints_in_fences_with_two_values_not_in_the_text_and_a_family_of_questions():
    assert finding("extract_complaints/dev.jsonl", "value-not-in-text").origins == ("dev.jsonl:22", "dev.jsonl:83")
    assert finding("extract_complaints/dev.jsonl", "value-not-in-text").count == 2
    family = finding("extract_complaints/dev.jsonl", "near-values")
    assert family.message == f"{family.count} values of `question` are near duplicates of one another"
    assert 60 <= family.count <= 80
    assert loaded("extract_complaints/dev.jsonl").train[0].reference.keys() == {"name", "address", "email", "question"}


def test_receipts_with_addresses_that_are_not_verbatim():
    assert finding("extract_receipts/dev.jsonl", "value-not-in-text").count == 52
    rows = loaded("extract_receipts/dev.jsonl")
    references = [sample.reference for part in (rows.train, rows.valid, rows.test) for sample in part]
    assert sum(not reference["total"] for reference in references) == 1
    assert sum(not reference["address"] for reference in references) == 1


def test_formula_images():
    name = "latex_im2latex_images/dev.jsonl"
    assert finding(name, "latex-label").count == 465
    assert finding(name, "latex-comment").count == 33
    assert finding(name, "latex-dollar").count == 12
    assert finding(name, "blank-images").count == 2
    assert loaded(name).report.statistics["images"]["n"] == 840


def test_captions_with_blanks_at_an_end_or_a_newline():
    assert finding("caption_coco/dev.jsonl", "untidy-caption").count >= 32


def test_identity_has_placeholders_left_in():
    assert finding("chat/identity.json", "placeholder").count == 85


def test_an_audit_of_fourteen_thousand_rows_is_quick():
    section = Data.model_validate({"train": {"path": str(DATA / "cls_thucnews_titles/dev.jsonl")}})
    started = time.process_time()
    load_samples(section, make_task(SECTION.validate_python({"kind": "classification"})), 42)
    assert time.process_time() - started < 20
