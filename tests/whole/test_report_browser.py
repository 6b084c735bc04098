"""The report in a real browser: nothing leaves the page, nothing is wider than the screen, the figures are those of scores.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.report_runs import SCORES, make_run

from weitiao.report import write_report

pytestmark = pytest.mark.browser


class Visit:
    """One look at a page, with everything that it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str = "light", javascript: bool = True) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=javascript)
        self.page.route("**/*", self._let_through)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def _let_through(self, route: Any) -> None:
        self.requests.append(route.request.url)
        if route.request.url.startswith(("file:", "data:")):
            route.continue_()
        else:
            route.abort()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", list(SCORES))
def test_page_stays_on_the_machine_and_on_the_screen(browser: Any, tmp_path: Path, kind: str, width: int) -> None:
    page = write_report(make_run(tmp_path / "run", kind))
    visit = Visit(browser, page, width, "dark" if width == 390 else "light")
    outside = [url for url in visit.requests if not url.startswith(("data:", page.as_uri()))]
    assert outside == []
    assert visit.complaints == []
    visit.page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    picture = tmp_path / f"report-{kind}-{width}.png"
    visit.page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 20_000
    visit.page.close()


@pytest.mark.parametrize("kind", list(SCORES))
def test_figures_seen_are_those_of_scores_json(browser: Any, tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", kind)
    visit = Visit(browser, write_report(run), 1280)
    cells = "[...document.querySelectorAll('td[data-metric]')]"
    seen = visit.page.evaluate(cells + ".map((cell) => [cell.dataset.side, cell.dataset.metric, Number(cell.dataset.value)])")
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    expected = [
        [side, name, value] for side in ("baseline", "tuned") for name, value in scores[side]["metrics"].items() if value is not None
    ]
    expected += [["gain", name, values[0]] for name, values in scores["gain"].items() if values[0] is not None]
    assert sorted(seen) == sorted(expected)
    assert visit.page.locator(".big.tuned b").inner_text() == visit.page.locator("td[data-side=tuned]").first.inner_text()
    visit.page.close()


def test_table_is_sorted_by_a_click(browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, write_report(make_run(tmp_path / "run", "extraction")), 1280)
    heads = visit.page.locator("table.sortable thead th")
    heads.nth(1).click()
    names = visit.page.locator("table.sortable tbody th")
    assert names.all_inner_texts() == ["email", "name", "address", "question"]
    heads.nth(1).click()
    assert names.all_inner_texts() == ["question", "address", "name", "email"]
    assert visit.complaints == []
    visit.page.close()


def test_page_is_whole_without_javascript(browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, write_report(make_run(tmp_path / "run", "extraction")), 1280, javascript=False)
    visit.page.locator("details.more summary").first.click()
    assert visit.page.locator("details.more .card-title").first.is_visible()
    assert "weitiao predict" in visit.page.locator("body").inner_text()
    visit.page.close()
