"""The page in a real browser: typing, uploading, reading both answers; and that it asks nothing of any other machine."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.tiny import sentences
from tests.whole.test_export import SYSTEM, make_run

from weitiao import answering, runs
from weitiao.recipe.sections import LoraTuning
from weitiao.seams import Record, Sampling
from weitiao.trying import both_models
from weitiao.web import Shown, open_page
from weitiao.web.views import draw

pytest.importorskip("gradio", reason="the extra `web` is not installed")


def test_what_an_answer_says_is_never_markup() -> None:
    shown = Shown("<b>x</b>", {"name": "<script>alert(1)</script>", "email": None}, True, 0.1, flags=("name: <i>",))
    html = draw(shown, "extraction", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script" not in html
    assert "name: &lt;i&gt;" in html
    assert "<td>–</td>" in html


def test_entities_are_marked_in_the_text() -> None:
    entities = [{"start": 0, "end": 2, "label": "person", "surface": "王伟"}, {"start": 3, "end": 6, "label": "place", "surface": "北京市"}]
    html = draw(Shown("…", entities, True, 0.1), "ner", "王伟在北京市<工作")
    assert '<mark style="background:#bfdbfe">王伟<small>person</small></mark>在' in html
    assert '<mark style="background:#bbf7d0">北京市<small>place</small></mark>&lt;工作' in html


def test_labels_are_bars_in_order() -> None:
    html = draw(Shown("b", "b", True, 0.1, {"a": 0.25, "b": 0.75}), "classification", "")
    assert html.index("<th>b</th>") < html.index("<th>a</th>")
    assert "width:75.0%" in html


def test_an_unreadable_answer_says_so() -> None:
    assert "does not have the form of the task" in draw(Shown("{broken", None, False, 0.1), "extraction", "")


def test_the_base_answers_without_the_adapter(tmp_path: Path) -> None:
    run = make_run(tmp_path, "qwen3", LoraTuning(r=4))
    recipe = {
        "task": {"kind": "extraction", "fields": ["name", "address"]},
        "data": {"train": {"path": "rows.jsonl"}, "system": SYSTEM},
        "model": {"path": str(tmp_path / "base"), "device": "cpu", "dtype": "float32"},
        "evaluate": {"max_new_tokens": 12, "constrained": False},
    }
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    (run / "run.json").write_text(json.dumps({"status": "finished"}), encoding="utf-8")
    (run / "data.json").write_text(json.dumps({"statistics": {}}), encoding="utf-8")
    opened = runs.read_run(run)
    base, tuned, is_vision = both_models(opened)
    (alone, _, _), (whole, _, _) = (answering.embedded_engine(opened, tuned=tuned) for tuned in (False, True))
    other_base, other_tuned, _ = both_models(opened)
    for text in sentences(3):
        sample = answering.task_of(opened)[0].make_sample(Record("typed", "typed", text))
        expected = [dict(engine.generate([sample], Sampling(12)))[0].text for engine in (alone, whole)]
        assert [base(text, None).answer, tuned(text, None).answer, base(text, None).answer] == [*expected, expected[0]]
        assert [other_tuned(text, None).answer, other_base(text, None).answer] == [expected[1], expected[0]]
        assert expected[0] != expected[1]
    assert not is_vision
    assert base("", None).problem


def visit(browser: Any, address: str) -> tuple[Any, list[str], list[str]]:
    requests: list[str] = []
    refused: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: refused.append(message.text) if "Content Security Policy" in message.text else None)
    page.goto(address)
    return page, requests, refused


@pytest.mark.browser
def test_a_typed_text_is_answered_by_both_models(browser: Any) -> None:
    def base(text: str, image: Path | None) -> Shown:
        assert image is None
        return Shown(f"I think {text}", None, False, 0.1)

    def tuned(text: str, image: Path | None) -> Shown:
        assert image is None
        return Shown("{}", {"name": text[:2], "email": None}, True, 0.2)

    with open_page("complaints", "extraction", base, tuned, with_image=False, port=0) as address:
        assert address.startswith("http://127.0.0.1:")
        page, requests, refused = visit(browser, address)
        page.locator("#text textarea").fill("王伟投诉")
        page.locator("#ask").click()
        page.locator("#tuned td", has_text="王伟").wait_for()
        assert "I think 王伟投诉" in page.locator("#base").inner_text()
        assert page.locator("h2").inner_text() == "complaints"
        page.close()
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    assert refused == []


@pytest.mark.browser
def test_an_uploaded_image_is_read_and_its_formula_drawn(browser: Any, tmp_path: Path) -> None:
    from PIL import Image

    seen: list[tuple[int, int]] = []

    def read(_text: str, image: Path | None) -> Shown:
        assert image is not None
        with Image.open(image) as opened:
            seen.append(opened.size)
        return Shown(r"\frac{a}{b}", r"\frac{a}{b}", True, 0.1)

    Image.new("RGB", (40, 20), "white").save(tmp_path / "formula.png")
    with open_page("formulas", "ocr", read, read, with_image=True, port=0) as address:
        page, requests, refused = visit(browser, address)
        page.locator("#image input[type=file]").set_input_files(tmp_path / "formula.png")
        page.locator("#image img").wait_for()
        page.locator("#ask").click()
        page.locator("#tuned-formula .katex").first.wait_for()
        assert page.locator("#tuned .weitiao-text").inner_text() == r"\frac{a}{b}"
        page.close()
    assert seen == [(40, 20)] * 2
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert refused == []


def test_a_page_of_another_name_is_not_let_in() -> None:
    def read(_text: str, _image: Path | None) -> Shown:
        return Shown("a", "a", True, 0.1)

    with open_page("complaints", "extraction", read, read, with_image=False, port=0) as address:
        refused = requests.get(address, headers={"Host": "evil.example"}, timeout=60)
        assert (refused.status_code, refused.text) == (403, "this page answers requests to localhost only")
        port = address.rstrip("/").rpartition(":")[2]
        assert requests.get(address, headers={"Host": f"localhost:{port}"}, timeout=60).status_code == 200


def test_an_uploaded_file_goes_when_the_page_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def read(_text: str, _image: Path | None) -> Shown:
        return Shown("a", "a", True, 0.1)

    with open_page("formulas", "ocr", read, read, with_image=True, port=0) as address:
        sent = requests.post(f"{address}gradio_api/upload", files={"files": ("formula.png", b"not looked at")}, timeout=60)
        (path,) = sent.json()
        assert Path(path).read_bytes() == b"not looked at"
        assert Path(path).is_relative_to(tmp_path)
    end = time.monotonic() + 10
    while Path(path).exists():
        assert time.monotonic() < end, "the upload stays"
        time.sleep(0.1)
